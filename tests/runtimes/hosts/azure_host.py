"""Azure's part as far as its own library has it: function_app.py is loaded, and called with the library's own types.

The host and worker of Azure do not install here. What this does in their place: it serves each function's route below
/api, makes HttpRequests of requests and answers of HttpResponses with the library's converters, fires a timer for
POST /admin/functions/NAME as the host's administration does, and shows the registered functions at /admin/functions.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qsl, urlsplit

import function_app
from azure.functions import HttpResponse
from azure.functions.http import HttpRequestConverter, HttpResponseConverter
from azure.functions.meta import Datum
from azure.functions.timer import TimerRequestConverter

FUNCTIONS = {function.get_function_name(): function for function in function_app.app.get_functions()}
TIMER = {"IsPastDue": False, "Schedule": {"AdjustForDST": True}, "ScheduleStatus": {}}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path == "/admin/functions":
            shown = [json.loads(function.get_function_json()) | {"name": name} for name, function in FUNCTIONS.items()]
            self.say(200, {"Content-Type": "application/json"}, json.dumps(shown).encode())
        elif parts.path.startswith("/admin/functions/"):
            self.timer(parts.path.rpartition("/")[2])
        else:
            self.http(parts.path, dict(parse_qsl(parts.query)))

    do_HEAD = do_POST = do_GET

    def http(self, path: str, query: dict[str, str]) -> None:
        """`{action?}` below the prefix api: nothing, or one more part."""
        _, prefix, *rest = path.rstrip("/").split("/")
        function = FUNCTIONS["exollama"]
        if (
            prefix != "api"
            or len(rest) > 1
            or self.command not in [str(method) for method in function.get_trigger().methods]
        ):
            self.say(404, {}, b"")
            return
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        value: dict[str, Any] = {
            "method": Datum(self.command, "string"),
            "url": Datum(f"http://{self.headers['Host']}{self.path}", "string"),
            "headers": texts(dict(self.headers.items())),
            "query": texts(query),
            "params": texts({"action": rest[0]} if rest else {}),
            "body": Datum(body, "bytes"),
        }
        request = HttpRequestConverter.decode(Datum(value, "http"), trigger_metadata={})
        answer = function.get_user_function()(**{function.get_trigger().name: request})
        assert HttpResponseConverter.check_output_type_annotation(type(answer))
        said = HttpResponseConverter.encode(answer, expected_type=HttpResponse).value
        headers = {name: datum.value for name, datum in said["headers"].items()}
        self.say(int(said["status_code"].value), headers, said["body"].value)

    def timer(self, name: str) -> None:
        timer = TimerRequestConverter.decode(Datum(json.dumps(TIMER), "json"), trigger_metadata={})
        function = FUNCTIONS[name]
        try:
            function.get_user_function()(**{function.get_trigger().name: timer})
        except Exception as error:  # noqa: BLE001 - as the host does, which shows the call as failed
            self.say(500, {}, f"{type(error).__name__}: {error}".encode())
        else:
            self.say(202, {}, b"")

    def say(self, status: int, headers: dict[str, str], body: bytes) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


def texts(values: dict[str, str]) -> dict[str, Datum]:
    return {name: Datum(value, "string") for name, value in values.items()}


if __name__ == "__main__":
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
