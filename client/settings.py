"""Settings: the environment, read once into a frozen value, with every problem in it reported at the same time.

Neighbours: every verb starts here; what the settings mean on the instance is `functions.userdata`'s and
`client.labels`' matter. Imports `client.errors` only.
"""

import hmac
import re
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple, NoReturn, TypeVar
from urllib.parse import urlsplit

from client import labels
from client.errors import SettingsError

T = TypeVar("T")
D = TypeVar("D")

DEFAULT_ZONE: Final = "ch-gva-2"
DEFAULT_ENDPOINT: Final = "https://api-{zone}.exoscale.com/v2"
DEFAULT_TYPE: Final = "standard.medium"
DEFAULT_MODEL: Final = "granite3.1-dense:8b"
DEFAULT_IDLE_S: Final = 1800
DEFAULT_BOOT_S: Final = 1800
DEFAULT_RETENTION_S: Final = 86400
DEFAULT_LIFETIME_S: Final = 604800
# The newest release (no candidate) among the tags of github.com/ollama/ollama as of 2026-08-21; Docker Hub's
# ollama/ollama carries the same number without the "v".
DEFAULT_IMAGE: Final = "ollama/ollama:0.32.15"

# Whatever these accept ends up in nginx.conf, YAML, JSON or an argument list: nothing that any of them could misread.
ZONE_RE: Final = re.compile(r"[a-z]{2}-[a-z]{2,5}-[0-9]{1,2}")
NAME_RE: Final = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?")
MODEL_RE: Final = re.compile(
    r"[A-Za-z0-9][A-Za-z0-9._-]*(?:/[A-Za-z0-9][A-Za-z0-9._-]*){0,4}(?::[A-Za-z0-9][A-Za-z0-9._-]*)?"
)
IMAGE_RE: Final = re.compile(
    r"[a-z0-9][a-z0-9._-]*(?::[0-9]{1,5})?(?:/[a-z0-9][a-z0-9._-]*)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
    r"(?:@sha256:[0-9a-f]{64})?"
)
KEY_RE: Final = re.compile(r"[A-Za-z0-9_-]{32,128}")
TYPE_RE: Final = re.compile(r"[a-z0-9]+\.[a-z0-9-]+")
# Visible ASCII without the comma, which the header uses, and quotes, which were copied along.
_CREDENTIAL_RE: Final = re.compile(r"[!#-&(-+\--_a-~]{3,256}")


class Secret:
    """A value that only `.reveal()` opens: not str, repr, format, pickle, copy or asdict."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The value itself. Keep it out of every message, log and argument list."""
        return self._value

    def __repr__(self) -> str:
        return "Secret('***')"

    __str__ = __repr__

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and hmac.compare_digest(self._value.encode(), other._value.encode())

    def __hash__(self) -> int:
        return hash((Secret, self._value))

    def __deepcopy__(self, memo: object) -> "Secret":
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("a Secret is not pickled")


