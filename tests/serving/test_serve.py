"""``orca-sweep serve`` as a process: predictions, hostile clients, tokens, ports, and its end."""

import contextlib
import json
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import psutil
import pyarrow as pa
import pytest

import orca_ray
from orca_ray.predictor import Predictor
from orca_ray.serving.arrow import MEDIA_TYPE
from orca_ray.testing.bodies import save_bert
from tests.serving.models import save_wine, wine
from tests.serving.test_application import PATH, TOLERANCE, arrow_answer, fuzz, stream

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]

TOKEN = "a-token-of-a-test-0123456789"
LIMITS = ("--max-body", "0.5", "--timeout", "5", "--rate", "100000")


@dataclass
class Server:
    url: str
    process: "subprocess.Popen[str]"

    def post(self, **request: object) -> httpx.Response:
        headers = {"Authorization": f"Bearer {TOKEN}", **request.pop("headers", {})}  # type: ignore[dict-item]
        return httpx.post(self.url + PATH, headers=headers, timeout=60, **request)  # type: ignore[arg-type]

    def connect(self) -> socket.socket:
        host, _, port = self.url.removeprefix("http://").partition(":")
        return socket.create_connection((host, int(port)), timeout=30)

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


def start(*arguments: str, home: Path) -> Server:
    root = Path(orca_ray.__file__).parents[1]
    environment = {"PATH": "", "HOME": str(home), "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    environment |= {"ORCA_RAY_HOME": str(home), "RAY_worker_niceness": "0", "ORCA_RAY_SERVE_TOKEN": TOKEN}
    process = subprocess.Popen(
        [sys.executable, "-m", "orca_ray.cli.main", "serve", *arguments, "--port", "0"],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    found = re.search(r"http://[^/]+", line)
    assert found, (line, process.communicate()[1])
    return Server(found[0], process)


@pytest.fixture(scope="module")
def model(module_home: Path, tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return save_wine(module_home / "model", save_bert(tmp_path_factory.mktemp("bert")))


@pytest.fixture(scope="module")
def server(module_home: Path, model: Predictor) -> Iterator[Server]:
    running = start(str(module_home / "model"), *LIMITS, home=module_home)
    parent = psutil.Process(running.process.pid)
    family = [parent, *parent.children(recursive=True)]
    try:
        yield running
    finally:
        running.process.send_signal(signal.SIGINT)
        out, error = running.process.communicate(timeout=60)
    assert (running.process.returncode, out, error) == (0, "stopped\n", "")
    time.sleep(2)
    assert not [each for each in family if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_predictions_are_those_of_the_model(server: Server, model: Predictor) -> None:
    x = wine()
    for count in (1, len(x)):
        part = x.iloc[:count]
        found = server.post(json={"rows": part.to_dict("records")}).json()
        assert found["predictions"] == model.predict(part).tolist()
        assert np.allclose(found["probabilities"], model.predict_proba(part), atol=TOLERANCE)
        answer = server.post(content=stream(pa.Table.from_pandas(part)), headers={"Content-Type": MEDIA_TYPE})
        again = arrow_answer(answer.content)
        assert again["predictions"].tolist() == found["predictions"]
        assert np.allclose(again["probabilities"], found["probabilities"], atol=TOLERANCE)


def test_requests_that_arrive_together_are_one_batch(server: Server, model: Predictor) -> None:
    import asyncio

    rows = wine().to_dict("records")
    expected = model.predict_proba(wine())

    async def send() -> list[httpx.Response]:
        async with httpx.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=60) as client:
            requests = [client.post(server.url + PATH, json={"rows": [row]}) for row in rows[:40]]
            return list(await asyncio.gather(*requests))

    for number, answer in enumerate(asyncio.run(send())):
        assert np.allclose(answer.json()["probabilities"], expected[number : number + 1], atol=TOLERANCE)
    lines = httpx.get(server.url + "/metrics", headers={"Authorization": f"Bearer {TOKEN}"}).text
    alone = re.search(r'orca_ray_batch_samples_bucket\{le="1.0"\} (\S+)', lines)
    assert alone
    assert float(alone[1]) < 30


def test_only_the_endpoint_listens_and_only_here(server: Server) -> None:
    parent = psutil.Process(server.process.pid)
    found = [each.laddr.ip for process in (parent, *parent.children(recursive=True))
             for each in process.net_connections("inet") if each.status == psutil.CONN_LISTEN]  # fmt: skip
    assert {ip.removeprefix("::ffff:") for ip in found} == {"127.0.0.1"}


HEAD = (
    f"POST {PATH} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n".encode()
)


def test_hostile_clients(server: Server) -> None:
    assert server.post(content=b"[" * 400_000, headers={"Content-Type": "application/json"}).status_code == 422
    assert server.post(content=b"1" * 600_000, headers={"Content-Type": "application/json"}).status_code == 413
    assert server.post(json={"rows": []}, headers={"Authorization": f"Bearer {TOKEN}0"}).status_code == 401
    large = server.raw(HEAD + b"Connection: close\r\nContent-Length: 99999999999\r\n\r\n")
    assert large.startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b"x" * 2**16 + b"\r\n"
    endless = server.raw(HEAD + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n", *[chunk] * 9)
    assert endless.startswith(b"HTTP/1.1 413 ")
    for wrong in (b"nonsense\r\n\r\n", HEAD + b"Content-Length: -1\r\n\r\n"):
        assert server.raw(wrong).startswith(b"HTTP/1.1 400 ")
    assert server.raw(HEAD + b"A: " + b"a" * 10**6 + b"\r\n\r\n")[:13] in (b"HTTP/1.1 400 ", b"")
    odd = server.raw(HEAD + b"X-Request-Id: \xff\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
    assert odd.startswith(b"HTTP/1.1 422 ")
    upgrade = (
        b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: eA==\r\n\r\n"
    )
    with server.connect() as peer:
        peer.sendall(HEAD.replace(b"POST", b"GET") + upgrade)
        assert peer.recv(100).split()[1].startswith(b"4")
    with server.connect() as peer:  # a client that goes away
        peer.sendall(HEAD + b"Content-Length: 100\r\n\r\n{")
    assert httpx.get(server.url + "/readyz").json() == {"status": "ready"}


def test_slow_senders(server: Server) -> None:
    begin = time.monotonic()
    body = server.raw(HEAD + b"Content-Length: 100\r\n\r\n", *[b"["] * 3, wait=1)
    assert body.startswith(b"HTTP/1.1 408 ")
    assert json.loads(body.rpartition(b"\r\n")[2])["error"].startswith("the request took longer than 5 s; send fewer")
    assert server.raw(HEAD) == b""
    assert server.raw() == b""
    assert 12 < time.monotonic() - begin < 40


def test_a_fuzzer_finds_no_server_error(server: Server) -> None:
    def load(schemathesis: object) -> object:
        headers = {"Authorization": f"Bearer {TOKEN}"}
        return schemathesis.openapi.from_url(server.url + "/openapi.json", headers=headers)  # type: ignore[attr-defined]

    fuzz(load, examples=30)
