"""The disk of the machines: Debian with systemd, a kernel and cloud-init, and nothing that user-data itself installs.

What it has beside those is what Ubuntu's cloud images have as well, as far as bootstrap.py calls it: curl, openssl,
certificates, gpg, iptables. Built once, and again when this file or guest/ changes.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.boot.network import NAMES, REGISTRY

CACHE = "EXOLLAMA_BOOT_CACHE"  # the variable that names the folder of built images

GUEST = Path(__file__).parent / "guest"
SUITE = "bookworm"
MIRROR = "http://deb.debian.org/debian"
SECURITY = "http://deb.debian.org/debian-security"
DISK = "8G"
PACKAGES = "cloud-init dbus linux-image-cloud-amd64 python3-minimal systemd systemd-sysv udev".split()
PACKAGES += "ca-certificates curl gpg iproute2 iptables locales openssl sudo".split()
PROGRAMS = {"debootstrap": "debootstrap", "mke2fs": "e2fsprogs", "qemu-img": "qemu-utils"}
PROGRAMS |= {
    "qemu-system-x86_64": "qemu-system-x86 seabios ipxe-qemu",
    "unshare": "util-linux",
    "setpriv": "util-linux",
}
"""What building and booting call, and in which of Debian's packages it is, with those that it needs beside it."""

FILES = {
    "etc/apt/sources.list": f"deb {MIRROR} {SUITE} main\ndeb {MIRROR} {SUITE}-updates main\n"
    f"deb {SECURITY} {SUITE}-security main\n",
    "etc/fstab": "/dev/vda / ext4 defaults 0 1\n",
    "etc/default/locale": "LANG=C.UTF-8\n",
    "etc/hostname": "instance\n",
    "etc/hosts": "127.0.0.1 localhost\n127.0.1.1 instance\n",
    "etc/resolv.conf": f"nameserver {NAMES}\n",
    # Docker's registry cannot be reached from everywhere; what Docker asks of it, it asks of this one first.
    "etc/docker/daemon.json": f'{{"registry-mirrors": ["http://{REGISTRY}:5000"]}}\n',
}


class Missing(Exception):
    """What the machine that builds lacks, and how to get it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """A built disk, with its kernel outside of it, as QEMU starts that."""

    disk: Path
    kernel: Path
    initrd: Path
    python: Path
    """A tree with Python and what it needs, for a container."""


def build() -> Image:
    """The image, from the cache where it was built before. Raises Missing, and RuntimeError with apt's last words."""
    cache = Path(os.environ.get(CACHE) or Path(tempfile.gettempdir()) / "exollama-images")
    if packages := missing():
        raise Missing(f"programs are missing: apt-get install --no-install-recommends {packages}")
    recipe = hashlib.sha256(Path(__file__).read_bytes())
    for file in sorted(GUEST.iterdir()):
        recipe.update(file.read_bytes())
    folder = cache / recipe.hexdigest()[:16]
    image = Image(
        disk=folder / "disk.img",
        kernel=folder / "vmlinuz",
        initrd=folder / "initrd.img",
        python=folder / "python",
    )
    if folder.exists():
        return image
    if os.geteuid() != 0:
        raise Missing("debootstrap has to run as root: start this with sudo")
    shutil.rmtree(cache, ignore_errors=True)  # what was built by another recipe
    cache.mkdir(parents=True)
    with _draft(cache) as draft:
        root = draft / "root"
        _run(["debootstrap", "--variant=minbase", SUITE, str(root), MIRROR])
        _install(root)
        _furnish(root)
        shutil.copy(next((root / "boot").glob("vmlinuz-*")), draft / "vmlinuz")
        shutil.copy(next((root / "boot").glob("initrd.img-*")), draft / "initrd.img")
        _python(root, draft / "python")
        _run(["mke2fs", "-q", "-t", "ext4", "-d", str(root), str(draft / "disk.img"), DISK])
        shutil.rmtree(root)
        draft.rename(folder)
    return image


@contextmanager
def _draft(cache: Path) -> Iterator[Path]:
    """A folder beside the finished one, gone where building fails."""
    draft = Path(tempfile.mkdtemp(prefix="draft-", dir=cache))
    try:
        yield draft
    finally:
        shutil.rmtree(draft, ignore_errors=True)


def _install(root: Path) -> None:
    """With apt, since debootstrap's own way with dependencies does not reach as far as cloud-init's."""
    (root / "etc/apt/sources.list").write_text(FILES["etc/apt/sources.list"])
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
    unsafe = "-o DPkg::Options::=--force-unsafe-io"
    quiet = f"env DEBIAN_FRONTEND=noninteractive apt-get -q -y {unsafe} --no-install-recommends".split()
    _run(["chroot", str(root), *quiet, "update"])
    _run(["chroot", str(root), *quiet, "upgrade"])
    _run(["chroot", str(root), *quiet, "install", *PACKAGES])


def _furnish(root: Path) -> None:
    for name, text in FILES.items():
        file = root / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.unlink(missing_ok=True)
        file.write_text(text)
    place = root / "usr/local/lib/test"
    place.mkdir(parents=True)
    for file in GUEST.iterdir():
        shutil.copy(file, root / "etc/systemd/system" if file.suffix == ".service" else place)
    _run(["chroot", str(root), "systemctl", "enable", "-q", "hand.service", "mischief.service"])
    _run(["chroot", str(root), "systemctl", "enable", "-q", "systemd-networkd.service"])  # what cloud-init configures
    _run(["chroot", str(root), "apt-get", "clean"])
    for lists in (root / "var/lib/apt/lists").iterdir():  # as in cloud images, whose lists are old or none
        if lists.is_file():
            lists.unlink()


def _python(root: Path, tree: Path) -> None:
    """Python from the image, with the libraries that it and its modules load."""
    (version,) = (root / "usr/lib").glob("python3.?*")
    shutil.copytree(version, tree / version.relative_to(root), ignore=shutil.ignore_patterns("__pycache__", "test"))
    (tree / "usr/bin").mkdir(parents=True)
    shutil.copy(root / "usr/bin" / version.name, tree / "usr/bin")
    modules = [str(file.relative_to(root)) for file in (version / "lib-dynload").glob("*.so")]
    listed = _run(["chroot", str(root), "ldd", f"usr/bin/{version.name}", *modules])
    libraries = {word for word in listed.split() if word.startswith("/") and not word.endswith(":")}
    for library in sorted(libraries):
        target = tree / library.lstrip("/")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy((root / library.lstrip("/")).resolve(), target)


def missing() -> str:
    """The packages whose programs this machine lacks, with blanks between them."""
    return " ".join(packages for program, packages in PROGRAMS.items() if not shutil.which(program, path=_path()))


def _path() -> str:
    return f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"


def _run(command: list[str]) -> str:
    env = {**os.environ, "PATH": _path(), "LC_ALL": "C.UTF-8"}
    alone = ["unshare", "--mount", "--propagation", "private"]  # what is mounted meanwhile, as /proc, goes with it
    done = subprocess.run([*alone, *command], env=env, capture_output=True, text=True, timeout=900, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} ended with {done.returncode}:\n{(done.stdout + done.stderr)[-3000:]}")
    return done.stdout


if __name__ == "__main__":
    print(missing() if sys.argv[1:] == ["--missing"] else f"the disk: {build().disk}")
