"""The verb `logs`: an instance in detail, its boot's phases with their times, and the end of its boot's log.

Looking is no use: nothing is woken, touched or written. Neighbours: `client.session` finds the key, `client.endpoint`
asks the instance, whose words are a stranger's. Standard library only.
"""

import argparse
import json
import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import replace
from datetime import datetime
from typing import Any, Final

from client.api import Api
from client.boot import LOOK_S, boot_budget_s
from client.endpoint import PORT
from client.errors import ApiError, ExollamaError, KeyRejected, NoInstance, SettingsError
from client.model import Instance, number, others, owned_live, printable
from client.session import Session
from client.settings import Settings
from client.terminal import Terminal
from client.transport import http_client_send

log = logging.getLogger("exollama.logs")

POLL_S: Final = 1.0
GAP: Final = "[…]"
OVER: Final = ("ready", "failed")
"""Phases after which none comes."""
_BAR: Final = 30


def logs(args: argparse.Namespace, settings: Settings, terminal: Terminal) -> int:
    """Show every live instance of EXOSCALE_INSTANCE_NAME, the oldest first; 1 where one cannot say, or has failed.

    Raises NoInstance where there is none, and ApiError.
    """
    api = Api(settings, settings.zone, http_client_send)
    session = Session(settings, api, note=terminal.note)
    listed = api.list_known_zone()
    seen = [_Seen(instance) for instance in owned_live(listed, settings.name)]
    if not seen:
        none = f"There is no instance named {settings.name} in {settings.zone}. Run `exollama provision`."
        raise NoInstance(none + others(listed, settings.name))
    terminal.progress("asking the instance", None, 0.0)
    kinds: dict[str, str] = {}
    with suppress(ApiError):  # then there is its id
        kinds = api.type_names()
    for one in seen:
        one.kind = one.instance.type or kinds.get(one.instance.type_id or "")
        one.look(session)
    terminal.clear()
    described = [one.describe(api) for one in seen]
    print(json.dumps({"instances": described}) if args.json else "\n\n".join(map(text, described)), flush=True)
    if args.follow:
        _follow(seen, session, terminal, as_json=args.json)
    for one in seen:
        if one.trouble:
            terminal.note(f"{one.instance.zone} {one.instance.id}: {one.trouble}")
    return max(one.exit_code for one in seen)


class _Seen:
    """One instance as it was seen last: `said` is its own status; `trouble`, with an exit code, what is not well.

    `new` are the lines of its log that the look before did not show.
    """

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.kind: str | None = None
        self.said: dict[str, Any] | None = None
        self.trouble = ""
        self.exit_code = 0
        self.new: list[str] = []
        self._lines: list[str] = []
        self._hopeless = False

    @property
    def phase(self) -> str:
        """The boot's, or nothing where it is not known."""
        return str(self.said["boot"]["phase"]) if self.said else ""

    @property
    def over(self) -> bool:
        """Whether there is nothing more to wait for."""
        ends = self.phase in OVER or self._hopeless
        return ends or self.instance.state not in ("starting", "running")

    def look(self, session: Session) -> None:
        """Ask it. What stands in the way is kept in words."""
        self.said, self.new, self.exit_code = None, [], 1
        if self.instance.state != "running":
            state = self.instance.state or "in no known state"
            self.trouble = f"It is {state} and cannot be asked: only what the API knows of it is shown."
            return
        try:
            with closing(session.endpoint(self.instance)) as endpoint:
                self.said = endpoint.status()
        except ExollamaError as error:
            self.trouble = f"It cannot be asked, and only what the API knows of it is shown: {error}"
            self.exit_code = 2 if isinstance(error, SettingsError) else 1
            self._hopeless = isinstance(error, SettingsError | KeyRejected)
            return
        lines = [_word(line) for line in self.said["boot"].get("log") or ()]
        self._lines, self.new = lines, unseen(self._lines, lines)
        self.trouble, self.exit_code = "", 0
        if self.phase == "failed":
            self.exit_code = 1
            self.trouble = f"Its boot failed; the end of its log says why. {self._goes(session.api.now())}"

    def _goes(self, now: datetime) -> str:
        """When one goes whose boot failed, and what to do."""
        policy, until = (self.said or {}).get("policy"), self.instance.failed_until(now)
        if isinstance(policy, dict) and policy.get("keep_failed") is True and until and now < until:
            return (
                f"It is kept, as asked (--keep-failed), until {until:%Y-%m-%d %H:%M} UTC; `exollama stop` ends it now. "
                "To try another: exollama provision."
            )
        return (
            "It goes by the next `exollama reap`. To try another: exollama provision, with --keep-failed for one that "
            "stays to be looked at."
        )

    def describe(self, api: Api) -> dict[str, Any]:
        """All of it, its log as far as it is new."""
        instance, policy, now = self.instance, self.instance.policy, api.now()
        activity = instance.activity(now)
        return {
            "id": instance.id,
            "name": instance.owned_name,
            "zone": instance.zone,
            "state": instance.state,
            "address": instance.address,
            "model": instance.model,
            "type": self.kind,
            "type_id": instance.type_id,
            "created": instance.created and instance.created.isoformat(),
            "activity": activity and activity.isoformat(),
            "idle_timeout_s": policy.idle_s,
            "deadline": policy.deadline and policy.deadline.isoformat(),
            "action": policy.action,
            "said": self.said and {**self.said, "boot": {**self.said["boot"], "log": self.new}},
            "trouble": self.trouble or None,
        }


