"""Runs a small sweep again and again, each time with a fault in its middle, and checks
what it leaves.

``python -m benchmarks.fault_harness --runs 50 --seed 0 [--kinds driver,node]`` prints a
line per run, then a table.
"""

import argparse
import math
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks.faults.checks import check_machine, check_store
from benchmarks.faults.fault import Fault, wait
from benchmarks.faults.kinds import KINDS
from benchmarks.faults.run import Run
from benchmarks.faults.site import Site

END_SECONDS = 60.0
"""How long a command may take to end after a fault with which it cannot go on."""
WHOLE_SECONDS = 300.0
"""How long a command may take that is not disturbed, or goes on."""
ATTEMPTS = 4
"""How often a run is repeated, with a shorter delay, if the sweep ends before its
fault.
"""


@dataclass
class Result:
    """What became of one run."""

    number: int
    kind: str
    seed: int
    num_done: int = 0
    """Number of trials that had ended when the time of the fault was set."""
    delay: float = 0.0
    """Seconds between that and the fault."""
    num_records: int = 0
    """Number of records just after the fault."""
    codes: list[int] = field(default_factory=list)
    """Exit codes of the commands: the disturbed one first."""
    end_seconds: float = 0.0
    """Seconds between the fault and the end of the disturbed command."""
    problems: list[str] = field(default_factory=list)
    skipped: str = ""
    missed: bool = False
    """Whether the sweep ended before the fault, or needed nothing more of what the
    fault took away.
    """

    @property
    def verdict(self) -> str:
        """One word."""
        return (
            "skipped"
            if self.skipped
            else "missed"
            if self.missed
            else "FAILED"
            if self.problems
            else "clean"
        )

    def __str__(self) -> str:
        text = (
            f"run {self.number:2} {self.kind:12} seed {self.seed:<4} fault"
            f" {self.delay:3.1f} s after {self.num_done} trials with {self.num_records}"
            f" records, end after {self.end_seconds:5.1f} s, exit codes {self.codes}:"
            f" {self.verdict}"
        )
        return "\n    ".join(
            [text, *([self.skipped] if self.skipped else self.problems)]
        )


def disturbed_run(site: Site, number: int, kind: str, seed: int) -> Result:
    """Run the sweep with a fault of a kind, then until it is done, and check the
    results.

    The seed decides when the fault happens, whom it hits and how long it lasts.
    """
    for attempt in range(ATTEMPTS):
        chance = random.Random(f"{kind} {seed}")
        result = Result(
            number,
            kind,
            seed,
            chance.randrange(site.num_trials - 2) // 2**attempt,
            chance.uniform(0, 3),
        )
        if KINDS[kind].early or KINDS[kind].before_trials:
            result.num_done = 0
            result.delay = 0.0
        shutil.rmtree(site.folder / str(number), ignore_errors=True)
        run = Run(site, number)
        fault = KINDS[kind](run, chance)
        try:
            result.skipped = fault.prepare()
            if not result.skipped:
                _disturb(run, fault, result)
                if not result.missed:
                    _finish(run, result)
        finally:
            judged = not result.missed and not result.skipped
            if judged:
                result.problems += _left(check_store, run)
            fault.clean()
            if judged:
                result.problems += _left(check_machine, run)
            run.kill()
        if result.verdict != "FAILED":
            shutil.rmtree(run.folder, ignore_errors=True)
        if not result.missed:
            break
    return result


