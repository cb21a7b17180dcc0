"""How each function ends where a fault befalls one of its calls: explicit data, a row per call, in order.

A row says, per ending, which faults lead to it: the exit code and what is left (`World.left`), or AS_EVER for the
ending of a run without faults (`Situation.ends`). "list-instances 2" is the second call of that operation. Neighbours:
test_faults_everywhere.py holds the runs to it.
"""

from collections.abc import Iterator, Mapping
from typing import Final, NamedTuple

AS_EVER: Final = "as ever"
RETRIED: Final = "lost reset hang 429 429+ 500 503 html"
"""What one loop (`client.api`) repeats for a GET, before whoever called knows of it; 429+ comes with a Retry-After."""

Row = Mapping[str, str]


def read(garbage: str = AS_EVER) -> Row:
    """The row of a GET of the API: all is repeated but for an answer that is no JSON."""
    return {AS_EVER: f"{RETRIED} garbage"} if garbage == AS_EVER else {AS_EVER: RETRIED, garbage: "garbage"}


_READ: Final = f"{RETRIED} garbage"
_ASKED: Final = "lost reset hang silent 500 503 html garbage shape dark"
KINDS: Final = {
    "GET": _READ,
    "POST PUT DELETE": f"{_READ} op-failure op-never busy",
    "proof status touch show": _ASKED,
    "fence commit unfence": f"{_ASKED} 409",
}
"""Which faults make sense for which calls: the API's by their method, the endpoint's by what they are."""

ALIKE: Final = {
    "GET": (RETRIED,),
    "POST PUT DELETE": ("reset hang", "429 429+", "500 503 html"),
    "proof status show": ("lost reset hang", "silent html", "garbage shape"),
    "touch fence commit unfence": ("reset hang", "silent html"),
}
"""Faults that nothing which is called so can tell apart: one of them, in turn, stands for all, but with all of them."""

_NO_ANSWER: Final = r"no answer"
_CUT: Final = r"cannot be reached|gave no answer|stopped answering"
API_WORDS: Final = {
    "lost": _NO_ANSWER,
    "reset": _NO_ANSWER,
    "hang": _NO_ANSWER,
    "500": r"answers 500 \(500\)",
    "503": r"answers 503 \(503\)",
    "html": r"HTTP 502 without a message",
    "garbage": r"the answer is no JSON object|was refused: .*\(409\)",
    "op-failure": r"failed: .* state failure \(unknown",
    "op-never": r"failed: .* state pending \(no end after \d+ s",
    "busy": r"failed: .* state failure \(busy",
}
ENDPOINT_WORDS: Final = {
    "lost": _CUT,
    "reset": _CUT,
    "hang": r"timed out",
    "dark": _CUT,
    "silent": r"agent behind it does not|proof of its certificate \(yet\): 502|answered 502: Ollama or the agent is",
    "html": r"agent behind it does not|proof of its certificate \(yet\): 502|answered 502: ",
    "500": r"answered 500: the simulator answers 500|proof of its certificate \(yet\): 500",
    "503": r"takes no new requests \(fenced\)|proof of its certificate \(yet\): 503|answered 503: ",
    "garbage": r"not with JSON|the proof with something else|answered 200: ",
    "shape": r"not with a status that can be read|the (proof|commit) with something else|answered 200: ",
    "409": r"What was kept goes once nobody uses it; --force ends it all the same",
}
"""What a run that ends with 1 says of the fault that it met, as regular expressions."""

_SEEN: Final = "should be gone: idle by its label for .* and not reachable"
_REFUSED: Final = (
    "was refused: .* Instance is protected against deletion|was not answered: .* protected against deletion"
)
_CHECKED: Final = {
    "get-instance 1": {"garbage": _SEEN},
    "agent-proof 1": {"dark": _SEEN},
    "agent-status 1": {"dark": _SEEN},
}
OTHER_WORDS: Final[Mapping[str, Mapping[str, Mapping[str, str]]]] = {
    "reap, idle, protected": {
        "delete-instance 1": dict.fromkeys("lost reset hang 500 503 html".split(), _REFUSED),
        "agent-unfence 1": {"dark": _REFUSED, "409": _REFUSED},
    },
    "status --check, overdue": _CHECKED,
    "status --check, used by whoever writes no label": _CHECKED,
}
"""Where the last word is not the fault's: a deed that was refused in the end, an instance that stays silent."""

