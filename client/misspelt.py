"""Variables that nothing reads, with a name near a setting's: a limit that is misspelt would be no limit, unnoticed.

Neighbours: `client.verbs` tells, so it is the command line's alone; a test holds KNOWN to docs/settings.md. No I/O.
"""

import re
from collections.abc import Iterable, Iterator
from typing import Final

KNOWN: Final = frozenset(
    [f"EXOLLAMA_{rest}" for rest in "CACERT FUNCTION_TIMEOUT FUNCTION_TOKEN INSTANCE_ID KEY_MARK".split()]
    + [f"EXOLLAMA_{rest}" for rest in "PROVISION_URL SERVE_TOKEN URL".split()]
    + [f"EXOSCALE_{rest}" for rest in "ALLOWED_CIDRS API_ENDPOINT API_KEY API_SECRET BOOT_TIMEOUT DISK_SIZE".split()]
    + [f"EXOSCALE_{rest}" for rest in "IDLE_TIMEOUT INSTANCE_NAME INSTANCE_TYPE MAX_HOURLY_COST MAX_LIFETIME".split()]
    + [f"EXOSCALE_{rest}" for rest in "OLLAMA_IMAGE OLLAMA_KEY OLLAMA_MODEL REAP_ACTION STOPPED_RETENTION".split()]
    + [f"EXOSCALE_{rest}" for rest in "TEMPLATE ZONE ZONES".split()]
)
"""What is read, and what is handed out."""
# Of Exoscale's own programs: `exo environment` lists them; its Terraform provider and its controllers read the rest.
_THEIRS: Final = frozenset(
    f"EXOSCALE_{rest}"
    for rest in (
        "ACCOUNT API_CREDENTIALS_FILE API_ENVIRONMENT API_TIMEOUT COMPUTE_API_ENDPOINT COMPUTE_ENDPOINT CONFIG "
        "DNS_ENDPOINT KEY ORGANIZATION SECRET SECRET_KEY SOS_ENDPOINT STORAGE_API_ENDPOINT TIMEOUT TRACE"
    ).split()
)
_OURS: Final = re.compile(r"(?:EXOSCALE|EXOLLAMA)_\w{1,60}", re.ASCII)
_NEAR: Final = 0.65
"""As difflib measures it, without the prefix that all share."""


def warnings(names: Iterable[str]) -> Iterator[str]:
    """A sentence for each of the variables' names that is nearly one of KNOWN; none has a value in it."""
    unread = sorted(name for name in names if _OURS.fullmatch(name) and name not in KNOWN | _THEIRS)
    if not unread:
        return
    from difflib import get_close_matches

    rests = {name.partition("_")[2]: name for name in sorted(KNOWN)}
    for name in unread:
        # What goes on behind a known name was named after it (EXOSCALE_API_KEY_2), as Kubernetes does for a service.
        if name.rpartition("_")[0] in KNOWN or re.search("_PORT(_|$)|_SERVICE_HOST$", name):
            continue
        for near in get_close_matches(name.partition("_")[2].upper(), rests, 1, _NEAR):
            yield f"Warning: nothing reads {name}. Is {rests[near]} meant?"
