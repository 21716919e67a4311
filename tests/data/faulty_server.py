"""A web server on loopback that serves files from memory, and misbehaves on demand."""

import hashlib
import re
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass
class Fault:
    """What is wrong with one answer; the default is nothing."""

    status: int = 0  # answer this instead of the file
    drop_after: int | None = (
        None  # close the connection after so many bytes of the body
    )
    flip: int | None = None  # change the byte at this place of the file
    hold_after: int | None = (
        None  # send so many bytes of the body, then wait until told to go on, or closed
    )
    silent: bool = (
        False  # send nothing, not even a status, until told to go on, or closed
    )
    headers: Mapping[str, str] = field(default_factory=dict)  # sent besides


@dataclass
class Served:
    """One file of the server, and how it is served."""

    content: bytes
    etag: str | None = None  # None: made from the content
    last_modified: str = ""
    ranges: bool = True  # whether Range is heeded
    heeds_if_range: bool = True
    longest_range: int | None = None  # answer a Range with so many bytes at most
    announced: bool = True  # whether Content-Length is sent
    content_type: str = "application/octet-stream"

    def tag(self) -> str:
        return (
            f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'
            if self.etag is None
            else self.etag
        )


@dataclass
class Request:
    path: str
    range: str
    if_range: str
    agent: str
    sent: int = 0  # bytes of the body that were sent so far


class Server:
    """Files by path, faults by path in the order of requests, and a log."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.files: dict[str, Served] = {}
        self.faults: defaultdict[str, list[Fault]] = defaultdict(list)
        self.log: list[Request] = []
        self.go_on = threading.Event()
        self.held = threading.Event()
        """Set when an answer waits (`Fault.hold_after`)."""

    def add(self, path: str, content: bytes, *faults: Fault) -> str:
        """Serve a file, its first answers with faults, and return its address."""
        self.files[path] = Served(content)
        self.faults[path] = list(faults)
        return f"{self.url}/{path}"

    def gets(self, path: str) -> list[Request]:
        return [request for request in self.log if request.path == path]


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state: Server

    def log_message(self, *_: object) -> None:
        """Keep test output clean."""

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        served = self.state.files.get(path)
        faults = self.state.faults[path]
        fault = faults.pop(0) if faults else Fault()
        if fault.silent:
            self._note(path)
            self.state.go_on.wait(30)
            self.close_connection = True
        elif served is None or fault.status:
            self._refuse(fault.status or 404, fault, path)
        else:
            self._send(path, served, fault)

    def _refuse(self, status: int, fault: Fault, path: str) -> None:
        self._note(path)
        self._head(status, {**fault.headers, "Content-Length": "0"})

    def _head(self, status: int, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            if value:
                self.send_header(name, value)
        self.end_headers()

    def _send(self, path: str, served: Served, fault: Fault) -> None:
        content = served.content
        if fault.flip is not None:
            content = (
                content[: fault.flip]
                + bytes([content[fault.flip] ^ 1])
                + content[fault.flip + 1 :]
            )
        start = self._start(served)
        if start and start >= len(content):
            self._refuse(416, fault, path)
            return
        request = self._note(path)
        part = content[start:][: served.longest_range] if start else content
        headers = {
            "Content-Range": (
                f"bytes {start}-{start + len(part) - 1}/{len(content)}" if start else ""
            ),
            "Content-Length": str(len(part)) if served.announced else "",
            "ETag": served.tag(),
            "Last-Modified": served.last_modified,
            "Content-Type": served.content_type,
        }
        self._head(206 if start else 200, {**headers, **fault.headers})
        self._body(part, fault, request)
        if not served.announced:
            self.close_connection = True

    def _start(self, served: Served) -> int:
        """Return where the answer begins; 0 for the whole file."""
        wanted = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if wanted is None or not served.ranges:
            return 0
        condition = self.headers.get("If-Range", "")
        if (
            condition
            and served.heeds_if_range
            and condition not in (served.tag(), served.last_modified)
        ):
            return 0
        return int(wanted[1])

    def _body(self, content: bytes, fault: Fault, request: Request) -> None:
        whole = len(content)
        stop = min(
            each
            for each in (whole, fault.drop_after, fault.hold_after)
            if each is not None
        )
        try:
            while request.sent < stop:
                block = content[request.sent : min(request.sent + 8192, stop)]
                request.sent += len(
                    block
                )  # before it goes: a client that has it all may look at the log
                self.wfile.write(block)
            if fault.hold_after is not None:
                self.state.held.set()
                self.state.go_on.wait(30)
        except OSError:  # the client has gone
            self.close_connection = True
        if request.sent < whole:
            self.close_connection = True

    def _note(self, path: str) -> Request:
        find = self.headers.get
        request = Request(
            path, find("Range", ""), find("If-Range", ""), find("User-Agent", "")
        )
        self.state.log.append(request)
        return request


class _Threads(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, *_: object) -> None:
        """A client that goes away is part of the tests."""


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server on a free port of loopback until the block ends."""

    class Handler(_Handler):
        pass

    with _Threads(("127.0.0.1", 0), Handler) as server:
        Handler.state = state = Server(server.server_port)
        thread = threading.Thread(
            target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True
        )
        thread.start()
        try:
            yield state
        finally:
            state.go_on.set()
            server.shutdown()
            thread.join()
