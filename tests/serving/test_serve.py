"""``orca-sweep serve`` as a process without Ray: predictions, hostile clients, one port, a crash, and its end."""

import asyncio
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

import httpx
import numpy as np
import pandas as pd
import psutil
import pyarrow as pa
import pytest

import orca_ray
from orca_ray.adapted import Adapted
from orca_ray.serving.application import PREDICT
from orca_ray.serving.formats import ARROW, JSON
from orca_ray.testing.bodies import save_bert
from tests.serving.models import table_model
from tests.serving.test_application import ROWS, TOLERANCE, arrow_answer, stream

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TOKEN = "a-token-of-a-test-0123456789"
AUTHORIZED = {"Authorization": f"Bearer {TOKEN}"}
HEAD = f"POST {PREDICT} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: {JSON}\r\n".encode()
CLOSE = HEAD + b"Connection: close\r\n"
WITHOUT_RAY = (
    "import sys; sys.modules |= dict.fromkeys(['ray', 'optuna', 'fastapi']); import orca_ray.cli.main as m; m.entry()"
)


class Server:
    """A running command."""

    def __init__(self, home: Path, *arguments: str) -> None:
        environment = {"PATH": "", "HOME": str(home), "ORCA_RAY_HOME": str(home), "ORCA_RAY_SERVE_TOKEN": TOKEN}
        environment |= {"PYTHONPATH": str(Path(orca_ray.__file__).parents[1]), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", WITHOUT_RAY, "serve", str(home / "model"), "--port", "0", *arguments]
        self.process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        found = re.search(r"http://127.0.0.1:(\d+)/v1/predict", line)
        assert found, (line, self.process.communicate()[1])
        self.port = int(found[1])
        self.client = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", headers=AUTHORIZED, timeout=60)

    def raw(self, *parts: bytes, wait: float = 0) -> bytes:
        """Send parts of a request, with pauses between them; return what comes until the server ends the connection."""
        found = b""
        # the server may end the connection before it has read all
        with self.connect() as peer, contextlib.suppress(ConnectionError):
            for part in parts:
                peer.sendall(part)
                time.sleep(wait)
            while part := peer.recv(4096):
                found += part
        return found

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=30)


@pytest.fixture(scope="module")
def model(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapted:
    made = table_model(save_bert(tmp_path_factory.mktemp("bert")))
    made.save(module_home / "model")
    return made


@pytest.fixture(scope="module")
def server(module_home: Path, model: Adapted) -> Iterator[Server]:
    running = Server(module_home, "--max-body", "0.5", "--timeout", "2", "--rate", "100000")
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        out, error = running.process.communicate(timeout=60)
    assert (running.process.returncode, out, error) == (0, "stopped\n", "")


def test_predictions_are_those_of_the_model_in_one_batch(server: Server, model: Adapted) -> None:
    x = pd.DataFrame([{**ROWS[0], "age of cask": number / 10} for number in range(40)])
    expected, labels = model.predict_proba(x), model.predict(x).tolist()
    assert server.client.get("/readyz").json() == {"status": "ready"}
    answer = server.client.post(PREDICT, content=stream(pa.Table.from_pandas(x)), headers={"Content-Type": ARROW})
    found = arrow_answer(answer.content)
    assert found["predictions"].tolist() == labels
    assert np.allclose(found["probabilities"], expected, atol=TOLERANCE)

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=server.client.base_url, headers=AUTHORIZED, timeout=60) as client:
            requests = [client.post(PREDICT, json={"rows": [row]}) for row in x.to_dict("records")]
            return list(await asyncio.gather(*requests))

    for number, each in enumerate(asyncio.run(send())):
        assert each.json()["predictions"] == [labels[number]]
        assert np.allclose(each.json()["probabilities"], expected[number : number + 1], atol=TOLERANCE)
    alone = re.search(r'orca_ray_batch_samples_bucket\{le="1.0"\} (\S+)', server.client.get("/metrics").text)
    assert alone
    assert float(alone[1]) < 30


def test_one_port_listens_and_only_here(server: Server) -> None:
    process = psutil.Process(server.process.pid)
    assert not process.children()
    listening = [each.laddr for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]
    assert listening == [("127.0.0.1", server.port)]


def test_hostile_clients(server: Server) -> None:
    assert server.client.post(PREDICT, json={}, headers={"Authorization": "Bearer 0"}).status_code == 401
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    odd = b"X-Request-Id: \xff\r\nContent-Length: 2\r\n\r\n{}"
    for status, parts in (
        (b"413", [CLOSE + b"Content-Length: 99999999999\r\n\r\n"]),
        (b"413", [CLOSE + b"Transfer-Encoding: chunked\r\n\r\n", *[chunk] * 9]),
        (b"422", [CLOSE + odd]),
        (b"400", [b"nonsense\r\n\r\n"]),
        (b"400", [HEAD + b"Content-Length: -1\r\n\r\n"]),
    ):
        assert server.raw(*parts).startswith(b"HTTP/1.1 " + status), parts
    assert server.raw(HEAD + b"A: " + b"a" * 10**6 + b"\r\n\r\n")[:13] in (b"HTTP/1.1 400 ", b"")
    upgrade = b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n"
    with server.connect() as peer:
        peer.sendall(HEAD.replace(b"POST", b"GET") + upgrade + b"\r\n")
        assert peer.recv(100).split()[1].startswith(b"4")
    with server.connect() as peer:  # a client that goes away
        peer.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert server.client.get("/readyz").status_code == 200


def test_slow_senders(server: Server) -> None:
    begin = time.monotonic()
    body = server.raw(HEAD + b"Content-Length: 100\r\n\r\n", *[b"["] * 3, wait=0.5)
    assert body.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body.rpartition(b"\r\n")[2])["error"].startswith("the request took longer than 2 s; send fewer")
    assert server.raw(HEAD) == server.raw() == b""
    assert 5 < time.monotonic() - begin < 20