class Settings(NamedTuple):
    """What a run is told to do. Times are seconds, sizes GiB, costs per hour in the currency of the account.

    No dataclass: all starts here, and to import dataclasses (with inspect) takes as long as a pass with nothing to do.
    """

    api_key: str
    api_secret: Secret
    zone: str = DEFAULT_ZONE
    zones: tuple[str, ...] | None = None
    endpoint: str = DEFAULT_ENDPOINT
    name: str = "exollama"
    instance_type: str | None = None
    """None: not set, so the smallest authorised type of the standard family that the model fits."""
    template: str = "Linux Ubuntu 22.04 LTS 64-bit"
    disk_gib: int = 50
    model: str = DEFAULT_MODEL
    key: Secret | None = None
    key_handed_out: bool = False
    """Whether `key` came with an instance, and so is for that one only."""
    image: str = DEFAULT_IMAGE
    idle_s: int = DEFAULT_IDLE_S
    max_lifetime_s: int | None = DEFAULT_LIFETIME_S
    boot_s: int = DEFAULT_BOOT_S
    reap_action: str = "destroy"
    retention_s: int = DEFAULT_RETENTION_S
    allowed_cidrs: tuple[str, ...] = ("0.0.0.0/0", "::/0")
    max_hourly_cost: float | None = None

    @classmethod
    def from_env(cls, env: Mapping[str, str], *, credentials: bool = True) -> "Settings":
        """Read the settings from an environment; an empty variable is an unset one.

        `credentials`: whether they are required. Raises SettingsError with one line for each variable that is missing
        or malformed.
        """
        reader = Reader(env)
        zone = reader.get("EXOSCALE_ZONE", _zone, DEFAULT_ZONE)
        zones = reader.get("EXOSCALE_ZONES", _zones, None)
        endpoint = reader.get("EXOSCALE_API_ENDPOINT", _endpoint, DEFAULT_ENDPOINT)
        if zones and zone and zone not in zones:
            default = "" if env.get("EXOSCALE_ZONE") else " (the default)"
            reader.problems.append(
                f"EXOSCALE_ZONE is {zone}{default}, which is not among EXOSCALE_ZONES ({','.join(zones)}): an instance "
                "made there would never be looked at by the reaper. Add it to EXOSCALE_ZONES."
            )
        chosen = env.get("EXOSCALE_OLLAMA_MODEL", "").strip()
        if zones and len(zones) > 1 and "{zone}" not in endpoint:
            reader.problems.append(
                f"EXOSCALE_ZONES names {len(zones)} zones, but EXOSCALE_API_ENDPOINT has no {{zone}} in it, so that "
                "all of them would be the same. Put {zone} where the zone's name belongs."
            )
        model_variable = "EXOSCALE_OLLAMA_MODEL" if chosen else "GARUDA_OLLAMA_MODEL"
        settings = cls(
            api_key=reader.require("EXOSCALE_API_KEY") if credentials else "",
            api_secret=Secret(reader.require("EXOSCALE_API_SECRET") if credentials else ""),
            zone=zone,
            zones=zones,
            endpoint=endpoint,
            name=reader.get("EXOSCALE_INSTANCE_NAME", instance_name, "exollama"),
            instance_type=reader.get("EXOSCALE_INSTANCE_TYPE", _instance_type, None),
            template=reader.get("EXOSCALE_TEMPLATE", _template, "Linux Ubuntu 22.04 LTS 64-bit"),
            disk_gib=reader.get("EXOSCALE_DISK_SIZE", whole("GiB", 10, 51200), 50),
            model=reader.get(model_variable, model_name, DEFAULT_MODEL),
            key=reader.get("EXOSCALE_OLLAMA_KEY", endpoint_key, None, secret=True),
            key_handed_out=key_handed_out(env),
            image=reader.get("EXOSCALE_OLLAMA_IMAGE", _image, DEFAULT_IMAGE),
            idle_s=reader.get("EXOSCALE_IDLE_TIMEOUT", _SECONDS, DEFAULT_IDLE_S),
            max_lifetime_s=reader.get("EXOSCALE_MAX_LIFETIME", _lifetime, DEFAULT_LIFETIME_S),
            boot_s=reader.get("EXOSCALE_BOOT_TIMEOUT", _SECONDS, DEFAULT_BOOT_S),
            reap_action=reader.get("EXOSCALE_REAP_ACTION", _action, "destroy"),
            retention_s=reader.get("EXOSCALE_STOPPED_RETENTION", _SECONDS, DEFAULT_RETENTION_S),
            allowed_cidrs=reader.get("EXOSCALE_ALLOWED_CIDRS", _cidrs, ("0.0.0.0/0", "::/0")),
            max_hourly_cost=reader.get("EXOSCALE_MAX_HOURLY_COST", _cost, None),
        )
        if reader.problems:
            raise SettingsError(*reader.problems)
        return settings


class Reader:
    """Reads variables, and values from elsewhere, and gathers what is wrong with them in `problems`."""

    def __init__(self, env: Mapping[str, str]) -> None:
        self.env = env
        self.problems: list[str] = []

    def get(self, variable: str, parse: Callable[[str], T], default: D, *, secret: bool = False) -> T | D:
        """A variable's value; the default where it is unset or cannot be read.

        A secret's value is never told: what `parse` raises then goes on after the variable's name, like "has a blank".
        """
        value = self.env.get(variable, "").strip()
        return self.read(variable, parse, value, default, secret=secret) if value else default

    def read(self, what: str, parse: Callable[[str], T], value: str, default: D, *, secret: bool = False) -> T | D:
        """What a value says; the default where it cannot be read."""
        try:
            return parse(value)
        except ValueError as error:
            seen = "" if secret else f" is {value[:100]!r}:"
            self.problems.append(f"{what}{seen} {error}")
            return default

    def require(self, variable: str) -> str:
        """A variable's value, which has to be there."""
        value = self.env.get(variable, "").strip()
        if not value:
            self.problems.append(
                f"{variable} is not set: make a key under IAM, Keys in the Exoscale portal and export it."
            )
        elif not _CREDENTIAL_RE.fullmatch(value):
            self.problems.append(
                f"{variable} has characters that no Exoscale key has (or fewer than 3): copy it again, without quotes."
            )
        return value


def key_mark(key: Secret) -> str:
    """What stands beside a key that was handed out (EXOLLAMA_KEY_MARK) and tells it from one of the user's own.

    Part of its hash: of a key of 256 random bits that gives nothing away, and a user's own key gets none.
    """
    import hashlib

    return hashlib.sha256(b"exollama-key-mark-v1\n" + key.reveal().encode()).hexdigest()[:16]


def key_handed_out(env: Mapping[str, str]) -> bool:
    """Whether the key in an environment was handed out with an instance."""
    mark, key = env.get("EXOLLAMA_KEY_MARK", "").strip(), env.get("EXOSCALE_OLLAMA_KEY", "").strip()
    return bool(mark and key) and mark == key_mark(Secret(key))


def has_credentials(env: Mapping[str, str]) -> bool:
    """Whether there is anything to ask the API with."""
    return any(env.get(f"EXOSCALE_API_{part}", "").strip() for part in ("KEY", "SECRET"))


