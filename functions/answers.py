"""What goes back over HTTP, in the form that was asked for: JSON, or the status as metrics or as a page for a browser.

Neighbours: `functions.calls` says which form, `functions.faas` hands it to the platform. What writes a form is imported
once that is wanted.
"""

import json
from collections.abc import Callable, Mapping
from typing import Any, Final, NamedTuple

from client import metrics


class Form(NamedTuple):
    """A form of answers: what makes text of one, its further headers, and by which scheme a token is asked for."""

    content_type: str
    text: Callable[[Mapping[str, Any]], str]
    headers: Callable[[], Mapping[str, str]] = dict
    challenge: str = "Bearer"


def _page(said: Mapping[str, Any]) -> str:
    from client import page

    return page.html(said) if "instances" in said else page.failed(str(said["error"]))


def _page_headers() -> Mapping[str, str]:
    from client import page

    return page.headers()


def _metrics(said: Mapping[str, Any]) -> str:
    from functions import shown

    return shown.prometheus(said)


FORMS: Final[Mapping[str, Form]] = {
    "json": Form("application/json", json.dumps),
    "prometheus": Form(metrics.CONTENT_TYPE, _metrics),
    "html": Form("text/html; charset=utf-8", _page, _page_headers, 'Basic realm="exollama", charset="UTF-8"'),
}


class Answer:
    """What goes back: an HTTP status, headers, and text as bytes. `length` of it, though HEAD gets none."""

    def __init__(
        self, status: int, said: Mapping[str, Any], *, form: str = "json", allow: str | None = None, head: bool = False
    ) -> None:
        written = FORMS[form]
        body = written.text(said).encode()
        self.status = status
        self.body = b"" if head else body
        self.length = len(body)
        self.headers = {"Content-Type": written.content_type, "Cache-Control": "no-store", **written.headers()}
        if "retry_after_s" in said:
            self.headers["Retry-After"] = str(said["retry_after_s"])
        if status == 401:
            self.headers["WWW-Authenticate"] = written.challenge
        if allow:
            self.headers["Allow"] = allow
