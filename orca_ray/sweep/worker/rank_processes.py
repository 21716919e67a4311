"""Processes that train a trial together with the trial's worker.

There is one process for each GPU of the trial beyond the first.
"""

import multiprocessing
import os
import signal
import threading
import traceback
from collections.abc import Callable
from contextlib import ExitStack, suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

import torch

from orca_ray.data.cache import scratch_directory
from orca_ray.methods.trial_trainer import TrialTrainer
from orca_ray.process import end_with_parent
from orca_ray.results.record import Status
from orca_ray.sweep.messages.causes import RankFailedError, bounded, classify
from orca_ray.training.ranks import RankLostError, Ranks, abort, disconnect

Build = Callable[[Ranks], TrialTrainer]
"""Function that builds the trainer of a rank; it must be picklable."""
_WAIT_SECONDS = 10.0
"""Largest number of seconds until a process ends after its connections have failed."""


class RankProcesses:
    """Processes of a trial's ranks after the first.

    They end with the process that started them, even if that one is killed.

    Each process builds a trainer and waits. When a parallel stage begins or is resumed,
    the process loads the state of the first rank's trainer, and runs the stage to its
    end. The ranks communicate within each step, so all of them run the same steps.
    """

    def __init__(self, size: int, build: Build) -> None:
        """Start the processes of ranks 1 to ``size`` - 1."""
        self.first = Ranks(0, size)
        self._stage: str | None = None
        self._closed = False
        self._lost = threading.Event()
        self._first_lost = 0
        self._cleanup = ExitStack()
        self._scratch = self._cleanup.enter_context(scratch_directory())
        context = multiprocessing.get_context(
            "spawn"
        )  # a fork would copy threads and CUDA
        self._connections = list[Connection]()
        self._processes = list[multiprocessing.process.BaseProcess]()
        for rank in range(1, size):
            own, other = context.Pipe()
            arguments = (other, Ranks(rank, size), self._scratch / "ranks", build)
            process = context.Process(
                target=_run, args=arguments, name=f"rank {rank} of {size}", daemon=True
            )
            process.start()
            other.close()
            self._connections.append(own)
            self._processes.append(process)
        threading.Thread(target=self._watch, name="ranks", daemon=True).start()

    def join(self, trainer: TrialTrainer) -> None:
        """Make all ranks take part in the stage of the next step, if it is parallel.

        Raises RankLostError if a rank has ended, and RankFailedError if a rank could
        not build its trainer.
        """
        if not trainer.parallel or trainer.stage == self._stage:
            return
        state = self._scratch / "state"
        trainer.save(state)
        for connection in self._connections:
            try:
                # The rank sends None when it is ready, else how it has failed.
                if failure := connection.recv():
                    raise RankFailedError(*failure)
                connection.send(state)
            except (EOFError, OSError) as error:
                raise RankLostError("another rank has ended") from error
        if self._stage is None:
            self.first.connect(self._scratch / "ranks")
        self._stage = trainer.stage

    def check(self) -> None:
        """Raise RankLostError if a rank has ended.

        Sums of gradients may be wrong after the end of a rank.
        """
        if self._lost.is_set():
            raise RankLostError("another rank has ended")

    def find_cause(self, error: Exception) -> Exception:
        """Return the error of another rank that caused ``error`` in the first rank.

        Returns ``error`` itself if no other rank failed.
        """
        if isinstance(error, RankFailedError):
            return error
        wait_seconds = 0.0
        if isinstance(error, RankLostError):
            # The thread `_watch` may notice the end of the process a moment later.
            wait_seconds = _WAIT_SECONDS
        if not self._lost.wait(wait_seconds):
            return error
        failures = list(map(_failure_of, self._processes, self._connections))
        failure = failures[self._first_lost]
        # Other ranks may end before the one that reports its failure.
        reported = [item for item in failures if item.status is not Status.LOST]
        if reported:
            failure = reported[0]
        return RankFailedError(failure.status, failure.message)

    def close(self) -> None:
        """End the processes."""
        self._closed = True
        for process, connection in zip(self._processes, self._connections, strict=True):
            process.kill()
            process.join()
            connection.close()
        disconnect()
        self._cleanup.close()

    def _watch(self) -> None:
        """Wait until a process ends.

        If `close` was not called before, end all processes, and abort communication:
        the first rank may be waiting for any other rank.
        """
        sentinels = [process.sentinel for process in self._processes]
        ended = wait(sentinels)
        if not self._closed:
            self._first_lost = next(
                index for index, sentinel in enumerate(sentinels) if sentinel in ended
            )
            self._lost.set()
            for process in self._processes:
                # closes the connections on which the first rank may wait without end
                process.kill()
            abort()


class _Failure(NamedTuple):
    """Why a rank has ended."""

    status: Status
    message: str


def _failure_of(
    process: multiprocessing.process.BaseProcess, connection: Connection
) -> _Failure:
    """Return the failure that a rank has reported, else how its process has ended."""
    process.join()
    with suppress(EOFError, OSError):
        while connection.poll():
            if reported := connection.recv():
                return _Failure(*reported)
    code = process.exitcode or 0
    cause = f"exit code {code}"
    if code < 0:
        cause = signal.Signals(-code).name
    return _Failure(Status.LOST, f"{process.name} ended by {cause}")


def _run(connection: Connection, ranks: Ranks, file: Path, build: Build) -> None:
    """Run one of the ranks 1, 2, ..., until the process of rank 0 ends this one."""
    # Ctrl-C reaches all processes; the first rank ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    end_with_parent()
    # In all threads, ``cuda`` now means the rank's own of the visible GPUs; CUDA has
    # not been used before.
    names = os.environ.get("CUDA_VISIBLE_DEVICES")
    if names:
        visible = names.split(",")
    else:
        visible = [str(number) for number in range(torch.cuda.device_count())]
    own_first = visible[ranks.rank :] + visible[: ranks.rank]
    os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(own_first)
    try:
        trainer = build(ranks)
        connected = False
        while True:
            connection.send(None)
            state = connection.recv()
            if not connected:
                ranks.connect(file)
                connected = True
            if not trainer.restore(state):
                raise RuntimeError("the state of the first rank cannot be read")
            stage = trainer.stage
            while trainer.stage == stage:
                trainer.step()
    except RankLostError:
        signal.pause()  # the first rank finds out which one has ended, and ends all
    except Exception as error:
        status = classify(error)
        text = f"{type(error).__name__}: {error}"
        if status is Status.FAILED_CODE:
            text = bounded("".join(traceback.format_exception(error)))
        connection.send((status, f"{multiprocessing.current_process().name}: {text}"))
        raise SystemExit(1) from error
