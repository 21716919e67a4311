"""A small sweep for test clusters, and how to run a script of ``cluster/`` and see that
it leaves nothing.
"""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "5f0c1d6a9b8e47d2a3f4e5d6c7b8a9f0"
SWEEP = """\
name: {name}
benchmark: pocket
methods: [linear_probe]
tasks: [pocket/wdbc]
bodies: {{sequence: "minilm-l6:layers=1"}}
resources: {{cpus: 1, gpus: 0}}
settings: {{embedder.sequence_length: 8, refine.epochs: 2, refine.warmup_epochs: 0}}
budgets: {{full: {{confirm_seeds: {seeds}}}}}
"""


def checkout(folder: Path, name: str, seeds: int) -> Path:
    """Make a directory that looks like a checkout with a virtual environment, and holds
    ``sweep.yaml``.
    """
    path = f"{own_python(folder / '.venv')}:{Path(sys.executable).parent}"
    (folder / ".venv" / "bin" / "activate").write_text(
        f'export PATH="{path}:$PATH" PYTHONPATH="{ROOT}"\n'
    )
    (folder / "sweep.yaml").write_text(
        SWEEP.format(name=name, seeds=list(range(1, seeds + 1)))
    )
    return folder


def own_python(environment: Path) -> Path:
    """Make a virtual environment with Python and the command ``ray``.

    Return its directory of programs.

    It has the packages of this one, and the command names its Python as pip writes that
    for paths with spaces.
    """
    exec_line = f"'''exec' \"{environment / 'bin' / 'python'}\" \"$0\" \"$@\"\n' '''\n"
    programs(
        environment / "bin",
        {"ray": f"{exec_line}from ray.scripts.scripts import main\nmain()\n"},
    )
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    for name in ("pyvenv.cfg", "lib"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    return environment / "bin"


def programs(folder: Path, scripts: Mapping[str, str]) -> Path:
    """Write executable Bash scripts, by name, to a directory for the front of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (folder / name).chmod(0o755)
    return folder


def environment(first_on_path: Path, **more: str) -> dict[str, str]:
    """Return the environment of a script, without that of any other cluster."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("RAY_", "SLURM_", "ORCA_"))
    }
    path = f"{first_on_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    given = {
        "PATH": path,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
    }
    home = (
        {"ORCA_RAY_HOME": os.environ["ORCA_RAY_HOME"]}
        if "ORCA_RAY_HOME" in os.environ
        else {}
    )
    return {**kept, **given, **home, **more}


@contextmanager
def running(
    command: list[str], env: dict[str, str], log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """Context manager that starts a script, and at the end kills what is left of it."""
    with log.open("ab") as stream:
        script = subprocess.Popen(
            command,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=stream,
            stderr=stream,
            start_new_session=True,
        )
    try:
        yield script
    finally:
        for process in [
            *descendants(script.pid),
            *([psutil.Process(script.pid)] if script.poll() is None else []),
        ]:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue


def descendants(pid: int) -> list[psutil.Process]:
    """Return the living processes that the process started, those of its children
    included.
    """
    try:
        return psutil.Process(pid).children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def wait_until(
    condition: Callable[[], bool],
    script: subprocess.Popen[bytes],
    seconds: float,
    log: Path,
) -> None:
    """Wait until ``condition`` holds.

    Fail with the log if the script ends before that, or too much time passes.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert script.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def gone(processes: list[psutil.Process], seconds: float = 20.0) -> bool:
    """Whether all of the processes end within some seconds."""
    return not psutil.wait_procs(processes, timeout=seconds)[1]


def interrupt(
    script: subprocess.Popen[bytes], number: signal.Signals, seconds: float = 90.0
) -> int:
    """Send a signal to the script alone.

    Return its exit code, and fail if one of its processes stays.
    """
    members = descendants(script.pid)
    script.send_signal(number)
    code = script.wait(seconds)
    assert gone(members), [process for process in members if process.is_running()]
    return code


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(item.getsockname()[1]) for item in sockets]
    for item in sockets:
        item.close()
    return ports


@dataclass(frozen=True)
class Cluster:
    """A cluster that ``cluster/local.sh`` has started."""

    port: int
    dashboard: str
    environment: dict[str, str]


@contextmanager
def local_cluster(
    folder: Path, *arguments: str, nodes: int, **variables: str
) -> Iterator[Cluster]:
    """Context manager: run ``cluster/local.sh``, which at the end must leave no
    process; skip if it cannot run here.
    """
    port, dashboard = free_ports(2)
    ports = {"RAY_PORT": str(port), "RAY_DASHBOARD_PORT": str(dashboard)}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    env = environment(Path(sys.executable).parent, **ports, **token, **variables)
    command = ["bash", str(ROOT / "cluster" / "local.sh"), *arguments, str(nodes), "1"]
    log = folder / "log"
    with running(command, env, log) as script:

        def started() -> bool:
            text = log.read_text()
            if script.poll() == 77:
                pytest.skip(text.strip().splitlines()[-1])
            return (
                text.count("Ray runtime started") == nodes and "Ctrl-C ends it" in text
            )

        wait_until(started, script, 400, log)
        [address] = re.findall(r"jobs at (\S+);", log.read_text())
        try:
            yield Cluster(port, address, env)
        finally:
            interrupt(script, signal.SIGTERM)