def _follow(seen: Sequence[_Seen], session: Session, terminal: Terminal, *, as_json: bool) -> None:
    """Print what is new until every boot is over, or its time is. The API is asked for an address, or for an end."""
    api = session.api
    began = looked = time.monotonic()
    budget_s = max(boot_budget_s(one.instance, api.now()) for one in seen)
    while waiting := [one for one in seen if not one.over]:
        if time.monotonic() - began > budget_s:
            for one in waiting:
                one.exit_code = 1
                one.trouble = one.trouble or (
                    f"Its boot takes longer than it may, and stands in phase {one.phase}. It goes by the next "
                    "`exollama reap`; a longer EXOSCALE_BOOT_TIMEOUT is for one that `exollama provision` makes then."
                )
            break
        api.sleep(POLL_S)
        if time.monotonic() - looked >= LOOK_S or any(one.instance.state != "running" for one in waiting):
            looked = time.monotonic()
            _look_again(waiting, session)
        for one in waiting:
            phase = one.phase
            one.look(session)
            boot = one.said["boot"] if one.said else {}
            if one.new or one.over or one.phase != phase:
                terminal.clear()
                if as_json:
                    print(json.dumps(one.describe(api)), flush=True)
                else:
                    mark = f"{one.instance.id[:8]} " if len(seen) > 1 else ""
                    tail = "\n".join(_boot(boot)) + "\n" if one.said and one.over else ""
                    print("".join(f"{mark}| {line}\n" for line in one.new) + tail, end="", flush=True)
            if not one.over:
                phases = _phases(boot) if one.said else []
                spent_s = phases[-1][1] if phases else time.monotonic() - began
                terminal.progress(one.phase or "starting", number(boot.get("percent")), spent_s)
    terminal.clear()


def _look_again(waiting: Sequence[_Seen], session: Session) -> None:
    try:
        live = {one.id: one for one in owned_live(session.api.list_instances(), session.settings.name)}
    except ApiError as error:  # a passing trouble of the API's is none of the boot's
        log.info("%s", error)
        return
    for one in waiting:
        one.instance = live.get(one.instance.id) or replace(one.instance, state="gone")


def unseen(before: Sequence[str], after: Sequence[str]) -> list[str]:
    """The lines of a log's end that an earlier look at its end did not show, behind a mark where some were missed."""
    for passed in range(len(before)):
        kept = before[passed:]
        if list(after[: len(kept)]) == list(kept):
            return list(after[len(kept) :])
    return [GAP, *after] if before and after else list(after)


def text(one: Mapping[str, Any]) -> str:
    """One instance in words, as `describe` has it."""
    said = one["said"] or {}
    rows = {
        "id": one["id"],
        "address": f"{one['address']}:{PORT}" if one["address"] else "none yet",
        "model": one["model"] or "?",
        "type": one["type"] or one["type_id"] or "?",
        "created": one["created"] or "?",
        "last use": f"{one['activity'] or '?'} (by its label)",
        "idle timeout": _span(one["idle_timeout_s"]),
        "deadline": one["deadline"] or "none",
        "once idle": "stopped" if one["action"] == "stop" else "destroyed",
    }
    if said:
        rows |= {
            "idle for": _span(said["idle_s"]),
            "in flight": f"{said['in_flight']} of {_word(said.get('requests'))} requests so far",
            "fence": _fence(said.get("fence")),
            "versions": ", ".join(f"{name} {_word(version)}" for name, version in _items(said.get("versions"))) or "?",
        }
    lines = [printable(f"{one['name']} in {one['zone']}: {one['state']}")]
    lines += [f"  {name:<13} {printable(value)}" for name, value in rows.items()]
    if said:
        lines += [*_boot(said["boot"]), "  log's end", *(f"  | {line}" for line in said["boot"]["log"])]
    return "\n".join(lines)


def _boot(boot: Mapping[str, Any]) -> Iterator[str]:
    """The boot as lines: where it stands, each phase with its seconds as a bar, and its error."""
    total_s, percent, phase = number(boot.get("elapsed_s")) or 0.0, number(boot.get("percent")), boot["phase"]
    over = phase in OVER
    share = "" if percent is None or over else f" {percent:.0f} %"
    yield f"  {'boot':<13} {phase}{share}, {'after' if over else 'for'} {total_s:.0f} s"
    phases = _phases(boot)
    longest_s = max((seconds for _, seconds in phases), default=0.0) or 1.0
    for name, seconds in phases:
        yield f"    {name:<13} {seconds:8.1f} s  {'=' * round(_BAR * seconds / longest_s)}".rstrip()
    error = boot.get("error")
    if isinstance(error, dict):
        yield f"  {'error':<13} {_word(error.get('phase'))}: {_word(error.get('message'))}"


def _phases(boot: Mapping[str, Any]) -> list[tuple[str, float]]:
    """Each phase with its seconds; the last one is under way, unless the boot is over."""
    given = boot.get("phases")
    phases = [
        (_word(one.get("phase"))[:13], number(one.get("seconds")) or 0.0)
        for one in (given if isinstance(given, list) else ())
        if isinstance(one, dict)
    ]
    if boot["phase"] not in OVER:
        so_far_s = (number(boot.get("elapsed_s")) or 0.0) - sum(seconds for _, seconds in phases)
        phases.append((boot["phase"][:13], max(0.0, so_far_s)))
    return phases


def _fence(fence: Mapping[str, Any] | None) -> str:
    if not fence:
        return "none"
    if fence.get("committed"):
        return "committed: it is being removed, and takes no requests"
    return f"up for {_word(fence.get('lease_s'))} s at most: it takes no requests meanwhile"


def _word(value: object) -> str:
    """A stranger's word or number, fit for a terminal."""
    return printable(value) if isinstance(value, str | int | float) else "?"


def _items(value: object) -> list[tuple[str, Any]]:
    return list(value.items()) if isinstance(value, dict) else []


def _span(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
