"""``orca-sweep serve``: what it refuses before it starts."""

import resource
import socket
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from uvicorn.server import ServerState

from orca_ray.cli.predict import _server_config, listen, read_token
from orca_ray.errors import UserError


def test_with_a_token_other_hosts_are_allowed() -> None:
    with listen("0.0.0.0", 0, "0123456789abcdef") as listener:
        assert listener.getsockname()[0] == "0.0.0.0"


def test_a_port_in_use_is_refused() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        advice = "give another --host or --port"
        message = rf"cannot listen on 127.0.0.1, port {port}: .*; {advice}"
        with pytest.raises(UserError, match=message):
            listen("127.0.0.1", port, None)


def test_a_token_comes_from_the_environment_or_a_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ORCA_RAY_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("ORCA_RAY_SERVE_TOKEN", "0123456789abcdef")
    assert read_token(None) == "0123456789abcdef"
    path = tmp_path / "token"
    path.write_text("fedcba9876543210\n")
    assert read_token(path) == "fedcba9876543210"


@pytest.mark.parametrize(
    "weak", ["", "short", "with spaces in the middle", "ünïcödé-0123456789"]
)
def test_a_weak_token_is_refused(weak: str, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text(weak)
    message = "expected at least 16 ASCII characters without spaces"
    with pytest.raises(UserError, match=message):
        read_token(path)


def test_a_large_file_is_no_token(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * 4097)
    with pytest.raises(UserError, match="has more than 4096 bytes"):
        read_token(path)


def test_the_connection_that_has_waited_longest_for_its_client_makes_room(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (9, 9))
    config = _server_config(MagicMock(), seconds=1)
    config.load()
    protocol: Any = config.http_protocol_class

    def connect() -> Any:
        connection = protocol(config, ServerState(), {}, MagicMock())
        connection.connection_made(MagicMock())
        return connection

    computing = connect()
    sending = connect()
    not_reading = connect()
    idle = connect()
    computing.cycle = MagicMock(response_complete=False, more_body=False)
    sending.cycle = MagicMock(response_complete=False, more_body=True)
    not_reading.cycle = MagicMock(response_complete=False, more_body=False)
    not_reading.flow.pause_writing()
    connections = [computing, sending, not_reading, idle]

    def list_aborted() -> list[Any]:
        return [
            connection
            for connection in connections
            if connection.transport.abort.called
        ]

    assert list_aborted() == []
    connections += [connect(), connect()]
    assert list_aborted() == [sending, not_reading]
    idle.connection_lost(None)
    connections.append(connect())
    assert list_aborted() == [sending, not_reading], "a place was free"
