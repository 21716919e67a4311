"""Hooks in the driver of a disturbed run: it stops or kills itself at one exact place,
when a file says so.

`Run.hook` puts a directory before all others of PYTHONPATH, whose ``sitecustomize.py``
calls `install`.
"""

import importlib
import os
import random
import signal
import sys
import time
from datetime import datetime, timedelta, tzinfo
from pathlib import Path
from typing import Any, Self

import psutil

SITECUSTOMIZE = "from benchmarks.faults.hooks import install\n\ninstall()\n"
HOOK = "ORCA_FAULT_HOOK"
"""Variable of the environment: kind of the hook, and the file that says when, with ":"
between.
"""


def install() -> None:
    """Install the hook that the environment names, in the command's process only."""
    kind, _, order = os.environ.get(HOOK, "").partition(":")
    if kind and "orca_ray.cli.main" in sys.orig_argv:
        from orca_ray.results.store import ResultsStore

        hooks = {
            "stop": _stop,
            "compaction": _compaction,
            "clock": _clock,
            "staging": _staging,
            "closing": _closing,
        }
        hooks[kind](ResultsStore, Path(order))


def _stop(store: Any, order: Path) -> None:
    """Stop the driver after it has checked its lease, and before it appends rows."""
    append = store.append

    def stopped(self: Any, *args: Any, **rows: Any) -> None:
        if rows.get("records") and order.exists():
            order.rename(order.with_name("stopped"))
            os.kill(os.getpid(), signal.SIGSTOP)
        append(self, *args, **rows)

    store.append = stopped


def _clock(store: Any, order: Path) -> None:
    """Move all clocks that the driver's modules ask by the seconds in the file, once it
    exists.
    """
    seconds = time.time
    nanoseconds = time.time_ns

    def offset() -> float:
        return float(order.read_text() or 0) if order.exists() else 0.0

    class Moved(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Self:
            return super().now(tz) + timedelta(seconds=offset())

    time.time = lambda: seconds() + offset()
    time.time_ns = lambda: nanoseconds() + int(offset() * 1e9)
    for name in (
        "results.lease",
        "results.live",
        "sweep.run.recorder",
        "sweep.run.controller",
        "sweep.search.search",
    ):
        module = importlib.import_module(f"orca_ray.{name}")
        if hasattr(module, "datetime"):
            vars(module)["datetime"] = Moved


def _compaction(store: Any, order: Path) -> None:
    """Kill the driver at one of the requests of a compaction."""
    merge = store._merge

    def killed(self: Any, *args: Any) -> int:
        if order.exists():
            left = random.Random(order.read_text()).randrange(12)
            folder = self.folder

            def count(action: Any) -> Any:
                def counted(*given: Any) -> Any:
                    nonlocal left
                    left -= 1
                    if left < 0:
                        order.rename(order.with_name("killed"))
                        os.kill(os.getpid(), signal.SIGKILL)
                    return action(*given)

                return counted

            folder.write = count(folder.write)
            folder.delete = count(folder.delete)
        return merge(self, *args)  # type: ignore[no-any-return]

    store._merge = killed


def _staging(store: Any, order: Path) -> None:
    """Kill the raylet or the GCS when the driver is about to stage the first data."""
    from orca_ray.sweep.executors.ray import RayExecutor

    executor: Any = RayExecutor
    make = executor._make_stager

    def lost(self: Any, *args: Any) -> Any:
        if order.exists():
            name = "raylet" if float(order.read_text()) < 0.5 else "gcs_server"
            for process in psutil.Process().children(recursive=True):
                if process.name() == name:
                    process.kill()
                    order.rename(order.with_name("killed"))
        return make(self, *args)

    executor._make_stager = lost


def _closing(store: Any, order: Path) -> None:
    """Let the compaction at the end of the sweep fail once."""
    from orca_ray.errors import UserError

    compact = store.compact

    def failing(self: Any) -> int:
        if order.exists():
            order.rename(order.with_name("failed"))
            raise UserError("the store cannot be written: No space left on device")
        return compact(self)  # type: ignore[no-any-return]

    store.compact = failing
