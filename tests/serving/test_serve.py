"""``orca-sweep serve`` as a process without Ray.

Predictions, hostile clients, one port, and the end of the process.
"""

import asyncio
import concurrent.futures
import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import httpx
import pandas as pd
import psutil
import pytest
from uvicorn.server import ServerState

import orca_ray
from orca_ray.cli import predict
from orca_ray.predictor import Predictor
from orca_ray.serving.application import PREDICT
from orca_ray.serving.reading import JSON
from orca_ray.testing.suite import save_bert
from tests.serving.models import table_model
from tests.serving.requests import ROWS

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "a-token-of-a-test-0123456789"
HEAD = (
    f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer"
    f" {TOKEN}\r\nContent-Type: {JSON}\r\n".encode()
)
CLOSE = HEAD + b"Connection: close\r\n"
COMMAND = (
    "import sys; sys.modules |= dict.fromkeys(['ray', 'optuna']); from"
    " orca_ray.cli.main import entry; entry()"
)


class Server:
    def __init__(self, home: Path, *arguments: str) -> None:
        environment = {
            "PATH": "",
            "HOME": str(home),
            "ORCA_RAY_HOME": str(home),
            "ORCA_RAY_SERVE_TOKEN": TOKEN,
        }
        environment |= {
            "PYTHONPATH": str(Path(orca_ray.__file__).parents[1]),
            "OMP_NUM_THREADS": "1",
        }
        command = [
            sys.executable,
            "-c",
            COMMAND,
            "serve",
            str(home / "model"),
            "--port",
            "0",
            *arguments,
        ]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process: subprocess.Popen[str] = subprocess.Popen(
            command, env=environment, **pipes
        )  # type: ignore[call-overload]
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://127.0.0.1:(\d+)/v1/predict", line)
        assert match, (line, self.process.communicate()[1])
        self.port = int(match[1])
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        self.client = httpx.Client(
            base_url=f"http://127.0.0.1:{self.port}", headers=authorized, timeout=60
        )

    def raw(self, *parts: bytes, wait: float = 0) -> bytes:
        """Send parts of a request, with pauses between them.

        Return what comes until the server ends the connection.
        """
        received = b""
        # the server may end the connection before it has read all
        with self.connect() as peer, contextlib.suppress(ConnectionError):
            for part in parts:
                peer.sendall(part)
                time.sleep(wait)
            while part := peer.recv(4096):
                received += part
        return received

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture(scope="module")
def model(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    predictor = table_model(save_bert(tmp_path_factory.mktemp("bert")))
    predictor.save(module_home / "model")
    return predictor


@pytest.fixture(scope="module")
def server(module_home: Path, model: Predictor) -> Iterator[Server]:
    running = Server(
        module_home, "--max-body", "0.5", "--timeout", "2", "--rate", "100000"
    )
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        out, error = running.process.communicate(timeout=60)
    assert (running.process.returncode, out) == (0, "stopped\n")
    # `test_a_request_that_never_ends_stops_no_other_and_no_health_check` ends a process
    lines = error.splitlines()
    assert [line for line in lines if "decoding a request" not in line] == []


def test_it_predicts_and_listens_on_one_port_only_here(
    server: Server, model: Predictor
) -> None:
    assert server.client.get("/readyz").json() == {"status": "ready"}
    answer = server.client.post(PREDICT, json={"rows": ROWS}).json()
    assert answer["predictions"] == model.predict(pd.DataFrame(ROWS)).tolist()
    process = psutil.Process(server.process.pid)
    (decoder,) = process.children()
    assert not decoder.net_connections("inet")
    listening = [
        connection.laddr
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    ]
    assert listening == [("127.0.0.1", server.port)]


def test_hostile_clients(server: Server) -> None:
    assert (
        server.client.post(
            PREDICT, json={}, headers={"Authorization": "Bearer 0"}
        ).status_code
        == 401
    )
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    for status, parts in (
        (b"413", [CLOSE + b"Content-Length: 99999999999\r\n\r\n"]),
        (b"413", [CLOSE + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 9]),
        (b"422", [CLOSE + b"X-Request-Id: \xff\r\nContent-Length: 2\r\n\r\n{}"]),
        (
            b"405",
            [
                CLOSE.replace(b"POST", b"GET").replace(b"close", b"close, Upgrade")
                + b"Upgrade: websocket\r\n\r\n"
            ],
        ),
        (b"400", [b"nonsense\r\n\r\n"]),
        (b"400", [HEAD + b"Content-Length: -1\r\n\r\n"]),
    ):
        assert server.raw(*parts).startswith(b"HTTP/1.1 " + status), parts
    assert server.raw(HEAD + b"A: " + b"a" * 10**6 + b"\r\n\r\n")[:13] in (
        b"HTTP/1.1 400 ",
        b"",
    )
    with server.connect() as peer:  # a client that goes away
        peer.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert server.client.get("/readyz").status_code == 200


def test_a_request_that_never_ends_stops_no_other_and_no_health_check(
    server: Server,
) -> None:
    """The decoding process is stopped: nothing that it does can take longer."""
    assert server.client.post(PREDICT, json={"rows": ROWS}).status_code == 200
    (decoder,) = psutil.Process(server.process.pid).children()
    decoder.suspend()
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        stuck = pool.submit(server.client.post, PREDICT, json={"rows": ROWS})
        assert server.client.get("/healthz").status_code == 200
        assert not stuck.done()
        assert stuck.result().status_code in (408, 422)
    # the first request of a new process waits until it has started
    for _ in range(20):
        if server.client.post(PREDICT, json={"rows": ROWS}).status_code == 200:
            break
    assert not decoder.is_running()


def test_slow_senders(server: Server) -> None:
    begin = time.monotonic()
    body = server.raw(HEAD + b"Content-Length: 100\r\n\r\n", *[b"["] * 3, wait=0.5)
    assert body.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body.rpartition(b"\r\n")[2])["error"].startswith(
        "the request took longer than 2 s, or"
    )
    assert server.raw(HEAD) == b""
    assert server.raw() == b""
    # Each of the three connections had its 2 s; one that does not end is an error of
    # the socket, which waits for 30 s.
    assert time.monotonic() - begin > 5


def test_the_oldest_idle_connection_ends_for_one_too_many(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(predict, "MOST_CONNECTIONS", 2)
    config = predict._server_config(Mock(), 60.0)
    config.load()
    protocol: Any = config.http_protocol_class

    async def connect() -> None:
        for transport in transports:
            protocol(config, ServerState(), {}).connection_made(transport)

    transports = [Mock(get_extra_info=Mock(return_value=None)) for _ in range(3)]
    asyncio.run(connect())
    assert [transport.abort.called for transport in transports] == [True, False, False]
