"""Bodies are followed to their ends, however they are cut, and where they have none they are refused.

Neighbours: test_http1.py, heads; test_http1_fuzz.py, h11 as the reference.
"""

import itertools

import pytest

from client.http1 import BadMessage, Chunked, Sized, UntilClose

CHUNKS = [
    pytest.param(b"0\r\n\r\n", id="no chunk"),
    pytest.param(b"5\r\nhello\r\n0\r\n\r\n", id="one chunk"),
    pytest.param(b"1\r\na\r\n2\r\nbc\r\n0\r\n\r\n", id="two chunks"),
    pytest.param(b"a\r\n0123456789\r\nA\r\n0123456789\r\n0\r\n\r\n", id="hexadecimal in either case"),
    pytest.param(b"0000000000005\r\nhello\r\n000\r\n\r\n", id="leading zeros"),
    pytest.param(b"4\r\n\r\n\r\n\r\n0\r\n\r\n", id="line ends for data"),
    pytest.param(b"5\r\n0\r\n\r\n\r\n0\r\n\r\n", id="an end for data"),
    pytest.param(b"1;a=b\r\nx\r\n0;c\r\n\r\n", id="extensions"),
    pytest.param(b'1;a="b;c\t\xe9"; d\r\nx\r\n0\r\n\r\n', id="an extension that is quoted"),
    pytest.param(b"1;\r\nx\r\n0;\r\n\r\n", id="empty extensions"),
    pytest.param(b"1;" + 1020 * b"e" + b"\r\nx\r\n0\r\n\r\n", id="the longest line"),
    pytest.param(b"0\r\nA: b\r\n\r\n", id="a trailer"),
    pytest.param(b"1\r\nx\r\n0\r\nA:\r\nB: \t\xe9\r\nA:2\r\n\r\n", id="trailers"),
    pytest.param(b"0\r\n" + 3 * (b"A:" + 5000 * b"b" + b"\r\n") + b"\r\n", id="long trailers"),
]
BEHIND = b"0\r\n\r\nGET / HTTP/1.1\r\n\r\n"


def follow(body: Chunked | Sized, pieces: list[bytes]) -> int:
    """Where the body ends in the joined pieces."""
    end = 0
    for piece in pieces:
        here = body.feed(piece)
        end += here
        if body.done:
            assert body.feed(piece, here) == here
            return end
        assert here == len(piece)
    raise AssertionError("it has not ended")


@pytest.mark.parametrize("raw", CHUNKS)
def test_a_chunked_body_ends_where_it_ends(raw: bytes) -> None:
    assert follow(Chunked(), [raw]) == len(raw)
    assert follow(Chunked(), [raw + BEHIND]) == len(raw)


@pytest.mark.parametrize("raw", CHUNKS)
@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_a_chunked_body_ends_there_in_pieces_too(raw: bytes, size: int) -> None:
    whole = raw + BEHIND
    pieces = [whole[at : at + size] for at in range(0, len(whole), size)]
    assert follow(Chunked(), pieces) == len(raw)


@pytest.mark.parametrize("raw", CHUNKS)
def test_a_chunked_body_is_followed_from_where_one_says(raw: bytes) -> None:
    assert Chunked().feed(b"zz" + raw + BEHIND, 2) == len(raw) + 2


