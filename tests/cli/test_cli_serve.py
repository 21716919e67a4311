"""``orca-sweep serve``: what it refuses before it starts."""

import socket
from pathlib import Path

import pytest

from orca_ray.errors import UserError
from orca_ray.methods import model_folder
from orca_ray.serving.server import ServerOptions, read_token, serve_model


def test_other_hosts_need_a_token() -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "example.org"):
        with pytest.raises(UserError, match=f"--host {host} is open to other machines, so a token is needed"):
            serve_model("model", ServerOptions(host=host), print)


def test_a_port_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_folder, "read_config", Path)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(
            UserError, match=rf"cannot listen on 127.0.0.1, port {port}: .*; give another --host or --port"
        ):
            serve_model("model", ServerOptions(port=port), print)


def test_tokens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ORCA_RAY_SERVE_TOKEN", raising=False)
    assert read_token(None) is None
    monkeypatch.setenv("ORCA_RAY_SERVE_TOKEN", "0123456789abcdef")
    assert read_token(None) == "0123456789abcdef"
    path = tmp_path / "token"
    with pytest.raises(UserError, match="there is no such file"):
        read_token(path)
    path.write_text("fedcba9876543210\n")
    assert read_token(path) == "fedcba9876543210"
    for weak in ("", "short", "with spaces in the middle", "ünïcödé-0123456789"):
        path.write_text(weak)
        with pytest.raises(UserError, match="expected at least 16 ASCII characters without spaces"):
            read_token(path)


def test_a_folder_that_is_no_model_is_refused_before_ray_starts(tmp_path: Path) -> None:
    for path, message in ((tmp_path, "is no model folder"), (tmp_path / "nowhere", "does not exist")):
        with pytest.raises(UserError, match=message):
            serve_model(str(path), ServerOptions(port=0), print)
