"""client/http1.py against h11: what is accepted here means the same there, and what only h11 takes is named.

EXOLLAMA_FUZZ is how many examples are drawn in all (2,000). How they ended stands at the end of the run.
"""

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable
from typing import TypeVar

import h11
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from client.http1 import BadMessage, Body, Chunked, RequestHead, ResponseHead, Sized, parse_request, parse_response
from tests.unit import messages, reference

Head = TypeVar("Head", RequestHead, ResponseHead)
PROPERTIES = 8
EXAMPLES = int(os.environ.get("EXOLLAMA_FUZZ", "2000")) // PROPERTIES
HOP = [(b"Host", b"up"), (b"Authorization", b"Bearer ours")]
HOP_LINES = b"".join(b"%s: %s\r\n" % pair for pair in HOP)
CHUNKED = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
SIZED = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
many = settings(max_examples=EXAMPLES, suppress_health_check=[HealthCheck.too_slow])
pytestmark = pytest.mark.timeout(0 if "EXOLLAMA_FUZZ" in os.environ else 120)


def head_of(raw: bytes) -> bytes:
    """What a reader of the connection takes for the head."""
    found = raw.find(b"\r\n\r\n")
    return raw if found < 0 else raw[: found + 4]


def pairs(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    found = (line.partition(b":") for line in lines)
    return [(name, value.strip(b" \t")) for name, _, value in found]


def read(parse: Callable[[bytes], Head], raw: bytes) -> Head | None:
    try:
        return parse(raw)
    except BadMessage:
        return None


def judge(kind: str, here: object, there: reference.Read | None, fuzzed: Counter[str]) -> None:
    """Accepted here is accepted by h11 and for none of the reasons refused."""
    why = [] if there is None else list(reference.reasons(there))
    assert (here is not None) == (there is not None and not why), (here, there, why)
    if here is not None:
        fuzzed[f"{kind}: accepted by both"] += 1
    elif there is None:
        fuzzed[f"{kind}: refused by both"] += 1
    else:
        fuzzed[f"{kind}: refused here only"] += 1
        fuzzed.update(f"refused here only: {reason}" for reason in why)


def framing(head: RequestHead | ResponseHead, there: reference.Read) -> list[tuple[bytes, bytes]]:
    """The fields of the body's length that are to be written."""
    if head.chunked:
        return [(b"Transfer-Encoding", b"chunked")]
    return [(b"Content-Length", value) for value in there.all(b"content-length")]


def agree_on_request(head: RequestHead, there: reference.Read) -> None:
    assert isinstance(there.event, h11.Request)
    assert head.method == there.event.method
    assert b"1.%d" % head.minor == there.event.http_version
    target, host = there.event.target, b"".join(there.all(b"host"))
    if not target.startswith(b"/"):
        url = target.partition(b"://")[2]
        host = url.partition(b"/")[0].partition(b"?")[0]
        target = url[len(host) :]
        target = target if target.startswith(b"/") else b"/" + target
    assert (head.target, head.path) == (target, target.split(b"?")[0])
    assert (head.host or b"") == host
    assert (head.chunked, None if head.chunked else head.length) == (there.chunked, there.length)
    assert there.closes() in {None, head.close}
    assert head.continues == there.continues
    expected = [(b"Expect", b"100-continue")] if there.continues else []
    assert pairs(head.fields) == [*there.passing(reference.HERE), *framing(head, there), *expected]
    for mine, name in ((head.authorization, b"authorization"), (head.key, b"x-ollama-key"), (head.origin, b"origin")):
        assert there.all(name) == ([] if mine is None else [mine])


def agree_on_answer(head: ResponseHead, there: reference.Read, method: bytes) -> None:
    assert isinstance(there.event, h11.Response | h11.InformationalResponse)
    assert head.status == there.event.status_code
    assert head.line.partition(b" ")[2] == b"%d %s" % (head.status, there.event.reason)
    assert b"1.%d" % head.minor == there.event.http_version
    empty = head.status < 200 or head.status == 204
    assert pairs(head.fields) == there.passing(reference.HERE_OF_ANSWERS) + ([] if empty else framing(head, there))
    body = head.body(method)
    if isinstance(there.event, h11.Response):
        assert isinstance(body, Chunked) == there.chunked
        assert (body.left if isinstance(body, Sized) else None) == there.length
        assert there.closes() in {None, head.close}
    else:
        assert body.done
    assert head.draining == (head.status == 503 and there.all(b"x-exollama") == [b"draining"])


@many
@given(messages.good_requests() | messages.requests(), messages.mutations)
def test_a_request_is_accepted_where_h11_accepts_it_and_no_reason_forbids_it(
    fuzzed: Counter[str], raw: bytes, changes: list[messages.Mutation]
) -> None:
    raw = head_of(messages.mutate(raw, changes))
    here, there = read(parse_request, raw), reference.request(raw)
    judge("requests", here, there, fuzzed)
    if here and there:
        agree_on_request(here, there)


@many
@given(messages.good_requests())
def test_a_request_that_nothing_is_wrong_with_is_accepted_by_both(fuzzed: Counter[str], raw: bytes) -> None:
    there = reference.request(raw)
    assert there
    agree_on_request(parse_request(raw), there)
    fuzzed["good requests: accepted by both"] += 1


@many
@given(messages.good_answers() | messages.answers(), messages.mutations, st.sampled_from([b"GET", b"HEAD", b"POST"]))
def test_an_answer_is_accepted_where_h11_accepts_it_and_no_reason_forbids_it(
    fuzzed: Counter[str], raw: bytes, changes: list[messages.Mutation], method: bytes
) -> None:
    raw = head_of(messages.mutate(raw, changes))
    here, there = read(parse_response, raw), reference.answer(raw, method)
    judge("answers", here, there, fuzzed)
    if here and there:
        agree_on_answer(here, there, method)


@many
@given(messages.good_answers(), st.sampled_from([b"GET", b"HEAD", b"POST"]), st.booleans())
def test_an_answer_that_nothing_is_wrong_with_is_accepted_by_both_and_read_again(
    fuzzed: Counter[str], raw: bytes, method: bytes, close: bool
) -> None:
    there, here = reference.answer(raw, method), parse_response(raw)
    assert there
    agree_on_answer(here, there, method)
    written = here.downstream(b"V: 1\r\n", close=close)
    again, twice = reference.answer(written, method), parse_response(written)
    assert again
    agree_on_answer(twice, again, method)
    assert (twice.line, twice.fields[0], twice.close) == (here.line, b"V: 1", close)
    assert sorted(twice.fields[1:]) == sorted(here.fields)
    assert type(twice.body(method)) is type(here.body(method))
    fuzzed["good answers: accepted by both"] += 1


@many
@given(messages.good_requests() | messages.requests(), messages.mutations)
def test_what_is_written_for_the_next_hop_is_the_same_request_with_that_hops_lines(
    fuzzed: Counter[str], raw: bytes, changes: list[messages.Mutation]
) -> None:
    good = not changes and messages.SECRET in raw
    head = read(parse_request, head_of(messages.mutate(raw, changes)))
    if head is None:
        fuzzed["written again: refused"] += 1
        return
    written = head.upstream(HOP_LINES)
    again, there = parse_request(written), reference.request(written)
    assert there
    agree_on_request(again, there)
    assert isinstance(there.event, h11.Request)
    assert (again.method, again.target, again.minor) == (head.method, head.target, head.minor)
    assert (again.chunked, again.length, again.continues) == (head.chunked, head.length, head.continues)
    assert sorted(again.fields) == sorted(head.fields)
    assert again.close is (head.minor == 0)
    ours = HOP if head.minor else [(b"Connection", b"close"), *HOP]
    sent = there.event.headers.raw_items()
    assert sent[: len(ours)] == ours
    names = {name.lower() for name, _ in sent[len(ours) :]}
    assert not names & (reference.HERE - {b"content-length", b"transfer-encoding", b"expect"})
    if good:
        assert messages.SECRET not in written
        fuzzed["written again: a key was there, and did not go on"] += 1
    fuzzed["written again: the same"] += 1


def follow(body: Body, raw: bytes, cuts: list[int]) -> int | str:
    """Where the body ends in `raw`, which comes in these pieces; as `reference.end_of_body`."""
    bounds = [0, *sorted(min(cut, len(raw)) for cut in cuts), len(raw)]
    end = 0
    try:
        for start, stop in itertools.pairwise(bounds):
            end = start + body.feed(raw[start:stop])
            if body.done:
                return end
            assert end == stop
    except BadMessage:
        return "refused"
    return "more"


@many
@given(messages.chunked(), messages.tails, messages.cuts)
def test_a_chunked_body_ends_where_h11_sees_its_end_however_it_is_cut(
    fuzzed: Counter[str], raw: bytes, tail: bytes, cuts: list[int]
) -> None:
    assert follow(Chunked(), raw + tail, cuts) == reference.end_of_body(CHUNKED, raw + tail) == len(raw)
    fuzzed["good chunked bodies: the same end"] += 1


@many
@given(messages.chunked(), messages.tails, messages.cuts, messages.mutations)
def test_a_chunked_body_that_met_an_accident_is_refused_or_ends_where_h11_sees_its_end(
    fuzzed: Counter[str], raw: bytes, tail: bytes, cuts: list[int], changes: list[messages.Mutation]
) -> None:
    raw = messages.mutate(raw, changes) + tail
    here, there = follow(Chunked(), raw, cuts), reference.end_of_body(CHUNKED, raw)
    assert follow(Chunked(), raw, []) == here
    if here != "refused":
        assert here == there
        fuzzed["chunked bodies: " + ("the same end" if isinstance(here, int) else "no end to either")] += 1
    elif there == "refused":
        fuzzed["chunked bodies: refused by both"] += 1
    else:
        assert there == "more" or reference.LENIENT_CHUNKS.search(raw)
        fuzzed["chunked bodies: refused here " + ("only" if isinstance(there, int) else "earlier")] += 1


@many
@given(st.integers(0, 300), st.binary(max_size=400), messages.cuts)
def test_a_sized_body_ends_where_h11_sees_its_end_however_it_is_cut(
    fuzzed: Counter[str], length: int, raw: bytes, cuts: list[int]
) -> None:
    body = parse_request(SIZED % length).body()
    end = reference.end_of_body(SIZED % length, raw)
    assert end == (length if length <= len(raw) else "more")
    assert (0 if body.done else follow(body, raw, cuts)) == end
    fuzzed["sized bodies: the same end"] += 1


FULL = 65536 - 60
ADVERSARIAL = [
    pytest.param(b"X:" + b":" * FULL, True, id="colons"),
    pytest.param(b"X:" + b" " * FULL, True, id="spaces"),
    pytest.param(b"X:" + b" " * FULL + b"\x00", False, id="spaces and NUL"),
    pytest.param(b"x" * FULL, False, id="a name without a colon"),
    pytest.param(b"a:b\r\n" * (FULL // 5) + b"\x00", False, id="fields and NUL"),
    pytest.param(b"a:b\r\n" * (FULL // 5) + b"c:", False, id="fields"),
    pytest.param(b"Connection:" + b"a" * 9 + b",a" * (FULL // 2 - 10), True, id="one option, often"),
    pytest.param(
        b"Connection: " + b",".join(b"%x" % n for n in range(FULL // 6)) + b"\r\nb:" * 180, True, id="options"
    ),
    pytest.param(b"Connection:" + b"," * (FULL - 10), True, id="commas"),
    pytest.param(b"Connection:" + b"a, " * 10000 + b"\r\nConnection: b" * 180, True, id="options in many lines"),
    pytest.param(b"Content-Length:" + b"1" * (FULL - 20), False, id="digits"),
    pytest.param(b"Transfer-Encoding:" + b"chunked," * (FULL // 8 - 10), False, id="codings"),
    pytest.param(b"X: y\r\n " * (FULL // 7), False, id="folds"),
]


@pytest.mark.parametrize(("lines", "accepted"), ADVERSARIAL)
def test_no_head_takes_long(lines: bytes, accepted: bool) -> None:
    there, back = b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n\r\n", b"HTTP/1.1 200 OK\r\n" + lines + b"\r\n\r\n"
    assert len(there) <= 65536
    started = time.thread_time()
    assert (read(parse_request, there) is not None) == (read(parse_response, back) is not None) == accepted
    assert time.thread_time() - started < 2  # milliseconds, wherever it is linear


def test_no_host_and_no_target_takes_long() -> None:
    started = time.thread_time()
    for line in (b"Host: " + b"a." * 30000 + b"/", b"Host: [" + b":" * 60000):
        assert read(parse_request, b"GET / HTTP/1.1\r\n" + line + b"\r\n\r\n") is None
    for target in (b"http://" + b"a" * 60000 + b"@", b"/" * 60000 + b"#", b"?" * 60000):
        assert read(parse_request, b"GET " + target + b" HTTP/1.1\r\nHost: a\r\n\r\n") is None
    assert time.thread_time() - started < 2


def test_a_chunked_body_byte_by_byte_does_not_take_long() -> None:
    body, raw = Chunked(), b"0\r\n" + b"A: " + 16000 * b"b" + b"\r\n\r\n"
    started = time.thread_time()
    assert sum(body.feed(raw[at : at + 1]) for at in range(len(raw))) == len(raw)
    assert body.done
    assert time.thread_time() - started < 2
