"""Drivers of one sweep that stand still, on a folder whose requests are late, arrive
twice, or lose their replies.

``python -m benchmarks.drivers --seeds 100`` prints what breaks the rules of fencing
(`results.live`); nothing should.
"""

# ruff: noqa: T201 - a benchmark prints its findings

import argparse
import random
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from unittest import mock

from orca_ray.errors import UserError
from orca_ray.results import faults
from orca_ray.results.folder import LocalFolder
from orca_ray.results.lease import Lease
from orca_ray.results.store import ResultsStore
from tests.results.factories import make_record

SWEEP = "pocket/quick"
Seen = list[tuple[int, set[str]]]
"""Lease number of each driver, and the keys of the trials that it read when it took the
lease.
"""


def stand_still(lease: Lease) -> None:
    """Stop the thread of a lease, as SIGSTOP does to the whole driver; nothing is
    written at the end.
    """
    lease._ended.set()
    lease._thread.join()


class Unreliable(LocalFolder):
    """A folder whose requests are late, arrive twice, or arrive although their reply is
    lost.
    """

    def __init__(self, path: Path, seed: int) -> None:
        """Store the arguments; ``seed`` decides which requests meet which fault."""
        super().__init__(path)
        self._chance = random.Random(seed)
        self._lost_in_a_row = 0

    def _write_new(self, path: str, content: Any) -> bool:
        """Write a new file, and lose some of the replies.

        The reply to the last attempt always arrives: a driver without any reply ends
        with an error, and nobody would count the number that it may have taken.
        """
        time.sleep(self._chance.uniform(0, 0.02))
        done = super()._write_new(path, content)
        is_last_attempt = self._lost_in_a_row == faults.ATTEMPTS - 1
        if self._chance.random() < 0.3 and not is_last_attempt:
            self._lost_in_a_row += 1
            raise TimeoutError("timed out")
        self._lost_in_a_row = 0
        return done

    def _write(self, path: str, content: Any) -> None:
        if self._chance.random() < 0.3:
            threading.Timer(
                self._chance.uniform(0, 0.3), super()._write, (path, content)
            ).start()
        super()._write(path, content)


def drivers(uri: str, seed: int, seconds: float = 2.0) -> Seen:
    """Let four threads take the lease of a sweep, append, stand still, and append
    again, for some seconds.
    """
    seen: Seen = []
    end = time.monotonic() + seconds

    def drive(number: int) -> None:
        chance = random.Random(10 * seed + number)
        while time.monotonic() < end:
            store = ResultsStore(uri)
            store.folder = Unreliable(Path(uri), chance.randrange(2**32))
            lease = Lease(store, SWEEP, renew_seconds=0.02, expiry_seconds=0.1)
            try:
                lease.__enter__()
            except UserError:
                continue
            seen.append((lease.number, set(store.load(SWEEP))))
            store.append([make_record(f"{lease.number} first")])
            stand_still(lease)
            time.sleep(chance.uniform(0, 0.3))
            store.append([make_record(f"{lease.number} second")])

    here = mock.patch("orca_ray.results.lease.ended_here", return_value=False)
    with (
        here,
        mock.patch("orca_ray.results.faults.FIRST_PAUSE_SECONDS", 0.01),
        ThreadPoolExecutor(4) as threads,
    ):
        list(threads.map(drive, range(4)))
    time.sleep(0.4)  # late requests arrive
    return seen


def problems(uri: str, seen: Seen) -> list[str]:
    """Return which rules the drivers broke: one driver a number, and what a driver has
    read stays what counts.
    """
    found = []
    if sorted(number for number, _ in seen) != list(range(1, len(seen) + 1)):
        found.append(f"numbers {sorted(number for number, _ in seen)}")
    with (
        mock.patch("orca_ray.results.lease.ended_here", return_value=True),
        Lease(ResultsStore(uri), SWEEP) as last,
    ):
        if last.number != len(seen) + 1:
            found.append(f"the next number is {last.number}")
    for compacted in (False, True):
        keys = set(ResultsStore(uri).load(SWEEP))
        for number, keys_read in seen:
            # A driver that is slow to read sees rows of the next driver, too.
            then = keys_below(number, keys_read)
            now = keys_below(number, keys)
            if now != then:
                found.append(
                    f"driver {number} read {sorted(then)}, and now there are"
                    f" {sorted(now)}, {compacted=}"
                )
        if len(keys) >= 2 * len(seen):
            found.append("nothing was late")
        ResultsStore(uri).compact()
    return found


def keys_below(number: int, keys: set[str]) -> set[str]:
    """Return the keys of the rows that drivers with a lower lease number wrote."""
    return {key for key in keys if int(key.split()[0]) < number}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=20)
    for seed in range(parser.parse_args().seeds):
        with tempfile.TemporaryDirectory() as folder:
            store = ResultsStore(Path(folder) / "results", create=True)
            seen = drivers(store.uri, seed)
            print(
                f"seed {seed}: {len(seen)} drivers,"
                f" {'; '.join(problems(store.uri, seen)) or 'no problem'}",
                flush=True,
            )


if __name__ == "__main__":
    main()
