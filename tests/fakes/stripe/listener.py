"""Owns the socket: reads HTTP requests in threads of their own and writes the answers."""

import json
import traceback
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answerer = Callable[[str, str, dict[str, str], bytes], tuple[int, dict[str, str], bytes] | None]


class Listener(ThreadingHTTPServer):
    """An HTTP server whose requests `answer` answers: (method, target, headers, body) to (status, headers, body), or None to hang up."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, address: tuple[str, int], answer: Answerer, tell: Callable[[str], None]) -> None:
        super().__init__(address, _Handler)
        self.answer = answer
        self.tell = tell

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that went away; defects of the fake are told where they happen."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: Listener

    def _serve(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        headers = {name.lower(): value for name, value in self.headers.items()}
        try:
            answer = self.server.answer(self.command, self.path, headers, body)
        except Exception as error:  # a defect of the fake must not pass for an answer of Stripe
            self.server.tell(f"{self.command} {self.path}: {error!r}")
            traceback.print_exc()
            told = json.dumps({"error": {"type": "api_error", "message": repr(error)}})
            answer = 500, {"Content-Type": "application/json"}, told.encode()
        if answer is None:
            self.close_connection = True
            return
        status, sent, content = answer
        self.send_response(status)
        for name, value in {**sent, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_DELETE = _serve  # noqa: N815  the library's names

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  the library's name
        """Stay silent."""