_DRAINED: Final = (
    "list-zones 1; list-instances 1; get-instance 1; agent-proof 1; agent-status 1; agent-fence 1; agent-status 2; "
    "get-instance 2; agent-commit 1"
).split("; ")
SHARED: Final = {
    "reap, idle, action stop": ("reap, idle", _DRAINED),
    "reap, idle, protected": ("reap, idle", _DRAINED),
    "provision, stopped": (
        "provision, running",
        ["agent-proof 1", "agent-status 1", "agent-touch 1", "agent-proof 2", "ollama-show 1"],
    ),
}
"""Calls that the same code makes upon the same answers as in another situation: their rows are the same."""

TABLE: Final[Mapping[str, Mapping[str, Row]]] = {
    "provision, nothing there": {
        "list-instances 1": read("1 gone"),
        "list-instances 2": read("1 gone"),
        "list-templates 1": read("1 gone"),
        "list-templates 2": read("1 gone"),
        "list-instance-types 1": read("1 gone"),
        "list-security-groups 1": read("1 gone"),
        "create-security-group 1": {
            "1 gone": "lost reset hang 500 503 html garbage op-failure op-never busy",
            AS_EVER: "429 429+",
        },
        "get-operation 1": read("1 gone"),
        "list-security-groups 2": read("1 gone"),
        "get-security-group 1": read("1 gone"),
        "add-rule-to-security-group 1": {
            "1 gone": "lost reset hang 500 503 html garbage op-failure op-never busy",
            AS_EVER: "429 429+",
        },
        "get-operation 2": read("1 gone"),
        "add-rule-to-security-group 2": {
            "1 gone": "lost reset hang 500 503 html garbage op-failure op-never busy",
            AS_EVER: "429 429+",
        },
        "get-operation 3": read("1 gone"),
        "create-instance 1": {
            AS_EVER: "lost reset hang 429 429+ garbage",
            "1 gone": "500 503 html op-failure op-never busy",
        },
        "get-operation 4": read(),
        "list-instances 3": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 gone": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 gone": "dark"},
        "agent-touch 1": {AS_EVER: "lost reset hang silent 503 html", "1 open": "500 garbage shape", "1 gone": "dark"},
        "list-instances 4": read(),
        "list-instances 5": read("1 open"),
        "get-instance 2": read("1 open"),
        "agent-proof 2": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "ollama-show 1": {AS_EVER: "lost reset hang garbage shape silent html", "1 open": "500 503 dark"},
    },
    "provision, running": {
        "list-instances 1": read("1 open"),
        "list-instances 2": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-touch 1": {AS_EVER: "lost reset hang silent 503 html", "1 open": "500 garbage shape dark"},
        "list-instances 3": read(),
        "update-instance 1": {AS_EVER: "lost reset hang 429 429+ 500 503 html garbage op-failure op-never busy"},
        "get-operation 1": read(),
        "list-instances 4": read(),
        "get-instance 2": read("1 open"),
        "agent-proof 2": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "ollama-show 1": {AS_EVER: "lost reset hang garbage shape silent html", "1 open": "500 503 dark"},
    },
    "provision, stopped": {
        "list-instances 1": read("1 stopped"),
        "list-instances 2": read("1 stopped"),
        "get-instance 1": read("1 stopped"),
        "list-instances 3": read("1 stopped"),
        "update-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html op-failure op-never busy",
            "1 stopped": "garbage",
        },
        "get-operation 1": read("1 stopped"),
        "list-instances 4": read("1 stopped"),
        "start-instance 1": {
            AS_EVER: "lost 429 429+ garbage",
            "1 stopped": "reset hang 500 503 html op-failure op-never busy",
        },
        "get-operation 2": read(),
        "list-instances 5": read("1 open"),
        "get-instance 2": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-touch 1": {AS_EVER: "lost reset hang silent 503 html", "1 open": "500 garbage shape dark"},
        "list-instances 6": read(),
        "get-instance 3": read("1 open"),
        "agent-proof 2": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "ollama-show 1": {AS_EVER: "lost reset hang garbage shape silent html", "1 open": "500 503 dark"},
    },
    "reap, idle": {
        "list-zones 1": read("1 open"),
        "list-instances 1": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-fence 1": {
            AS_EVER: "lost reset hang shape",
            "1 open": "silent 500 503 html garbage dark",
            "0 open": "409",
        },
        "agent-status 2": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
        },
        "get-instance 2": read("1 open"),
        "agent-commit 1": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
            "0 open": "409",
        },
        "delete-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html garbage",
            "1 committed": "op-failure op-never",
            "1 open": "busy",
        },
        "get-operation 1": read(),
        "get-instance 3": read(),
    },
    "reap, idle, action stop": {
        "list-zones 1": read("1 open"),
        "list-instances 1": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-fence 1": {
            AS_EVER: "lost reset hang shape",
            "1 open": "silent 500 503 html garbage dark",
            "0 open": "409",
        },
        "agent-status 2": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
        },
        "get-instance 2": read("1 open"),
        "agent-commit 1": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
            "0 open": "409",
        },
        "stop-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html garbage",
            "1 committed": "op-failure op-never",
            "1 open": "busy",
        },
        "get-operation 1": read(),
        "get-instance 3": read("1 stopped"),
    },
    "reap, idle, protected": {
        "list-zones 1": read("1 open"),
        "list-instances 1": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-fence 1": {
            AS_EVER: "lost reset hang shape",
            "1 open": "silent 500 503 html garbage dark",
            "0 open": "409",
        },
        "agent-status 2": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
        },
        "get-instance 2": read("1 open"),
        "agent-commit 1": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
            "0 open": "409",
        },
        "delete-instance 1": {
            "1 committed": "lost reset hang 500 503 html op-failure op-never",
            AS_EVER: "429 429+",
            "1 open": "garbage busy",
        },
        "get-instance 3": read(),
        "agent-unfence 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 committed": "dark 409"},
    },
    "reap, stopped past its retention": {
        "list-zones 1": read("1 stopped"),
        "list-instances 1": read("1 stopped"),
        "get-instance 1": read("1 stopped"),
        "delete-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html garbage",
            "1 stopped": "op-failure op-never busy",
        },
        "get-operation 1": read(),
        "get-instance 2": read(),
    },
    "reap, state error": {
        "list-zones 1": read("1 error"),
        "list-instances 1": read("1 error"),
        "get-instance 1": read("1 error"),
        "delete-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html garbage",
            "1 error": "op-failure op-never busy",
        },
        "get-operation 1": read(),
        "get-instance 2": read(),
    },
    "reap, fenced by another": {
        "list-zones 1": read("1 leased"),
        "list-instances 1": read("1 leased"),
        "get-instance 1": read("1 leased"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "0 gone": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "0 gone": "dark"},
    },
    "status --check, overdue": {
        "list-zones 1": read("1 open"),
        "list-instances 1": read("1 open"),
        "list-instance-types 1": read(),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
    },
    "status --check, used by whoever writes no label": {
        "list-zones 1": read("1 open"),
        "list-instances 1": read("1 open"),
        "list-instance-types 1": read(),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
        "agent-status 1": {AS_EVER: "lost reset hang silent 500 503 html garbage shape", "1 open": "dark"},
    },
    "stop": {
        "list-instances 1": read("1 open"),
        "get-instance 1": read("1 open"),
        "agent-proof 1": {"1 open": "lost reset hang silent 500 503 html garbage shape dark"},
        "agent-fence 1": {"1 open": "lost reset hang silent 500 503 html garbage dark 409", AS_EVER: "shape"},
        "agent-status 1": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape",
            "1 leased": "dark",
        },
        "get-instance 2": read("1 open"),
        "agent-commit 1": {
            AS_EVER: "lost reset hang",
            "1 open": "silent 500 503 html garbage shape 409",
            "1 leased": "dark",
        },
        "delete-instance 1": {
            AS_EVER: "lost reset hang 429 429+ 500 503 html garbage",
            "1 committed": "op-failure op-never",
            "1 open": "busy",
        },
        "get-operation 1": read(),
        "get-instance 3": read(),
    },
}


