"""What must hold after a fault and the same command again.

Each check returns a list of problems, in words.
"""

import time
from collections import Counter
from pathlib import Path

import psutil
import pyarrow.parquet as pq

from benchmarks.faults.run import Run
from benchmarks.faults.site import NAME
from orca_ray.results.folder import TEMPORARY, Folder
from orca_ray.results.marker import MARKER
from orca_ray.results.store import ResultsStore
from tests.sweep.real import read_facts

TABLES = ("records", "curves", "artefacts", "journal", "logs")
FILES = {MARKER, "compaction.json", *TABLES, "live", "checkpoints"}
"""Names in a store of which no sweep runs; ``live`` says how it ended, and
``checkpoints`` is empty.
"""
END_SECONDS = 75.0
"""How long processes may take to end after their command: agents of Ray whose GCS was
killed wait 60 s for it.
"""


def check_store(run: Run) -> list[str]:
    """Return the problems of the results store."""
    store = ResultsStore(run.direct_uri)
    return [*trials(run, store), *scores(run, store), *files(store.folder)]


def check_machine(run: Run) -> list[str]:
    """Return the problems of what is left outside the store."""
    return [*scratch(run.temporary), *processes(run)]


def trials(run: Run, store: ResultsStore) -> list[str]:
    """Check that the files hold exactly one row for every planned trial, and that it
    has scores.
    """
    rows = Counter[str]()
    problems = []
    for name in store.folder.names("records"):
        table = pq.read_table(
            store.folder.open(f"records/{name}"), columns=["trial_key", "status"]
        )
        rows.update(str(key) for key in table["trial_key"].to_pylist())
        failed = [
            status
            for status in table["status"].to_pylist()
            if status not in ("completed", "stopped_early")
        ]
        problems += [f"a record is {status}" for status in failed]
    planned = run.site.reference.keys()
    problems += [f"{len(planned - rows.keys())} trials are missing"] * bool(
        planned - rows.keys()
    )
    problems += [f"{len(rows.keys() - planned)} trials were not planned"] * bool(
        rows.keys() - planned
    )
    return problems + [
        f"trial {key} has {count} rows" for key, count in rows.items() if count > 1
    ]


def scores(run: Run, store: ResultsStore) -> list[str]:
    """Check that records and artefacts are bit-equal to the undisturbed run."""
    found = read_facts(store, NAME)
    problems = []
    for key, expected in run.site.reference.items():
        differs = [
            name
            for name, value in expected.items()
            if found.get(key, {}).get(name) != value
        ]
        if key in found and differs:
            problems.append(f"trial {key} differs in {', '.join(differs)}")
    return problems


def files(folder: Folder) -> list[str]:
    """Check that the store holds nothing but its tables and the last state of the
    sweep.

    Temporary files of a killed writer may stay in tables: a compaction deletes them
    when they are an hour old.
    """
    found = [name for name in folder.names(hidden=True) if name not in FILES]
    found += [
        f"live/{name}"
        for name in folder.names("live", hidden=True)
        if not name.startswith("faults_")
    ]
    for table in TABLES:
        names = folder.names(table, hidden=True)
        found += [
            f"{table}/{name}"
            for name in names
            if not name.startswith(TEMPORARY) and Path(name).suffix != ".parquet"
        ]
    return [f"{name} is left in the store" for name in found]


def scratch(temporary: Path) -> list[str]:
    """Check that the directory for temporary files is empty.

    It may hold the logs of Ray's sessions, the cache of PyTorch's compiler, and empty
    directories of wandb, which Ray imports where it is installed.
    """
    names = [
        path.name
        for path in temporary.iterdir()
        if not path.name.startswith(("ray", "torchinductor_"))
    ]
    return [f"{name} is left in TMPDIR" for name in names if "wandb-" not in name]


def processes(run: Run) -> list[str]:
    """Check that all processes end soon."""
    deadline = time.monotonic() + END_SECONDS
    while (left := run.processes()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return [f"process {_name(process)} is left" for process in left]


def _name(process: psutil.Process) -> str:
    try:
        return f"{process.pid} ({' '.join(process.cmdline())[:80]})"
    except psutil.Error:
        return str(process.pid)
