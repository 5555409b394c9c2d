"""An HTTP proxy on loopback that can be told to be slow, to answer 500, to lose answers, or to refuse connections."""

from __future__ import annotations

import http.client
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class FaultProxy:
    """Forwards to `127.0.0.1:port`. `fault(method, path)` returns what happens to a request: "", "500", "lost" or seconds of delay.

    "lost" forwards the request and closes the connection instead of answering: the server did what the client does not know.
    """

    def __init__(self, port: int):
        self.fault: Callable[[str, str], str | float] = lambda method, path: ""
        self.seen: list[tuple[str, str, str | float]] = []
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: Any) -> None:
                pass

            def forward(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = proxy.fault(self.command, self.path)
                proxy.seen.append((self.command, self.path, fault))
                if fault == "500":
                    self.answer(500, b'{"error_code": "INTERNAL_ERROR", "message": "planted"}', "application/json")
                    return
                if isinstance(fault, float):
                    time.sleep(fault)
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                headers = {k: v for k, v in self.headers.items() if k.lower() not in ("host", "connection")}
                connection.request(self.command, self.path, body, headers)
                response = connection.getresponse()
                content = response.read()
                connection.close()
                if fault == "lost":
                    self.close_connection = True
                    return
                self.answer(response.status, content, response.headers.get("Content-Type", ""))

            def answer(self, status: int, content: bytes, kind: str) -> None:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            do_GET = do_POST = do_PUT = do_PATCH = do_DELETE = forward

            def handle(self) -> None:
                try:
                    super().handle()
                except (ConnectionError, OSError):
                    return  # the client gave up waiting

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.thread = threading.Thread(target=self.server.serve_forever, daemon=True)
        self.thread.start()
        self.uri = f"http://127.0.0.1:{self.server.server_address[1]}"

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()
