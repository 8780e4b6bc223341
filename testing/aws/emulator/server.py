"""The HTTP server around moto's WSGI application: werkzeug's, with connections that stay open.

Werkzeug closes the connection after each answer, because it cannot know whether the application has read the whole
request. Here the request is read whole before the application sees it, so the connection can stay. The SDKs reuse their
connections, and a connection pool that always meets closed ones is neither fast nor what the code meets in production.
"""

import http.client
import io
import sys
import traceback
from collections.abc import Iterable
from typing import Any

from moto.moto_server.werkzeug_app import MotoRequestHandler
from werkzeug.serving import ThreadedWSGIServer

WITHOUT_BODY = {204, 304}


class HangUp(Exception):
    """Raised by the application to have the connection cut without an answer."""


class Handler(MotoRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body of an answer leave in one packet

    def run_wsgi(self) -> None:
        if self.headers.get("Expect", "").strip().lower() == "100-continue":
            self.wfile.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            self.wfile.flush()
        environ = self._request()
        try:
            status, headers, body = self._answer(environ)
        except HangUp:
            self.close_connection = True
            return
        except Exception:
            traceback.print_exc(file=sys.stderr)
            status, headers, body = 500, [("Content-Type", "text/plain")], traceback.format_exc().encode()
        self._send(status, headers, body, has_body=environ["REQUEST_METHOD"] != "HEAD")

    def _request(self) -> dict[str, Any]:
        environ = self.make_environ()
        if environ.get("wsgi.input_terminated"):  # chunked: werkzeug's reader knows where it ends
            body = environ["wsgi.input"].read()
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        else:
            body = environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
        environ["wsgi.input"] = io.BytesIO(body)
        environ["CONTENT_LENGTH"] = str(len(body))
        environ["emulator.body"] = body
        return environ

    def _answer(self, environ: dict[str, Any]) -> tuple[int, list[tuple[str, str]], bytes]:
        head: list[Any] = []

        def start_response(status: str, headers: list[tuple[str, str]], _: object = None) -> None:
            head[:] = [int(status.split(None, 1)[0]), headers]

        parts: Iterable[bytes] = self.server.app(environ, start_response)
        try:
            body = b"".join(parts)
        finally:
            if hasattr(parts, "close"):
                parts.close()
        return head[0], head[1], body

    def _send(self, status: int, headers: list[tuple[str, str]], body: bytes, has_body: bool) -> None:
        self.send_response(status, http.client.responses.get(status, ""))
        for name, value in headers:
            lower = name.lower()
            # An answer to HEAD carries the length of a body that is not there; of all others the length is known here.
            if lower == "connection" or (lower == "content-length" and has_body):
                continue
            self.send_header(name, value)
        if has_body and status not in WITHOUT_BODY:
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if has_body and status not in WITHOUT_BODY:
            self.wfile.write(body)
        self.wfile.flush()

    def log_request(self, *_: Any, **__: Any) -> None:
        pass


def bind(port: int, application: Any) -> ThreadedWSGIServer:
    """Binds a port of the loopback; `serve_forever` of what it returns answers calls, one thread per connection."""
    return ThreadedWSGIServer("127.0.0.1", port, application, handler=Handler)
