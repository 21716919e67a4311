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

    status: int = 0
    """Status to answer with instead of the file."""
    drop_after: int | None = None
    """Close the connection after so many bytes of the body."""
    flip: int | None = None
    """Change the byte at this place of the file."""
    hold_after: int | None = None
    """Send so many bytes of the body, then wait until told to go on, or closed."""
    silent: bool = False
    """Send nothing, not even a status, until told to go on, or closed."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Headers that are sent besides."""


@dataclass
class Served:
    """One file of the server, and how it is served."""

    content: bytes
    etag: str | None = None
    """None: made from the content."""
    last_modified: str = ""
    ranges: bool = True
    """Whether Range is heeded."""
    heeds_if_range: bool = True
    longest_range: int | None = None
    """Answer a Range with so many bytes at most."""
    announced: bool = True
    """Whether Content-Length is sent."""
    content_type: str = "application/octet-stream"

    def tag(self) -> str:
        """Return the ETag of the file."""
        if self.etag is not None:
            return self.etag
        return f'"{hashlib.sha256(self.content).hexdigest()[:16]}"'


@dataclass
class Request:
    """A request that the server got."""

    path: str
    range: str
    if_range: str
    agent: str
    sent: int = 0
    """Bytes of the body that were sent so far."""


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
        self.gave_up = threading.Event()
        """Set when an answer has waited for 30 seconds."""

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
            changed = bytearray(content)
            changed[fault.flip] ^= 1
            content = bytes(changed)
        start = self._start(served)
        if start and start >= len(content):
            self._refuse(416, fault, path)
            return
        request = self._note(path)
        headers = {
            "ETag": served.tag(),
            "Last-Modified": served.last_modified,
            "Content-Type": served.content_type,
        }
        part = content
        if start:
            part = content[start:][: served.longest_range]
            end = start + len(part) - 1
            headers["Content-Range"] = f"bytes {start}-{end}/{len(content)}"
        if served.announced:
            headers["Content-Length"] = str(len(part))
        self._head(206 if start else 200, {**headers, **fault.headers})
        self._body(part, fault, request)
        if not served.announced:
            self.close_connection = True

    def _start(self, served: Served) -> int:
        """Return where the answer begins; 0 for the whole file."""
        match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if match is None or not served.ranges:
            return 0
        condition = self.headers.get("If-Range", "")
        is_same_version = condition in ("", served.tag(), served.last_modified)
        if served.heeds_if_range and not is_same_version:
            return 0
        return int(match[1])

    def _body(self, content: bytes, fault: Fault, request: Request) -> None:
        whole = len(content)
        stop = whole
        for limit in (fault.drop_after, fault.hold_after):
            if limit is not None:
                stop = min(stop, limit)
        try:
            while request.sent < stop:
                block = content[request.sent : min(request.sent + 8192, stop)]
                # before it goes: a client that has it all may look at the log
                request.sent += len(block)
                self.wfile.write(block)
            if fault.hold_after is not None:
                self.state.held.set()
                if not self.state.go_on.wait(30):
                    self.state.gave_up.set()
        except OSError:  # the client has gone
            self.close_connection = True
        if request.sent < whole:
            self.close_connection = True

    def _note(self, path: str) -> Request:
        request = Request(
            path,
            range=self.headers.get("Range", ""),
            if_range=self.headers.get("If-Range", ""),
            agent=self.headers.get("User-Agent", ""),
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
