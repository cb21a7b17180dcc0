# /// script
# requires-python = ">=3.11"
# dependencies = ["nox[uv]>=2025.10.14"]
# ///
"""Everything that is run over this project: `nox -s demo`, `nox -s tests`, and so on; `nox -l` lists them.

Without nox: `uv run noxfile.py -s tests` or `pipx run 'nox[uv]' -s tests`.
"""

import os
import shutil
import tempfile
from pathlib import Path

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
SHELL = [".ci/run", "deploy/github/start.sh"]
GITHUB = [f"deploy/github/{name}.yml" for name in ("action", "example-workflow", "reap")]
KUBERNETES = ["1.29", "1.37"]  # the oldest and the newest whose schemas deploy/'s manifests are held to
MOST_WORKERS = 4
DEALT = ["--dist", "loadfile", "--no-loadscope-reorder"]  # whole files, in the order that tests/conftest.py gives them

nox.needs_version = ">=2025.10.14"
nox.options.default_venv_backend = "uv|virtualenv"
nox.options.reuse_venv = "yes"
nox.options.download_python = "never"
nox.options.error_on_missing_interpreters = True  # a silent skip otherwise
nox.options.sessions = ["tests"]


def install(session: nox.Session, *groups: str, runtime: bool = True) -> None:
    """Install the runtime dependency and the groups, not the project: what is run is the checkout."""
    session.install(
        *(PROJECT["project"]["dependencies"] if runtime else ()),
        *nox.project.dependency_groups(PROJECT, *groups),
    )


def real_model(session: nox.Session) -> list[str]:
    """The group with a real model, where an argument asks for one."""
    return ["realmodel"] if "--real-model" in session.posargs else []


def workers() -> list[str]:
    """What makes pytest deal its files out, to one worker per processor: with more, what is timed gets too little."""
    processors = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if processors == 1:
        return []
    return ["--numprocesses", str(min(processors, MOST_WORKERS)), *DEALT]


@nox.session
def demo(session: nox.Session) -> None:
    """Show the whole life of an instance on a simulated zone: provision, generate, idle, reaped."""
    install(session, "simulator", *real_model(session))
    session.run("python", "-m", "tests.demo", *session.posargs)


@nox.session
def simulator(session: nox.Session) -> None:
    """Serve a simulated Exoscale zone and print what to paste into another terminal; Ctrl-C ends it."""
    install(session, "simulator", *real_model(session))
    patience_s = 30.0  # after Ctrl-C, which it hears of itself, and ends well
    session.run("python", "-m", "tests.simulator", *session.posargs, interrupt_timeout=patience_s)


@nox.session
def tests(session: nox.Session) -> None:
    """Run every test, on several workers; arguments after -- go to pytest instead of these."""
    install(session, "test", "runtimes")
    session.run("python", "-X", "dev", "-m", "pytest", *(session.posargs or workers()))


@nox.session
def lint(session: nox.Session) -> None:
    """Check style, formatting and shell scripts."""
    install(session, "lint", runtime=False)
    session.run("ruff", "check", *session.posargs)
    session.run("ruff", "format", "--check")
    session.run("shellcheck", *SHELL)
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-actions", GITHUB[0])
    session.run("check-jsonschema", "--builtin-schema", "vendor.github-workflows", *GITHUB[1:])
    session.run("zizmor", "--offline", "--no-progress", "--config", "deploy/github/zizmor.yml", *GITHUB)
    gitlab = ["vendor.gitlab-ci", "--data-transform", "gitlab-ci", "deploy/gitlab/exollama.gitlab-ci.yml"]
    session.run("check-jsonschema", "--builtin-schema", *gitlab)
    session.run("hadolint", "deploy/docker/Dockerfile")
    session.run("check-jsonschema", "--builtin-schema", "vendor.compose-spec", "deploy/docker/compose.yaml")
    for version in KUBERNETES:
        manifests = sorted(map(str, (ROOT / "deploy/kubernetes").glob("[!k]*.yaml")))
        session.run("kubernetes-validate", "--strict", "--quiet", "-k", version, *manifests)


