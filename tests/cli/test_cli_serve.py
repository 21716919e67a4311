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


def test_a_port_in_use() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        with pytest.raises(
            UserError,
            match=(
                rf"cannot listen on 127.0.0.1, port {port}: .*; give another --host or"
                r" --port"
            ),
        ):
            listen("127.0.0.1", port, None)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCA_RAY_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("ORCA_RAY_SERVE_TOKEN", "0123456789abcdef")
    assert read_token(None) == "0123456789abcdef"
    path = tmp_path / "token"
    path.write_text("fedcba9876543210\n")
    assert read_token(path) == "fedcba9876543210"
    for weak in ("", "short", "with spaces in the middle", "ünïcödé-0123456789"):
        path.write_text(weak)
        with pytest.raises(
            UserError, match="expected at least 16 ASCII characters without spaces"
        ):
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

    def ended() -> list[bool]:
        return [connection.transport.abort.called for connection in opened]

    opened = [connect() for _ in range(4)]
    # its prediction is computed
    opened[0].cycle = MagicMock(response_complete=False, more_body=False)
    opened[1].cycle = MagicMock(response_complete=False, more_body=True)
    opened[2].cycle = MagicMock(response_complete=False, more_body=False)
    opened[2].flow.pause_writing()  # its client does not read the answer
    assert not any(ended())
    opened += [connect(), connect()]
    assert ended() == [False, True, True, False, False, False]
    opened[3].connection_lost(None)
    opened.append(connect())
    assert ended() == [False, True, True, False, False, False, False]
