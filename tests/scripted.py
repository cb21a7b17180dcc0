"""A `Send` that answers from a script, and the answers to put into it."""

import json
from collections.abc import Callable

from client.transport import Request, Response

Answer = Response | Exception | Callable[[Request], Response]


class Script:
    """A `Send` that answers from a list, the last one for ever, and keeps what it was sent."""

    def __init__(self, *answers: Answer) -> None:
        self.answers = list(answers)
        self.requests: list[Request] = []

    def __call__(self, request: Request) -> Response:
        self.requests.append(request)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer(request) if callable(answer) and not isinstance(answer, Response) else answer

    @property
    def methods(self) -> list[str]:
        return [request.method for request in self.requests]


def reply(body: object = None, code: int = 200, **headers: str) -> Response:
    """An answer of the API: JSON, or bytes as they are."""
    raw = body if isinstance(body, bytes) else json.dumps({} if body is None else body).encode()
    return Response(code, {name.replace("_", "-"): value for name, value in headers.items()}, raw)