@nox.session
def types(session: nox.Session) -> None:
    """Check types, strictly and tests included; what runs on the instance as its oldest Python sees it."""
    install(session, "test", "runtimes", "types")
    session.run("mypy", *session.posargs)
    session.run("mypy", "deploy/faas")
    session.run("mypy", "docs/examples")
    for script in sorted((ROOT / "cloudinit").glob("*.py")):
        session.run("mypy", "--python-version", "3.10", f"cloudinit/{script.name}")


@nox.session(venv_backend="uv")
def minimums(session: nox.Session) -> None:
    """Run the unit and contract tests with the oldest releases that pyproject.toml admits."""
    session.install("--resolution", "lowest-direct", "-r", "pyproject.toml", "--group", "test")
    session.run("uv", "pip", "list", "--format", "freeze", external=True)
    session.run("python", "-X", "dev", "-m", "pytest", "tests/unit", "tests/contract", *session.posargs)


@nox.session
def wheel(session: nox.Session) -> None:
    """Build sdist and wheel, then check what was built, away from the checkout."""
    install(session, "test")
    session.install("build")
    away = Path(tempfile.mkdtemp(prefix="exollama-wheel-"))
    try:
        session.run("python", "-m", "build", "--outdir", str(away))  # the wheel is built from the sdist
        (built,) = away.glob("*.whl")
        session.run("python", "deploy/faas/bundle.py", str(away / "bundle.zip"))
        shutil.unpack_archive(away / "bundle.zip", away / "bundle")
        whats = {"installed": [str(built)], "editable": ["-e", str(ROOT)], "knative": [str(away / "bundle")]}
        for name, what in whats.items():
            session.run("python", "-m", "venv", str(away / name))
            session.run(str(away / name / "bin/pip"), "install", "-q", *what, external=True)
        action = ROOT / "deploy/github"
        runner = {"RUNNER_TEMP": away, "GITHUB_PATH": away / "github-path", "GITHUB_ACTION_PATH": action}
        env = {name: str(path) for name, path in runner.items()} | {"PYTHON": "python"}
        session.run("bash", str(action / "start.sh"), "install", env=env, external=True)
        session.env["EXOLLAMA_DIST"] = str(away)
        session.run("python", "-m", "pytest", "tests/packaging/built.py", *session.posargs)
        session.run("python", "-m", "pytest", "tests/packaging/image.py", *session.posargs)
    finally:
        shutil.rmtree(away)


@nox.session
def bundle(session: nox.Session) -> None:
    """Build the zip that function platforms take as it is, dist/exollama-faas.zip or the file named after --."""
    install(session)
    session.run("python", "deploy/faas/bundle.py", *session.posargs)


@nox.session
def search(session: nox.Session) -> None:
    """Search the protocols over larger casts than the tests do, for some minutes; arguments name casts."""
    install(session, "test")
    session.run("python", "-m", "tests.search", *session.posargs)
    if not session.posargs:
        session.run("python", "-m", "pytest", "tests/search", "-k", "walk", env={"EXOLLAMA_WALKS": "10000"})


@nox.session
def faults(session: nox.Session) -> None:
    """Let every fault befall every call, kill between any two, hammer the fence and soak the forwarder for minutes."""
    install(session, "test")
    env = {"EXOLLAMA_FAULTS": "all", "EXOLLAMA_FENCE_REQUESTS": "5000", "EXOLLAMA_SOAK_REQUESTS": "15000"}
    files = ["test_faults_everywhere.py", "test_kills_everywhere.py", "test_fence.py", "test_forwarder_soak.py"]
    session.run("python", "-X", "dev", "-m", "pytest", *(f"tests/system/{file}" for file in files), env=env)


@nox.session
def parity(session: nox.Session) -> None:
    """Take features of the original module out, one at a time: a test of its row has to fail; arguments name rows."""
    install(session, "test")
    session.run("python", "-m", "tests.parity.taken_out", *session.posargs)


