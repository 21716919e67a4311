"""Scripts of ``cluster/`` as processes, with a small sweep that they run."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
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


def make_checkout(folder: Path, name: str, seeds: int) -> Path:
    """Make a directory like a checkout, with an environment and ``sweep.yaml``."""
    path = f"{make_environment(folder / '.venv')}:{Path(sys.executable).parent}"
    (folder / ".venv" / "bin" / "activate").write_text(
        f'export PATH="{path}:$PATH" PYTHONPATH="{ROOT}"\n'
    )
    (folder / "sweep.yaml").write_text(
        SWEEP.format(name=name, seeds=list(range(1, seeds + 1)))
    )
    return folder


def make_environment(environment: Path) -> Path:
    """Make a virtual environment with Python, ``ray`` and the packages of this one.

    Return its directory of programs. The first lines of ``ray`` are those that pip
    writes where a path has spaces.
    """
    exec_line = f"'''exec' \"{environment / 'bin' / 'python'}\" \"$0\" \"$@\"\n' '''\n"
    write_programs(
        environment / "bin",
        {"ray": f"{exec_line}from ray.scripts.scripts import main\nmain()\n"},
    )
    (environment / "bin" / "python").symlink_to(Path(sys.executable).resolve())
    for name in ("pyvenv.cfg", "lib"):
        (environment / name).symlink_to(Path(sys.prefix) / name)
    return environment / "bin"


def write_programs(folder: Path, scripts: Mapping[str, str]) -> Path:
    """Write executable Bash scripts, by name, to a directory for the front of PATH."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in scripts.items():
        (folder / name).write_text(f"#!/usr/bin/env bash\n{text}")
        (folder / name).chmod(0o755)
    return folder


def make_script_environment(first_on_path: Path, **more: str) -> dict[str, str]:
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
    if "ORCA_RAY_HOME" in os.environ:
        given["ORCA_RAY_HOME"] = os.environ["ORCA_RAY_HOME"]
    return {**kept, **given, **more}


@contextmanager
def run_script(
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
        left = find_descendants(script.pid)
        if script.poll() is None:
            left.append(psutil.Process(script.pid))
        for process in left:
            with suppress(psutil.NoSuchProcess):  # it has just ended
                process.kill()


def find_descendants(pid: int) -> list[psutil.Process]:
    """Return the living processes that a process and its children started."""
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

    Fail with the log if the script ends first, or takes more than ``seconds``.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        assert script.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def have_ended(processes: list[psutil.Process], seconds: float = 20.0) -> bool:
    """Return whether all of the processes end within some seconds."""
    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not alive


def interrupt(
    script: subprocess.Popen[bytes], number: signal.Signals, seconds: float = 90.0
) -> int:
    """Send a signal to the script alone.

    Return its exit code, and fail if one of its processes stays.
    """
    members = find_descendants(script.pid)
    script.send_signal(number)
    code = script.wait(seconds)
    assert have_ended(members), [process for process in members if process.is_running()]
    return code


def find_free_ports(count: int) -> list[int]:
    """Return the numbers of ports that no process of this machine listens on."""
    servers = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(server.getsockname()[1]) for server in servers]
    for server in servers:
        server.close()
    return ports


@dataclass(frozen=True)
class Cluster:
    """A cluster that ``cluster/local.sh`` has started."""

    port: int
    dashboard: str
    environment: dict[str, str]


@contextmanager
def start_local_cluster(
    folder: Path, *arguments: str, nodes: int, cpus: int = 1, **variables: str
) -> Iterator[Cluster]:
    """Context manager that runs ``cluster/local.sh``, which must leave no process.

    The test is skipped if the script cannot run on this machine.
    """
    port, dashboard = find_free_ports(2)
    ports = {"RAY_PORT": str(port), "RAY_DASHBOARD_PORT": str(dashboard)}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": TOKEN}
    env = make_script_environment(
        Path(sys.executable).parent, **ports, **token, **variables
    )
    script_path = str(ROOT / "cluster" / "local.sh")
    command = ["bash", script_path, *arguments, str(nodes), str(cpus)]
    log = folder / "log"
    with run_script(command, env, log) as script:

        def has_started() -> bool:
            text = log.read_text()
            if script.poll() == 77:
                pytest.skip(text.strip().splitlines()[-1])
            num_started = text.count("Ray runtime started")
            return num_started == nodes and "Ctrl-C ends it" in text

        wait_until(has_started, script, 400, log)
        [address] = re.findall(r"jobs at (\S+);", log.read_text())
        try:
            yield Cluster(port, address, env)
        finally:
            interrupt(script, signal.SIGTERM)