class Case(NamedTuple):
    """One fault in one call of one situation, and how that ends."""

    situation: str
    call: str
    fault: str
    ends: str


def outcomes(row: Row) -> dict[str, str]:
    """The ending of each fault in a row."""
    return {fault: ends for ends, faults in row.items() for fault in faults.split()}


def sort_of(call: str, sorts: Mapping[str, object]) -> str:
    """Which of the sorts of calls one belongs to."""
    operation, _nth = call.split()
    words = {"list": "GET", "get": "GET", "update": "PUT", "start": "PUT", "stop": "PUT", "delete": "DELETE"}
    first, _, last = operation.partition("-")
    word = last if first in ("agent", "ollama") else words.get(first, "POST")
    return next(sort for sort in sorts if word in sort.split())


def cases(*, every: bool) -> Iterator[Case]:
    """All cases, or no calls that are shared and, of faults that are alike for a call, one in turn."""
    turn = 0
    for situation, rows in TABLE.items():
        _, shared = SHARED.get(situation, ("", ()))
        for call, row in rows.items():
            if call in shared and not every:
                continue
            turn += 1
            dealt = [group.split() for group in ALIKE[sort_of(call, ALIKE)]]
            spared = set() if every else {f for group in dealt for i, f in enumerate(group) if i != turn % len(group)}
            yield from (Case(situation, call, f, ends) for f, ends in outcomes(row).items() if f not in spared)