@nox.session
def fuzz(session: nox.Session) -> None:
    """Compare what reads HTTP with h11 over 200,000 messages for some minutes; a number makes it so many."""
    install(session, "test")
    env = {"EXOLLAMA_FUZZ": session.posargs[0] if session.posargs else "200000"}
    session.run("python", "-m", "pytest", "tests/unit/test_http1_fuzz.py", env=env)


@nox.session
def benchmarks(session: nox.Session) -> None:
    """Measure start-up, idle and large reaping passes as ratios in one run; fails where a bound is missed."""
    install(session, "simulator", "lambda")
    session.run("python", "-m", "tests.benchmarks", *session.posargs)


@nox.session
def forwarder_benchmarks(session: nox.Session) -> None:
    """Measure the forwarder beside nginx, some minutes on two processors; fails where a bound is missed."""
    install(session, "test")  # PyPI's ollama asks, too
    session.run("python", "-m", "tests.benchmarks.forwarding", *session.posargs)


# Of LiteLLM exactly this release, and of what it needs none newer: 1.82.7 and 1.82.8 were malicious
# (github.com/BerriAI/litellm, issue 24512), and 1.107.0 of October 2026 is said to have been, and is withdrawn.
RIVALS = {
    "mitmproxy": ["mitmproxy>=11"],
    "litellm": ["--only-binary", ":all:", "--exclude-newer", "2026-09-01", "litellm[proxy]==1.99.0"],
}


@nox.session(venv_backend="uv")
def forwarder_rivals(session: nox.Session) -> None:
    """Measure the forwarder beside mitmproxy and LiteLLM, which are installed for this only; without bounds."""
    install(session, "simulator")
    folder = Path(session.create_tmp()).absolute()
    for name, what in RIVALS.items():
        python = folder / name / "bin/python"
        session.run_install("uv", "venv", "--quiet", "--allow-existing", str(folder / name), external=True)
        # One that cannot be installed is said to be missing; the others are measured.
        may_fail = range(256)
        session.run_install(
            "uv", "pip", "install", "-q", "-p", str(python), *what, external=True, success_codes=may_fail
        )
    given = [f"--{name}={folder / name}" for name in RIVALS]
    session.run("python", "-m", "tests.benchmarks.forwarding.rivals", *given, *session.posargs)


@nox.session
def boot(session: nox.Session) -> None:
    """Boot the user-data in virtual machines for an hour, as root on Debian; or `-- timeline --runs 3`."""
    install(session, "test")
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    if missing := str(session.run("python", "-m", "tests.boot.image", "--missing", silent=True)).split():
        session.run("apt-get", "update", "-qq", external=True)
        quiet = {"DEBIAN_FRONTEND": "noninteractive"}
        command = ["apt-get", "install", "-y", "-qq", "--no-install-recommends", *missing]
        session.run(*command, external=True, env=quiet)
    env = {"EXOLLAMA_BOOT_CACHE": str(session.cache_dir.absolute() / "boot"), "PATH": path}
    session.run("python", "-m", "tests.boot.image", env=env)
    if session.posargs[:1] == ["timeline"]:
        session.run("python", "-m", "tests.boot", *session.posargs[1:], env=env)
        return
    files = ["tests/boot/unattended.py", "tests/boot/life.py", "tests/boot/failures.py"]
    two = ["--numprocesses", "2", *DEALT, *files]
    session.run("python", "-X", "dev", "-m", "pytest", "-rP", *(session.posargs or two), env=env)


@nox.session
def realmodel(session: nox.Session) -> None:
    """Have a real model answer through forwarder, TLS and nginx: counts, times, leaving; not what it says."""
    install(session, "test", "realmodel")
    files = [f"tests/real_model/{name}.py" for name in ("counting", "programs", "leaving")]
    session.run("python", "-X", "dev", "-m", "pytest", *(session.posargs or files))


@nox.session
def live(session: nox.Session) -> None:
    """Look, with an account and for a few cents, at what only an account can show; refuses without --budget."""
    install(session, "simulator")
    patience_s = 1000.0  # after Ctrl-C, which it hears of itself, and removes what it made
    session.run("python", "-m", "tests.live", *session.posargs, interrupt_timeout=patience_s)


if __name__ == "__main__":
    os.chdir(ROOT)
    nox.main()