@pytest.mark.parametrize("raw", CHUNKS)
def test_a_chunked_body_that_is_cut_short_has_not_ended(raw: bytes) -> None:
    for cut in {1, 2, 3, len(raw) // 2} - {len(raw)}:
        body = Chunked()
        assert body.feed(raw[:-cut]) == len(raw) - cut
        assert not body.done


@pytest.mark.parametrize(
    "raw",
    [
        pytest.param(b"\r\n", id="no size"),
        pytest.param(b";a=b\r\n", id="an extension alone"),
        pytest.param(b"+5\r\nhello\r\n", id="plus"),
        pytest.param(b"-1\r\n", id="minus"),
        pytest.param(b"-0\r\n\r\n", id="minus nought"),
        pytest.param(b"0x5\r\nhello\r\n", id="0x"),
        pytest.param(b"5h\r\nhello\r\n", id="h"),
        pytest.param(b"1_0\r\n", id="underscore"),
        pytest.param(b" 5\r\nhello\r\n", id="space before"),
        pytest.param(b"5 \r\nhello\r\n", id="space behind"),
        pytest.param(b"5\t\r\nhello\r\n", id="tab behind"),
        pytest.param(b"5 ;a\r\nhello\r\n", id="space before an extension"),
        pytest.param(b"5 5\r\nhello\r\n", id="space within"),
        pytest.param(b"5,5\r\nhello\r\n", id="a list"),
        pytest.param(b"5\x00\r\nhello\r\n", id="NUL"),
        pytest.param(b"5\x0b\r\nhello\r\n", id="vertical tab"),
        pytest.param(b"\xb2\r\nhe\r\n", id="a superscript digit"),
        pytest.param("٣\r\nhel\r\n".encode(), id="an Arabic digit"),
        pytest.param(b"g\r\n", id="no hexadecimal digit"),
        pytest.param(b"1000000000000000\r\n", id="16 digits"),
        pytest.param(b"0000000000000005\r\nhello\r\n", id="16 digits, most of them zeros"),
        pytest.param(b"ffffffffffffffff\r\n", id="-1 in 64 bits"),
        pytest.param(b"10000000000000005\r\nhello\r\n", id="5 in 64 bits"),
        pytest.param(b"5\nhello\r\n", id="bare LF behind the size"),
        pytest.param(b"5\rhello\r\n", id="bare CR behind the size"),
        pytest.param(b"5\r\r\nhello\r\n", id="two CRs behind the size"),
        pytest.param(b"5;a\nhello\r\n", id="bare LF behind an extension"),
        pytest.param(b"5;a\rb\r\nhello\r\n", id="bare CR in an extension"),
        pytest.param(b"5;a\x00\r\nhello\r\n", id="NUL in an extension"),
        pytest.param(b"5;a\x7f\r\nhello\r\n", id="DEL in an extension"),
        pytest.param(b"1;" + 1021 * b"e" + b"\r\nx\r\n", id="a line of a byte too many"),
        pytest.param(b"1;" + 5000 * b"e", id="a line without an end"),
        pytest.param(b"5\r\nhello!\r\n", id="longer than said"),
        pytest.param(b"5\r\nhell\r\n0\r\n\r\n", id="shorter than said"),
        pytest.param(b"5\r\nhello0\r\n\r\n", id="no line end behind the data"),
        pytest.param(b"5\r\nhello\n0\r\n\r\n", id="bare LF behind the data"),
        pytest.param(b"5\r\nhello\r0\r\n\r\n", id="bare CR behind the data"),
        pytest.param(b"5\r\nhello\n\r0\r\n\r\n", id="LF CR behind the data"),
        pytest.param(b"5\r\nhello\r\n\r\n0\r\n\r\n", id="an empty line behind the data"),
        pytest.param(b"0\r\n\n", id="bare LF at the end"),
        pytest.param(b"0\n\r\n", id="bare LF behind the last size"),
        pytest.param(b"0\r\n\r\r\n", id="two CRs at the end"),
        pytest.param(b"0\r\n \r\n", id="space at the end"),
        pytest.param(b"0\r\nA: b\n\r\n", id="bare LF behind a trailer"),
        pytest.param(b"0\r\nA: b\rc\r\n", id="bare CR in a trailer"),
        pytest.param(b"0\r\nA: b\r\n c\r\n", id="a folded trailer"),
        pytest.param(b"0\r\nA : b\r\n", id="space before a trailer's colon"),
        pytest.param(b"0\r\n: b\r\n", id="a trailer without a name"),
        pytest.param(b"0\r\nA\r\n", id="a trailer without a colon"),
        pytest.param(b"0\r\nA: \x00\r\n", id="NUL in a trailer"),
        pytest.param(b"0\r\nGET / HTTP/1.1\r\n", id="a request for a trailer"),
        pytest.param(b"0\r\nA: " + (16 << 10) * b"b" + b"\r\n", id="a trailer too big"),
        pytest.param(b"0\r\nA: " + (16 << 10) * b"b", id="a trailer too big before its end"),
        pytest.param(b"0\r\n" + 2000 * b"A: bcdefg\r\n", id="trailers too many"),
        pytest.param(b"0\r\nContent-Length: 5\r\n\r\n", id="a length for a trailer"),
        pytest.param(b"0\r\ntransfer-encoding: chunked\r\n\r\n", id="a coding for a trailer"),
        pytest.param(b"0\r\nHost: a\r\n\r\n", id="a host for a trailer"),
        pytest.param(b"0\r\nConnection: close\r\n\r\n", id="Connection for a trailer"),
        pytest.param(b"0\r\nAUTHORIZATION: Bearer a\r\n\r\n", id="a key for a trailer"),
        pytest.param(b"0\r\nX-Ollama-Key: a\r\n\r\n", id="another key for a trailer"),
    ],
)
def test_what_is_no_chunked_body_is_refused_in_one_piece_or_in_many(raw: bytes) -> None:
    for size in (len(raw), 1, 2, 5):
        body = Chunked()
        with pytest.raises(BadMessage) as caught:
            follow(body, [raw[at : at + size] for at in range(0, len(raw), size)])
        assert caught.value.status == 400
        assert not body.done


def test_a_chunk_of_any_size_that_can_be_read_is_waited_for() -> None:
    body = Chunked()
    raw = b"fffffffffffffff\r\n" + 1000 * b"x"
    assert body.feed(raw) == len(raw)
    assert body.feed(raw) == len(raw)
    assert not body.done


@pytest.mark.parametrize("length", [0, 1, 2, 5])
def test_a_sized_body_ends_where_it_ends_however_it_is_cut(length: int) -> None:
    whole = b"hello"[:length] + BEHIND
    assert Sized(length).done is (length == 0)
    for first, second in itertools.combinations(range(len(whole) + 1), 2):
        assert follow(Sized(length), [whole[:first], whole[first:second], whole[second:]]) == length
    assert Sized(length).feed(b"zz" + whole, 2) == length + 2
    body = Sized(length)
    assert follow(body, [whole[:length]]) == length
    assert (body.left, body.done) == (0, True)


def test_a_sized_body_that_is_cut_short_has_not_ended() -> None:
    body = Sized(5)
    assert body.feed(b"hell") == 4
    assert (body.left, body.done) == (1, False)


def test_a_body_until_its_connection_closes_never_ends_before() -> None:
    body = UntilClose()
    assert body.feed(BEHIND) == body.feed(BEHIND, 3) == len(BEHIND)
    assert not body.done