def _disturb(run: Run, fault: Fault, result: Result) -> None:
    """Start the command, make the fault, and wait for the command's end."""
    run.start(*fault.options)
    started = fault.before_trials or run.wait_for_trials(result.num_done, WHOLE_SECONDS)
    if not started and run.command.poll() != 0:
        result.problems.append(f"no trial started: {run.tail()}")
        return
    time.sleep(result.delay)
    if run.num_records() == run.site.num_trials or not fault.inject():
        result.missed = True
        return
    result.num_records = run.num_records()
    began = time.monotonic()
    allowed = _seconds_allowed(fault)
    code = wait(run.command, min(fault.lasts, allowed))
    fault.relieve()
    if code is None and fault.lasts < allowed:
        code = wait(run.command, allowed - fault.lasts)
    result.end_seconds = time.monotonic() - began
    if (
        code == 0
        and code not in fault.codes
        and run.num_records() == run.site.num_trials
    ):
        result.missed = True
        return
    if code is None:
        result.problems.append(
            f"the command still ran {allowed:.0f} s after the fault: {run.tail()}"
        )
        run.command.kill()
        code = run.command.wait()
    else:
        result.problems += _problems_of_end(run, fault, code)
    result.codes.append(code)
    result.problems += fault.problems()


def _seconds_allowed(fault: Fault) -> float:
    """Return the seconds after the fault within which the command must end."""
    passes_by = 0 in fault.codes and fault.lasts < math.inf
    if passes_by or tuple(fault.codes) == (0,):
        return WHOLE_SECONDS
    return END_SECONDS


def _problems_of_end(run: Run, fault: Fault, code: int) -> Iterator[str]:
    """Yield what is wrong with the exit code and the message of the command."""
    if code not in fault.codes:
        allowed_codes = " or ".join(map(str, fault.codes))
        yield f"exit code {code} instead of {allowed_codes}: {run.tail()}"
    elif code != 0:
        log = run.log.read_text()
        missing_texts = [text for text in fault.messages if text not in log]
        if missing_texts:
            yield f"the message lacks {missing_texts}: {run.tail()}"


def _finish(run: Run, result: Result) -> None:
    """Run the same command again."""
    run.start()
    code = wait(run.command, WHOLE_SECONDS)
    result.codes.append(code if code is not None else -1)
    if code != 0:
        result.problems.append(
            f"the same command again ended with {code}: {run.tail()}"
        )


def _left(check: Callable[[Run], list[str]], run: Run) -> list[str]:
    try:
        return check(run)
    except Exception as error:
        return [f"{check.__name__}: {type(error).__name__}: {error}"]


@contextmanager
def new_site(given: Path | None = None) -> Iterator[Site]:
    """Context manager that makes a site in a new directory, which stays if a run in it
    has failed, or a ``given`` one.

    Ctrl-C reaches the commands even if this process, as a background job of a shell,
    has inherited to ignore it.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)
    folder = given or Path(tempfile.mkdtemp(prefix="of-", dir="/tmp"))
    site = Site(folder)
    try:
        yield site
    finally:
        site.close()
        if given is None and not any(
            path.is_dir() and path.name.isdigit() for path in folder.iterdir()
        ):
            shutil.rmtree(folder)


def main(
    arguments: Sequence[str] | None = None, say: Callable[[str], object] = print
) -> int:
    """Run the command line; return 1 if a run was not clean."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=50)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--kinds",
        default=",".join(KINDS),
        help=f"any of {', '.join(KINDS)}; they take turns",
    )
    parser.add_argument(
        "--folder",
        type=Path,
        help="directory of an earlier call, whose reference is used again",
    )
    given = parser.parse_args(arguments)
    # A terminated harness cleans up as an interrupted one does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    kinds = given.kinds.split(",")
    results = []
    with new_site(given.folder) as site:
        say(f"{site.num_trials} trials; directory {site.folder}")
        for number in range(given.runs):
            kind = kinds[number % len(kinds)]
            results.append(disturbed_run(site, number, kind, given.seed + number))
            say(str(results[-1]))
    say("")
    for (kind, verdict), count in sorted(
        Counter((result.kind, result.verdict) for result in results).items()
    ):
        say(f"{kind:12} {verdict:7} {count:4}")
    return int(any(result.verdict == "FAILED" for result in results))


if __name__ == "__main__":
    sys.exit(main())
