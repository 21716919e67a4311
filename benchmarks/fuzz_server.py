"""Attacks real servers, and checks after each attack that nothing has changed.

``python -m benchmarks.fuzz_server --attacks 800 --seed 0`` trains two small models,
serves each by ``orca-sweep serve`` on loopback with a token, and prints a table.
``--only 17`` makes one attack of the seed.

While an attack runs, and after it, other addresses ask for ``/healthz`` and for
predictions. These are findings: a server that ends, ``/healthz`` later than
`HEALTH_SECONDS`, an answer with a status from 500 on except 503, a request without an
answer or end after `ANSWER_SECONDS`, more than `MOST_BYTES` of memory of a server and
its decoding process, other predictions, and no bit-equal predictions for
`RECOVERY_SECONDS`. Requests of the attacker that are still in a batch with others may
change their rounding. A decoding process that ends by its limits is no finding.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from http.client import HTTPConnection, HTTPException
from pathlib import Path

import numpy as np
import psutil

from benchmarks.server_attacks import (
    KINDS,
    TOKEN,
    Attack,
    ModelName,
    draw_attack,
    good_body,
)
from orca_ray.serving.application import PREDICT
from orca_ray.serving.reading import ARROW, JSON
from tests.serving.requests import arrow_answer

HEALTH_SECONDS = 2.0
"""Seconds within which ``/healthz`` must answer."""
ANSWER_SECONDS = 20.0
"""Seconds within which a complete request must have an answer, or its connection end.
"""
RECOVERY_SECONDS = 60.0
"""Seconds within which another client must have predictions again."""
TOLERANCE = 1e-5
"""Largest difference of a prediction in a batch with other requests."""
MOST_BYTES = 2 * 10**9
"""Memory that a server and its decoding process may take."""
REQUEST_SECONDS = 4
"""The server's option ``--timeout``."""
COMMAND = "from orca_ray.cli.main import entry; entry()"
"""Python code that runs the command line."""
_ATTACKER = "127.0.0.1"
_CLIENT = "127.0.0.2"
_MONITOR = "127.0.0.3"
"""Addresses of the attacker, of a client with valid requests, and of the one that asks
for the server's health. All are of the loopback network.
"""
_MEDIA = (JSON, ARROW)


@dataclass
class Outcome:
    """What one attack did."""

    number: int
    kind: str
    change: str
    codes: Counter[str] = field(default_factory=Counter)
    """Number of answers by status; ``closed`` for connections without an answer."""
    seconds: float = 0.0
    health_seconds: float = 0.0
    """Longest time in which ``/healthz`` answered."""
    recovery_seconds: float = 0.0
    """Time after which another client had predictions."""
    peak: int = 0
    """Largest memory of the server and its decoding process, in bytes."""
    findings: list[str] = field(default_factory=list)


