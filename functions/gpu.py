"""What is particular about GPU types: the driver, the templates, whether a model fits, and why one is not to be had.

Facts of the families are in `client/prices.json`, dated. Neighbours: `functions.plan` asks, cloudinit/gpu.py installs.
No I/O.
"""

import re
from collections.abc import Mapping
from typing import Any, Final

from client import prices
from client.errors import ExollamaError
from functions import fit

_QUOTA: Final = (
    "Quotas of GPU types start at 0, per family: the portal shows them under Organization, Quotas, and Exoscale's "
    "support raises them on request (say family, number of cards and zone)."
)
# community.exoscale.com, "Limits and Quotas" of Dedicated Inference, which has the quotas of GPU types.
_CERTIFICATE: Final = " The RTX Pro 6000 also needs the GPU End-User Certificate signed, under Organization, Legal."
# Exoscale's names of public templates.
_TEMPLATE_RE: Final = re.compile(r"\bUbuntu (22|24|26)\.04\b")
# One branch does for all: the last with Pascal and Volta (the OpenAPI document's `gpu`, and gpu2), and new enough for
# Blackwell's RTX Pro 6000. Open modules are the only ones for Blackwell and cannot drive those two (docs.nvidia.com,
# driver installation guide, "Kernel Modules"); Ampere runs with either, and others ran it on Exoscale with proprietary
# ones. A family of the future gets the open ones. Packages of both kinds are in the archives of Ubuntu 22.04, 24.04 and
# 26.04 (packages.ubuntu.com, November 2026).
_BRANCH: Final = "580-server"
_PROPRIETARY: Final = frozenset({"gpu", "gpu2", "gpu3", "gpua30", "gpua5000", "gpu3080ti"})


def is_gpu(name: str) -> bool:
    """Whether a type's name, `family.size`, is that of one with graphics cards."""
    return name.startswith("gpu")


def driver(name: str) -> str | None:
    """The end of the driver packages' names for a type; None for one without graphics cards."""
    if not is_gpu(name):
        return None
    return _BRANCH if _family(name) in _PROPRIETARY else f"{_BRANCH}-open"


def quota(name: str) -> str:
    """How to be allowed to use a type, in sentences."""
    if not is_gpu(name):
        return "Ask Exoscale's support for it."
    return _QUOTA + (_CERTIFICATE if _family(name) == "gpurtx6000pro" else "")


def check_template(template: Mapping[str, Any], name: str) -> None:
    """Raise ExollamaError where no driver is known for a public template; a private one's name may say nothing."""
    title = str(template.get("name"))
    if is_gpu(name) and template.get("visibility") != "private" and not _TEMPLATE_RE.search(title):
        raise ExollamaError(
            f"No GPU driver is known for the template {title!r}, so {name} would be paid for nothing. Set "
            'EXOSCALE_TEMPLATE="Linux Ubuntu 24.04 LTS 64-bit", or the one of 22.04 or 26.04. Nothing was created.'
        )


def misfit(instance_type: Mapping[str, Any], name: str, model: str) -> str | None:
    """A warning that the cards of a type do not hold a model, or None where they do or it cannot be told."""
    weights = fit.weights_bytes(model)
    family = prices.gpu_family(_family(name))
    cards = int(instance_type.get("gpus") or 0)
    if weights is None or not family or not cards:
        return None
    need, have = weights * (1 + fit.CONTEXT_SHARE) / fit.GIB, cards * family["card_gib"]
    if need <= have:
        return None
    return (
        f"Warning: {model} needs about {need:.0f} GiB by its tag, and {name} has {cards} x {family['card']} with "
        f"{have} GiB in all: part of it will run on the processor, many times slower."
    )


def unavailable(name: str, zone: str) -> str:
    """Why a GPU type may be missing in what the API lists of a zone, and where its family was seen."""
    family = prices.gpu_family(_family(name))
    seen = f"was seen in {', '.join(family['zones'])}" if family else "is not known here"
    return (
        f"There is no type {name} for this account in {zone}: either the zone has none, or the account is not "
        f"authorised for it, since Exoscale lists only what one may use. The family {_family(name)} {seen} (as of "
        f"{prices.listed()['as_of']}). {quota(name)}"
    )


def _family(name: str) -> str:
    return name.partition(".")[0]
