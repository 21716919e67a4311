"""CPU seconds that ``orca-sweep plan`` estimates, beside those that a sweep takes.

``python -m benchmarks.planned_hours SWEEP --methods A,B [--tasks T,U] [--budget NAME]``

Each method runs in a process of its own, on one thread, with an empty results store.
Its CPU time is compared with the estimate for one core of this machine, so that other
work on the machine counts less than in wall time. Data must be prepared.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import os
import subprocess
import sys
import tempfile

from orca_ray.sweep.plan.cost import core_rate, search_seconds
from orca_ray.sweep.plan.loading import load_spec
from orca_ray.sweep.plan.requirements import with_fingerprints
from orca_ray.sweep.plan.searches import plan_searches
from orca_ray.sweep.plan.spec import Overrides


def planned_seconds(
    sweep: str, budget: str | None, method: str, tasks: list[str] | None
) -> float:
    """Return the estimated CPU seconds of a method's trials on one core."""
    overrides = Overrides(methods=[method], tasks=tasks)
    rate = core_rate()
    total = 0.0
    spec = load_spec(sweep, budget=budget, overrides=overrides)
    for search in with_fingerprints(plan_searches(spec, gpus=False)):
        assert search.data is not None, f"prepare {search.task} first"
        seconds = search_seconds(search.declaration.resolved(search.data), search, rate)
        assert seconds is not None
        total += seconds
    return total


def used_seconds(
    sweep: str, budget: str | None, method: str, tasks: list[str] | None
) -> float:
    """Run a method's trials in a process; return its CPU seconds."""
    with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as folder:
        verb = "run" if sweep.endswith(".yaml") else "benchmark"
        command = [sys.executable, "-m", "orca_ray.cli.main", verb, sweep]
        command += ["--methods", method, "--executor", "inline", "--results", folder]
        if tasks:
            command += ["--tasks", ",".join(tasks)]
        if budget:
            command += ["--budget", budget]
        threads = {**os.environ, "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(command, env=threads, stdout=subprocess.DEVNULL)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, command
        return usage.ru_utime + usage.ru_stime


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("sweep")
    parser.add_argument("--methods", required=True)
    parser.add_argument("--tasks")
    parser.add_argument("--budget")
    options = parser.parse_args()
    tasks = options.tasks.split(",") if options.tasks else None
    print("| method | planned, s | CPU time, s | planned to used |")
    print("|---|--:|--:|--:|")
    for method in options.methods.split(","):
        arguments = (options.sweep, options.budget, method, tasks)
        planned = planned_seconds(*arguments)
        used = used_seconds(*arguments)
        print(f"| `{method}` | {planned:.0f} | {used:.0f} | {planned / used:.2f} |")


if __name__ == "__main__":
    main()