class Server:
    """A process of ``orca-sweep serve`` with a model, and its clients."""

    def __init__(self, folder: Path, model: ModelName, command: str = COMMAND) -> None:
        self.model = model
        environment = {
            **os.environ,
            "ORCA_RAY_SERVE_TOKEN": TOKEN,
            "ORCA_RAY_HOME": str(folder),
            "OMP_NUM_THREADS": "1",
        }
        arguments = [
            "--port",
            "0",
            "--timeout",
            str(REQUEST_SECONDS),
            "--device",
            "cpu",
        ]
        self.log = (folder / f"{model}.log").open("w+")
        self.process = subprocess.Popen(
            [sys.executable, "-c", command, "serve", str(folder / model), *arguments],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        match = re.search(r"http://127.0.0.1:(\d+)/v1/predict", line)
        if match is None:
            raise RuntimeError(f"the server did not start: {line}{self.log_text()}")
        self.port = int(match[1])
        self._expected = {media: self.predictions(media) for media in _MEDIA}

    def log_text(self) -> str:
        """Return what the server has logged."""
        self.log.seek(0)
        return self.log.read()

    def close(self) -> None:
        """End the server as Ctrl-C does."""
        self.process.send_signal(signal.SIGINT)
        try:
            self.process.wait(60)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.log.close()

    def connect(self, source: str, seconds: float) -> socket.socket:
        """Return a connection from an address of the loopback network."""
        return socket.create_connection(
            ("127.0.0.1", self.port), timeout=seconds, source_address=(source, 0)
        )

    def health_seconds(self) -> float:
        """Return the seconds in which ``/healthz`` answers; OSError if it does not."""
        begin = time.monotonic()
        with contextlib.closing(self._client(_MONITOR, HEALTH_SECONDS)) as client:
            client.request("GET", "/healthz")
            answer = client.getresponse()
            if answer.status != 200 or b"ok" not in answer.read():
                raise OSError(f"/healthz answered {answer.status}")
        return time.monotonic() - begin

    def predictions(self, media: str) -> bytes:
        """Return the answer to a valid request; OSError for another status than 200."""
        with contextlib.closing(self._client(_CLIENT, ANSWER_SECONDS)) as client:
            headers = {"Content-Type": media, "Authorization": f"Bearer {TOKEN}"}
            client.request("POST", PREDICT, good_body(self.model, media), headers)
            answer = client.getresponse()
            content = answer.read()
            if answer.status != 200:
                raise OSError(f"{answer.status}: {content[:200]!r}")
            return content

    def compare_predictions(self) -> str:
        """Return ``equal``, ``close`` or ``other``, beside the first predictions.

        Predictions of a batch with requests of others round differently; see
        `TOLERANCE`.
        """
        found = "equal"
        for media in _MEDIA:
            content = self.predictions(media)
            if content == self._expected[media]:
                continue
            if not _are_close(media, content, self._expected[media]):
                return "other"
            found = "close"
        return found

    def memory(self) -> int:
        """Return the resident memory of the server and its children, in bytes."""
        total = 0
        with contextlib.suppress(psutil.NoSuchProcess):
            parent = psutil.Process(self.process.pid)
            for process in (parent, *parent.children(recursive=True)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    total += process.memory_info().rss
        return total

    def _client(self, source: str, seconds: float) -> HTTPConnection:
        return HTTPConnection(
            "127.0.0.1", self.port, timeout=seconds, source_address=(source, 0)
        )


def _are_close(media: str, content: bytes, expected: bytes) -> bool:
    """Return whether two answers have the same predictions but for rounding."""
    read = json.loads if media == JSON else arrow_answer
    found = read(content)
    wanted = read(expected)
    for name in wanted.keys() & {"predictions", "probabilities"}:
        difference = np.subtract(found[name], wanted[name], dtype=np.float64)
        if not (np.abs(difference) <= TOLERANCE).all():
            return False
    return True


class _Attacker:
    """Thread that sends an attack on one connection, and reads until its end."""

    def __init__(self, server: Server, attack: Attack) -> None:
        self.received = b""
        self.is_silent = False
        """Whether neither an answer nor the end of the connection came in time."""
        self._server = server
        self._attack = attack
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self) -> None:
        # The server may end the connection before it has read all.
        with (
            contextlib.suppress(ConnectionError),
            self._server.connect(_ATTACKER, ANSWER_SECONDS) as peer,
        ):
            try:
                self._send_and_read(peer)
            except TimeoutError:
                self.is_silent = not self.received

    def _send_and_read(self, peer: socket.socket) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            for part in self._attack.parts:
                peer.sendall(part)
                time.sleep(self._attack.pause)
        if self._attack.leaves:
            time.sleep(0.3)
            peer.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                self.received = peer.recv(2**20)
            return
        while part := peer.recv(2**16):
            self.received += part


def attack_server(server: Server, number: int, kind: str, attack: Attack) -> Outcome:
    """Make an attack, and return what it did."""
    outcome = Outcome(number, kind, attack.change)
    begin = time.monotonic()
    attackers = [_Attacker(server, attack) for _ in range(attack.num_connections)]
    _watch(server, attackers, outcome)
    outcome.seconds = time.monotonic() - begin
    for attacker in attackers:
        codes = re.findall(rb"(?:^|\n)HTTP/1\.1 (\d{3})", attacker.received)
        outcome.codes.update(code.decode() for code in codes)
        if attacker.is_silent:
            outcome.findings.append(f"no answer within {ANSWER_SECONDS:g} s")
        elif not codes:
            outcome.codes["closed"] += 1
    failures = [
        code for code in outcome.codes if code.startswith("5") and code != "503"
    ]
    if failures:
        outcome.findings.append(f"answered {', '.join(failures)}")
    _recover(server, outcome)
    if outcome.peak > MOST_BYTES:
        outcome.findings.append(f"took {outcome.peak / 1e6:,.0f} MB")
    if server.process.poll() is not None:
        outcome.findings.append(f"the server ended with {server.process.returncode}")
    return outcome


def _watch(server: Server, attackers: Sequence[_Attacker], outcome: Outcome) -> None:
    """Ask for the server's health and memory until all ``attackers`` are done."""
    is_running = True
    while is_running:
        is_running = any(attacker.thread.is_alive() for attacker in attackers)
        try:
            seconds = server.health_seconds()
        except (OSError, HTTPException) as error:
            outcome.findings.append(f"/healthz: {type(error).__name__} {error}")
            return
        outcome.health_seconds = max(outcome.health_seconds, seconds)
        outcome.peak = max(outcome.peak, server.memory())
        if is_running:
            time.sleep(0.01)


def _recover(server: Server, outcome: Outcome) -> None:
    """Wait until another client has predictions, and compare them with the first ones.

    A decoding process that has ended is started anew meanwhile.
    """
    begin = time.monotonic()
    reason = ""
    while time.monotonic() - begin < RECOVERY_SECONDS:
        try:
            found = server.compare_predictions()
            if found == "other":
                outcome.findings.append("other predictions")
            if found != "close":
                break
            reason = "predictions are not bit-equal"
        except (OSError, HTTPException) as error:
            reason = f"{type(error).__name__} {error}"
        if server.process.poll() is not None:
            break
        outcome.peak = max(outcome.peak, server.memory())
        time.sleep(0.1)
    else:
        outcome.findings.append(
            f"no equal predictions for {RECOVERY_SECONDS:g} s: {reason}"
        )
    outcome.recovery_seconds = time.monotonic() - begin


def save_models(folder: Path) -> None:
    """Train a model of arrays and a model of a table, and write them to ``folder``."""
    from orca_ray.data.rows import Target
    from orca_ray.testing.suite import save_bert
    from tests.serving.models import model, table_model

    bert = save_bert(folder / "bert")
    table_model(bert).save(folder / "table")
    model(bert, Target("scalar"), None).save(folder / "arrays")


@contextlib.contextmanager
def serve_models(folder: Path, command: str = COMMAND) -> Iterator[dict[str, Server]]:
    """Context manager: yield a server for each model in ``folder``, by name."""
    names: tuple[ModelName, ...] = ("arrays", "table")
    with contextlib.ExitStack() as stack:
        servers = dict[str, Server]()
        for name in names:
            servers[name] = Server(folder, name, command)
            stack.callback(servers[name].close)
        yield servers


def fuzz(
    servers: dict[str, Server], seed: int, numbers: Sequence[int]
) -> Iterator[Outcome]:
    """Yield the outcome of each attack; stop when a server has ended."""
    for number in numbers:
        kind, attack = draw_attack(seed, number)
        server = servers[attack.model]
        yield attack_server(server, number, kind, attack)
        if server.process.poll() is not None:
            return


def _row(name: str, outcomes: Sequence[Outcome]) -> str:
    codes: Counter[str] = sum((each.codes for each in outcomes), Counter[str]())
    listed = ", ".join(f"{code}: {codes[code]:,}" for code in sorted(codes))
    health = max(each.health_seconds for each in outcomes)
    slowest = max(each.seconds for each in outcomes)
    recovery = max(each.recovery_seconds for each in outcomes)
    peak = max(each.peak for each in outcomes)
    num_findings = sum(bool(each.findings) for each in outcomes)
    return (
        f"| {name} | {len(outcomes):,} | {listed} | {slowest:.1f} s |"
        f" {1000 * health:.0f} ms | {recovery:.1f} s | {peak / 1e6:,.0f} MB |"
        f" {num_findings} |"
    )


def table(outcomes: Sequence[Outcome]) -> str:
    """Return a Markdown table with a line for each kind and one for all."""
    lines = [
        "| kind | attacks | answers | slowest | slowest /healthz | next prediction"
        " after | most memory | findings |",
        "|---|--:|---|--:|--:|--:|--:|--:|",
    ]
    for kind in KINDS:
        of_kind = [each for each in outcomes if each.kind == kind]
        if of_kind:
            lines.append(_row(kind, of_kind))
    return "\n".join([*lines, _row("all", outcomes)])


def main() -> int:
    """Run the fuzzer from the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--attacks", type=int, default=800)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this attack alone")
    options = parser.parse_args()
    numbers = range(options.attacks) if options.only is None else [options.only]
    outcomes = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        os.environ["ORCA_RAY_HOME"] = name
        save_models(folder)
        with serve_models(folder) as servers:
            for outcome in fuzz(servers, options.seed, numbers):
                outcomes.append(outcome)
                for finding in outcome.findings:
                    where = (
                        f"{outcome.kind} --seed {options.seed} --only {outcome.number}"
                    )
                    print(f"{where}: {outcome.change}: {finding}", flush=True)
                if options.only is not None:
                    print(outcome)
            errors = [server.log_text()[-2000:] for server in servers.values()]
    print(table(outcomes))
    has_findings = any(outcome.findings for outcome in outcomes)
    if has_findings:
        print(*errors, sep="\n")
    return int(has_findings or len(outcomes) < len(numbers))


if __name__ == "__main__":
    sys.exit(main())
