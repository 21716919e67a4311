"""Faults of single requests to an object store, made by an HTTP proxy in front of a
real server.
"""

import http.client
import random
import threading
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BUSY = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please'
    b" reduce your request rate.</Message></Error>"
)
REQUEST_FAULTS = ("lost-request", "lost-reply", "twice", "late", "busy-reads", "busy")
"""Kinds of faults, see `RequestProxy`."""
READS = ("GET", "HEAD")
WRITES = ("PUT", "POST", "DELETE")


class RequestProxy:
    """Forwards HTTP requests to a port of this machine; while ``kind`` is set, a share
    of them meets a fault.

    Kinds: ``lost-request`` (a write is never forwarded, and the connection is closed),
        ``lost-reply`` (a write is
    forwarded, and the connection is closed), ``twice`` (a write is answered, and
    forwarded again up to three seconds later), ``late`` (the connection is closed, and
    the write forwarded up to three seconds later), ``busy-reads`` and ``busy`` (status
    503 for reads, or for everything).
    """

    def __init__(self, target: int, chance: random.Random, share: float = 0.3) -> None:
        """Listen on a free port, and forward to the port ``target``; ``share`` of the
        requests meet a fault.
        """
        self.kind = ""
        self.hit = 0
        """Number of requests that met a fault."""
        self.target = target
        self._chance = chance
        self._share = share
        self._lock = threading.Lock()
        self._server = _Server(
            ("127.0.0.1", 0), type("Handler", (_Handler,), {"proxy": self})
        )
        self._server.daemon_threads = True
        self.port = int(self._server.server_address[1])
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        """Listen no longer."""
        self._server.shutdown()
        self._server.server_close()

    def fault(self, method: str) -> str:
        """Return the kind of the fault that the next request meets; "" if it meets
        none.
        """
        methods = (
            READS
            if self.kind == "busy-reads"
            else READS + WRITES
            if self.kind == "busy"
            else WRITES
        )
        with self._lock:
            if (
                not self.kind
                or method not in methods
                or self._chance.random() >= self._share
            ):
                return ""
            self.hit += 1
            return self.kind

    def later(self) -> float:
        """Return the delay of a request that arrives late, in seconds."""
        with self._lock:
            return self._chance.uniform(0.0, 3.0)


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing: a client that is killed resets its connections."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: RequestProxy

    def log_message(self, format: str, *args: object) -> None:
        pass

    def _serve(self) -> None:
        # Captured now: a request that is forwarded later must not have the path of the
        # next one on this connection.
        forward = partial(
            self._forward,
            self.command,
            self.path,
            dict(self.headers.items()),
            self._body(),
        )
        fault = self.proxy.fault(self.command)
        if fault.startswith("busy"):
            self._answer(503, [("Content-Type", "application/xml")], BUSY)
        elif fault in ("lost-request", "late"):
            if fault == "late":
                threading.Timer(self.proxy.later(), forward).start()
            self._hang_up()
        else:
            status, headers, content = forward()
            if fault == "lost-reply":
                self._hang_up()
                return
            if fault == "twice":
                threading.Timer(self.proxy.later(), forward).start()
            self._answer(status, headers, content)

    do_GET = do_HEAD = do_PUT = do_POST = do_DELETE = _serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().split(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)

    def _forward(
        self, method: str, path: str, headers: dict[str, str], body: bytes
    ) -> tuple[int, list[tuple[str, str]], bytes]:
        connection = http.client.HTTPConnection(
            "127.0.0.1", self.proxy.target, timeout=60
        )
        kept = {
            name: value
            for name, value in headers.items()
            if name.lower() not in ("transfer-encoding", "expect")
        }
        try:
            connection.request(
                method, path, body, kept | {"Content-Length": str(len(body))}
            )
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(
        self, status: int, headers: list[tuple[str, str]], content: bytes
    ) -> None:
        self.send_response_only(status)
        length = str(len(content))
        for name, value in headers:
            if name.lower() == "content-length" and self.command == "HEAD":
                length = value
            elif name.lower() not in (
                "content-length",
                "transfer-encoding",
                "connection",
            ):
                self.send_header(name, value)
        self.send_header("Content-Length", length)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _hang_up(self) -> None:
        self.close_connection = True
