"""Notices about a sweep: what is sent, and that they never disturb the sweep."""

import contextlib
import json
import logging
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from orca_ray.cli.options import remember_arguments, typed_command
from orca_ray.errors import ClusterLostError, UserError
from orca_ray.results.record import Status
from orca_ray.results.store import ResultsStore
from orca_ray.sweep.run import events, notices
from orca_ray.sweep.run.notices import Notifier
from tests.sweep.fakes import new_controller, play

SUMMARY = events.Summary(
    sweep="fake/full", planned=3, finished_before=0, ran=3, statuses={}
)


@pytest.fixture
def received() -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Run a server, and yield its URL and notices.

    It answers /broken with status 500, and /moved with an endless redirect.
    """
    bodies: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            size = int(self.headers["Content-Length"])
            bodies.append(json.loads(self.rfile.read(size)))
            if self.path.startswith("/moved"):
                self.send_response(302)
                self.send_header("Location", "/")
                self.end_headers()
                with contextlib.suppress(OSError):
                    while True:
                        self.wfile.write(b"x" * 2**16)
            self.send_response(500 if self.path.startswith("/broken") else 200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            return

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", bodies
    server.shutdown()
    server.server_close()
    thread.join()


def writes_to(path: Path) -> str:
    """Return a command that appends its input to a file."""
    return f"sh -c 'cat >> {path}; echo >> {path}'"


def run_until(error: BaseException, target: str) -> None:
    """Play a sweep that loses a node, and ends with an exception."""
    with Notifier(target) as notifier:
        notifier(events.SweepStarted("fake/full", "here", ()))
        notifier(events.Message("fetching", passing=True))
        notifier(events.Message("no more trials on node a", is_alarm=True))
        raise error


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_end_of_a_sweep_is_posted_to_a_url(
    store: ResultsStore, received: tuple[str, list[dict[str, Any]]]
) -> None:
    url, bodies = received
    with Notifier(url) as notifier:
        controller = new_controller(store, listener=notifier)
        play(controller)
        notifier(events.SweepFinished(controller.summary()))
    (notice,) = bodies
    assert notice["event"] == "finished"
    assert notice["sweep"] == "fake/full"
    assert notice["text"] == "fake/full: done: 24 of 24 trials"


@pytest.mark.parametrize(
    ("changes", "event"),
    [
        ({}, "finished"),
        ({"interrupted": True}, "interrupted"),
        ({"unfinished": ("pocket/digits nft: no data",)}, "failed"),
    ],
)
def test_a_command_gets_the_end_on_its_input(
    tmp_path: Path, changes: dict[str, Any], event: str
) -> None:
    path = tmp_path / "notices"
    summary = events.Summary(
        **{**vars(SUMMARY), "statuses": {Status.COMPLETED: 3}, **changes}
    )
    with Notifier(writes_to(path)) as notifier:
        notifier(events.SweepFinished(summary))
    (notice,) = read(path)
    assert notice["event"] == event
    assert "3 of 3 trials" in notice["text"]


def test_a_node_in_quarantine_a_lost_cluster_and_errors_are_told(
    tmp_path: Path,
) -> None:
    path = tmp_path / "notices"
    for error in (ClusterLostError("the cluster is gone"), KeyboardInterrupt()):
        with pytest.raises(type(error)):
            run_until(error, writes_to(path))
    assert [notice["event"] for notice in read(path)] == [
        "quarantine",
        "cluster_lost",
        "quarantine",
        "interrupted",
    ]


def test_credentials_and_control_characters_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "notices"
    text = "cannot write s3://KEY:SECRET@bucket/a\x1b[2J" + "x" * 5000
    with pytest.raises(UserError), Notifier(writes_to(path)):
        raise UserError(text)
    (notice,) = read(path)
    assert "SECRET" not in notice["text"]
    assert "\x1b" not in notice["text"]
    assert len(notice["text"]) == notices.MAX_TEXT


@pytest.mark.parametrize(
    ("target", "reason"),
    [
        ("/broken/services/T0/SECRET", "status 500"),
        ("/moved/services/T0/SECRET", "status 302"),
        ("false", "code 1"),
        ("http://127.0.0.1:9/SECRET", "Connection refused"),
    ],
)
def test_a_notice_that_fails_is_logged_once_without_its_target(
    received: tuple[str, list[dict[str, Any]]],
    caplog: pytest.LogCaptureFixture,
    target: str,
    reason: str,
) -> None:
    if target.startswith("/"):
        target = received[0] + target
    with caplog.at_level(logging.WARNING), Notifier(target) as notifier:
        for _ in range(3):
            notifier(events.SweepFinished(SUMMARY))
    (record,) = caplog.records
    assert reason in record.getMessage()
    assert "SECRET" not in record.getMessage()


def test_a_command_that_hangs_is_ended_with_its_children(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    monkeypatch.setattr(notices, "SECONDS", 0.5)
    late = tmp_path / "late"
    with Notifier(f"sh -c '(sleep 3; touch {late}) & wait'") as notifier:
        start = time.monotonic()
        notifier(events.SweepFinished(SUMMARY))
        assert time.monotonic() - start < 0.3
    assert time.monotonic() - start < 2.5
    assert "more than 0.5 s" in caplog.text
    time.sleep(3)
    assert not late.exists()


@pytest.mark.parametrize("target", ["", "no-such-command", "'", "http://", "ftp://a/b"])
def test_a_target_that_cannot_be_used_is_refused(target: str) -> None:
    with pytest.raises(UserError, match="--notify"):
        Notifier(target)


def test_the_stored_command_line_does_not_name_the_target() -> None:
    remember_arguments(["benchmark", "--notify", "https://hooks/T0/SECRET", "pocket"])
    assert typed_command() == "orca-sweep benchmark --notify '***' pocket"
    remember_arguments(["benchmark", "pocket", "--notify=https://hooks/T0/SECRET"])
    assert "SECRET" not in typed_command()
    remember_arguments([])