def by_function(env: Mapping[str, str]) -> bool:
    """Whether a function is to be asked instead of the API."""
    return bool(env.get("EXOLLAMA_PROVISION_URL", "").strip()) and not has_credentials(env)


def model_name(value: str) -> str:
    """The name of a model, as `ollama pull` takes it. Raises ValueError."""
    if not MODEL_RE.fullmatch(value) or ".." in value:
        raise ValueError("a model is named like granite3.1-dense:8b or hf.co/user/repository:tag.")
    labels.text(value)
    return value


def instance_name(value: str) -> str:
    """The name of an instance, fit for a host name. Raises ValueError."""
    if not NAME_RE.fullmatch(value):
        raise ValueError("a name has 1 to 63 letters, digits and hyphens, no hyphen at either end.")
    return value


def endpoint_key(value: str) -> Secret:
    """A key for the endpoint. Raises ValueError without repeating it."""
    if not KEY_RE.fullmatch(value):
        raise ValueError(
            f"has {len(value)} characters or some that are not allowed: a key has 32 to 128 of A-Z a-z 0-9 _ -. "
            "Leave it unset to have one generated, or use: openssl rand -hex 32"
        )
    if len(set(value)) < 10:
        raise ValueError(
            "has fewer than 10 distinct characters, which can be guessed. Leave it unset, or use: openssl rand -hex 32"
        )
    return Secret(value)


def _zone(value: str) -> str:
    if not ZONE_RE.fullmatch(value):
        raise ValueError("a zone is named like ch-gva-2 or de-fra-1.")
    return value


def _zones(value: str) -> tuple[str, ...]:
    zones = tuple(dict.fromkeys(part.strip() for part in value.split(",")))
    for zone in zones:
        _zone(zone)
    return zones


def _endpoint(value: str) -> str:
    try:
        if not urlsplit(value).query:
            return web_address(value)
    except ValueError:
        pass
    raise ValueError(
        f"an endpoint looks like {DEFAULT_ENDPOINT}; plain http is for this machine's loopback only, else use https."
    )


def web_address(value: str) -> str:
    """An https URL, or an http one of this machine's loopback.

    Raises ValueError without repeating any of it: some carry a key.
    """
    try:
        parts = urlsplit(value.replace("{zone}", "zone"))
        extra = parts.fragment or parts.username or parts.port == 0
    except ValueError:  # a bad port, or brackets around what is no address
        parts, extra = urlsplit(""), True
    host = parts.hostname or ""
    if extra or parts.scheme not in ("https", "http") or not re.fullmatch(r"[a-z0-9.:-]+", host):
        raise ValueError("is no https address: one looks like https://functions.example.org/provision")
    if parts.scheme == "http" and not (host in ("localhost", "::1") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host)):
        raise ValueError("begins with http: plain http is for this machine's loopback only; use https.")
    return value.rstrip("/")


def _instance_type(value: str) -> str:
    if not TYPE_RE.fullmatch(value):
        raise ValueError("a type is named like standard.medium (family.size).")
    return value


def _template(value: str) -> str:
    if len(value) > 255 or not value.isprintable():
        raise ValueError('a template is a name like "Linux Ubuntu 22.04 LTS 64-bit" or an id.')
    return value


def _image(value: str) -> str:
    if not IMAGE_RE.fullmatch(value) or len(value) > 255:
        raise ValueError(f"an image is named like {DEFAULT_IMAGE}")
    return value


def whole(unit: str, least: int, most: int) -> Callable[[str], int]:
    """What reads a whole number of a unit between two bounds, and raises ValueError."""

    def parse(value: str) -> int:
        number = int(value) if re.fullmatch(r"[+-]?[0-9]{1,18}", value) else None
        if number is None or not least <= number <= most:
            raise ValueError(f"a whole number of {unit} from {least} to {most} is expected.")
        return number

    return parse


_SECONDS: Final = whole("seconds", 1, labels.MAX_SECONDS)


def _lifetime(value: str) -> int | None:
    if value == "none":
        return None
    try:
        return _SECONDS(value)
    except ValueError as error:
        raise ValueError(f"{error} Or the word none, for no deadline at all.") from None


def _action(value: str) -> str:
    if value not in ("destroy", "stop"):
        raise ValueError("destroy or stop is expected.")
    return value


def _cidrs(value: str) -> tuple[str, ...]:
    import ipaddress

    networks = []
    for part in value.split(","):
        try:
            networks.append(ipaddress.ip_network(part.strip()))
        except ValueError as error:
            raise ValueError(
                f"networks like 203.0.113.0/24 or 2001:db8::/32, comma-separated, are expected: {error}."
            ) from None
    return tuple(sorted({str(network) for network in networks}))


def _cost(value: str) -> float:
    cost = float(value) if re.fullmatch(r"[0-9]{1,6}(\.[0-9]{1,6})?", value) else 0.0
    if cost <= 0:
        raise ValueError("a price per hour above 0, like 0.25, is expected.")
    return cost
