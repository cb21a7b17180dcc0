"""The signature agrees with Exoscale's known answer, its Python signer's golden vectors, and that signer itself."""

from types import SimpleNamespace
from urllib.parse import quote, urlencode

import pytest
from exoscale_auth import ExoscaleV2Auth
from hypothesis import given
from hypothesis import strategies as st

from client.signature import VALIDITY_S, sign

GOLDEN_KEY, GOLDEN_SECRET, GOLDEN_EXPIRES = "EXO" + 24 * "x", 43 * "X", 3376684800
HOST = "https://api-ch-gva-2.exoscale.com/v2"


def test_exoscales_known_answer_comes_out() -> None:
    url = "https://api.exoscale.com/v2/resource/a02baf5a-a3e4-49a0-857b-8a08d276c1c0?p2=v2&p1=v1"
    assert sign("example-key", "example-secret", "GET", url, expires=1599140767) == (
        "EXO2-HMAC-SHA256 credential=example-key,signed-query-args=p1;p2,expires=1599140767,"
        "signature=vPVxcXrf2my0TLdJ8WPIGa/vLld+FiJN+xtMs/vofHg="
    )


@pytest.mark.parametrize(
    ("method", "path", "body", "signed_args", "signature"),
    [
        ("GET", "/zone", b"", "", "Ntbq/p0HVmA3Zg1HHY+Lq1vjFGi7HeMrrgXDS5jRNlY="),
        ("GET", "/zone?k1=v1&k2=v2", b"", "signed-query-args=k1;k2,", "iqOBz13+44L5j0uJclE8hmUhQQcvtCSoPEOXYK6liqY="),
        ("POST", "/load-balancer", b'{"name": "foo"}', "", "duldkM0+pgWRtUznj0rMrZauzsYOtSVLn1LCGcs7CcE="),
    ],
    ids=["plain", "query", "body"],
)
def test_the_golden_vectors_of_the_official_signer_come_out(
    method: str, path: str, body: bytes, signed_args: str, signature: str
) -> None:
    url = f"https://api.exoscale.com/v2{path}"
    assert sign(GOLDEN_KEY, GOLDEN_SECRET, method, url, body, expires=GOLDEN_EXPIRES) == (
        f"EXO2-HMAC-SHA256 credential={GOLDEN_KEY},{signed_args}expires={GOLDEN_EXPIRES},signature={signature}"
    )


segments = st.text(min_size=1, max_size=12).map(lambda text: quote(text, safe=""))
paths = st.builds(
    lambda parts, suffix: "/" + "/".join(parts) + suffix,
    st.lists(segments, min_size=1, max_size=4),
    st.sampled_from(["", ":start", ":stop", ":reset-field"]),
)
queries = st.dictionaries(st.text(min_size=1, max_size=8), st.text(min_size=1, max_size=12), max_size=4)
tokens = st.text("abcXYZ0189-_+/", min_size=3, max_size=40)


@given(
    key=tokens,
    secret=st.text(min_size=1, max_size=40),
    method=st.sampled_from(["GET", "POST", "PUT", "DELETE"]),
    path=paths,
    query=queries,
    body=st.binary(max_size=200),
    expires=st.integers(0, 2**40),
)
def test_every_request_is_signed_as_the_official_signer_signs_it(
    key: str, secret: str, method: str, path: str, query: dict[str, str], body: bytes, expires: int
) -> None:
    url = HOST + path + (f"?{urlencode(query)}" if query else "")
    request = SimpleNamespace(method=method, url=url, body=body or None, headers={})
    ExoscaleV2Auth(key, secret)._sign_request(request, expires)
    assert sign(key, secret, method, url, body, expires=expires) == request.headers["Authorization"]


@given(path=paths, query=queries.filter(bool))
def test_the_order_of_the_query_parameters_does_not_change_the_signature(path: str, query: dict[str, str]) -> None:
    there = f"{HOST}{path}?{urlencode(query)}"
    back = f"{HOST}{path}?{urlencode(dict(reversed(query.items())))}"
    assert sign("key", "secret", "GET", there, expires=1) == sign("key", "secret", "GET", back, expires=1)


@pytest.mark.parametrize(
    ("method", "url", "body", "expires"),
    [
        ("PUT", f"{HOST}/instance/a", b"{}", 1),
        ("POST", f"{HOST}/instance/b", b"{}", 1),
        ("POST", f"{HOST}/instance/a?x=1", b"{}", 1),
        ("POST", f"{HOST}/instance/a", b"{ }", 1),
        ("POST", f"{HOST}/instance/a", b"{}", 2),
        ("POST", f"{HOST}/instance/%61", b"{}", 1),
    ],
    ids=["method", "path", "query", "body", "expires", "escape"],
)
def test_whatever_is_changed_changes_the_signature(method: str, url: str, body: bytes, expires: int) -> None:
    before = sign("key", "secret", "POST", f"{HOST}/instance/a", b"{}", expires=1).rpartition("signature=")[2]
    assert sign("key", "secret", method, url, body, expires=expires).rpartition("signature=")[2] != before


@pytest.mark.parametrize("query", ["a=1&a=2", "a=", "a", "a=1&b="], ids=["repeated", "blank", "bare", "one blank"])
def test_parameters_that_official_signers_disagree_on_are_refused(query: str) -> None:
    with pytest.raises(ValueError, match="repeated or blank query parameters"):
        sign("key", "secret", "GET", f"{HOST}/zone?{query}", expires=1)


def test_a_signature_holds_for_the_ten_minutes_that_every_official_client_takes() -> None:
    assert VALIDITY_S == 600
