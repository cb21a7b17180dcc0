"""The forwarder's connections: kept, used again, and not used again where that could mix up answers."""

import contextlib

import pytest

from tests.unit.relaying import HOST, OK, PATIENCE_S, Wire, get, post, relay


def test_a_second_request_of_a_program_uses_both_connections_again() -> None:
    with relay() as it:
        program, far = it.ask(get())
        program.send(post(b'{"a":1}'))
        assert far.message().endswith(b"\r\n\r\n" + b'{"a":1}')
        far.send(OK)
        program.expect(OK)
        assert it.far.nobody()
        assert it.counts == {"forwarded": 2}


def test_another_program_uses_the_connection_that_is_free() -> None:
    with relay() as it:
        _, far = it.ask(get())
        other = it.program()
        other.send(get())
        far.message()
        far.send(OK)
        other.expect(OK)
        assert it.far.nobody()


def test_two_requests_at_once_use_two_connections_and_get_their_own_answers() -> None:
    with relay() as it:
        programs, fars = [it.program() for _ in range(2)], []
        for number, program in enumerate(programs):
            program.send(get(b"/api/ps?%d" % number))
            fars.append(it.far.accept())
            assert fars[-1].message().startswith(b"GET /api/ps?%d " % number)
        for number in (1, 0):
            answer = b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n%d" % number
            fars[number].send(answer)
            programs[number].expect(answer)
        it.wait(lambda: it.idle() == 2)


def test_a_connection_that_the_instance_closed_while_it_was_unused_is_not_used() -> None:
    with relay() as it:
        program, far = it.ask(get())
        far.close()
        it.wait(lambda: it.idle() == 0)
        it.afresh(program)
        assert it.counts == {"forwarded": 2}


@pytest.mark.parametrize("how", [Wire.close, Wire.reset], ids=["closed", "reset"])
def test_a_kept_connection_that_dies_on_use_is_replaced_at_once_and_unseen(how: object) -> None:
    assert callable(how)
    with relay() as it:
        program, far = it.ask(get())
        program.send(post(b'{"prompt":"once"}'))
        request = far.message()
        asked = list(it.source.asked)
        how(far)
        second = it.far.accept()
        second.expect(request)
        second.send(OK)
        program.expect(OK)
        assert it.source.asked == asked  # the instance is not suspected
        assert it.counts == {"forwarded": 2, "repeated": 1}


def test_of_several_stale_connections_no_second_one_is_tried() -> None:
    with relay() as it:
        programs = [it.program() for _ in range(3)]
        fars = []
        for program in programs:
            program.send(get())
            fars.append(it.far.accept())
            fars[-1].message()
        for program, far in zip(programs, fars, strict=True):
            far.send(OK)
            program.expect(OK)
        it.wait(lambda: it.idle() == 3)
        programs[0].send(get())
        fars[2].message()  # the one that was used last
        fars[2].reset()
        new = it.far.accept()
        new.message()
        new.send(OK)
        programs[0].expect(OK)
        assert fars[0].quiet()
        assert fars[1].quiet()


@pytest.mark.parametrize("count", [2, 5])
@pytest.mark.parametrize("apart", [False, True], ids=["in one piece", "one by one"])
def test_pipelined_requests_are_answered_in_order(count: int, apart: bool) -> None:
    requests = [post(b"%d" % n) if n % 2 else get(b"/api/ps?%d" % n) for n in range(count)]
    answers = [b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nnumber%d" % n for n in range(count)]
    with relay() as it:
        program = it.program()
        for piece in requests if apart else [b"".join(requests)]:
            program.send(piece)
            it.settle()
        far = it.far.accept()
        for number in range(count):
            assert (b"?%d " % number in (said := far.message())) or said.endswith(b"\r\n\r\n%d" % number)
            assert far.quiet()  # the next one waits for this one's answer
            far.send(answers[number])
        program.expect(b"".join(answers))
        assert it.far.nobody()


def test_pipelined_answers_of_the_forwarder_and_the_instance_come_in_order() -> None:
    with relay() as it:
        program = it.program()
        program.send(get(b"/.exollama/nothing") + get() + get(b"/.exollama/nothing"))
        assert b"404 Not Found" in program.message()
        far = it.far.accept()
        far.message()
        assert program.quiet()
        far.send(OK)
        program.expect(OK)
        assert b"404 Not Found" in program.message()


def test_what_a_program_pipelines_without_reading_does_not_pile_up() -> None:
    """Answers of the forwarder's own, which no instance slows down."""
    with relay() as it:
        program = it.program(receive=32768)
        program.sock.setblocking(False)
        request, sent = get(b"/.exollama/nothing") * 1000, 0
        with contextlib.suppress(BlockingIOError):
            while True:  # until it cannot send on
                sent += program.sock.send(request)
                it.settle()
        program.sock.settimeout(PATIENCE_S)
        (down,) = it.forwarder._connections
        assert down.transport.get_write_buffer_size() < 1 << 20
        begun = it.counts["local"]
        assert begun < sent // len(get(b"/.exollama/nothing"))
        size = len(program.message())
        program.read(size * begun)  # and the others are answered when there is room
        it.wait(lambda: it.forwarder.counts["local"] > begun)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok!",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
        b"HTTP/1.1 204 No Content\r\n\r\nok",
    ],
    ids=["sized", "chunked", "bodiless"],
)
def test_bytes_behind_an_answer_s_end_are_not_passed_on_and_end_the_connection(answer: bytes) -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(answer)
        far.ends()
        program.send(get())
        second = it.far.accept()
        second.message()
        second.send(OK)
        got = program.until(OK)
        assert answer.startswith(got.removesuffix(OK))


def test_bytes_that_nobody_asked_for_end_an_unused_connection() -> None:
    with relay() as it:
        program, far = it.ask(get())
        far.send(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
        far.ends()
        it.wait(lambda: it.idle() == 0)
        it.afresh(program)


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
    ids=["Connection: close", "HTTP/1.0"],
)
def test_a_connection_that_the_instance_will_close_is_not_kept_but_the_program_s_is(answer: bytes) -> None:
    with relay() as it:
        program, far = it.begun(get())
        far.send(answer)
        program.expect(OK)
        far.ends()
        program.send(get())
        it.far.accept().message()


@pytest.mark.parametrize(
    "request_",
    [
        get(more=b"Connection: close\r\n"),
        get(more=b"Connection: foo, Close\r\n"),
        b"GET / HTTP/1.0\r\n" + HOST + b"\r\n",
    ],
    ids=["close", "among others", "HTTP/1.0"],
)
def test_a_program_that_wants_its_connection_closed_behind_the_answer_has_that(request_: bytes) -> None:
    with relay() as it:
        program, far = it.begun(request_)
        far.send(OK)
        program.expect(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
        assert program.rest() == b""


def test_empty_lines_between_requests_are_let_pass_however_many() -> None:
    with relay() as it:
        program, far = it.ask(get())
        program.send(b"\r\n" * 100_000 + get())
        far.message()
        far.send(OK)
        program.expect(OK)
