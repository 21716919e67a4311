"""Nine problems of PDEBench.

Each gives two tasks, one for the published file and one for a generated file. Two of
them, Advection and Burgers, were uploaded a second time in 2023 with a corrected flux:
the first uploads, which the ORCA paper used, are the tasks ``advection_original`` and
``burgers_original``. Files made by ``orca-sweep data generate`` have the root attribute
`MARK`, a JSON object with the settings. Generated files belong to the benchmark
``pdebench_generated``, other files to ``pdebench``: they share no leaderboard. The
problems are declared in ``problems.toml``, and what the tasks of a benchmark have in
common in ``benchmarks.toml``.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from orca_ray.data.cache import parse_json
from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.raw import MARK, PDEBENCH_FILES, RawFile, check_missing
from orca_ray.discovery import tables
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.pdebench import _reading
from orca_ray.tasks.pdebench._reading import (
    Hdf5,
    Reading,
    Seeds,
    Stacked,
    Steady,
    by_frame,
    by_inputs,
)
from orca_ray.tasks.task import Arrays, Target, Task, Workspace

DOWNLOADED = "pdebench"
GENERATED = "pdebench_generated"
_DATAFILES = "https://darus.uni-stuttgart.de/api/access/datafile"
_MAKE = "orca-sweep data generate"
"""Command that generates a file, given a task."""
_LAYOUTS = {"Seeds": Seeds, "Stacked": Stacked, "Steady": Steady}
_SCALINGS = {"": None, "by_frame": by_frame, "by_inputs": by_inputs}


def _tasks(name: str) -> tuple[Task, ...]:
    """Return the tasks of one table of ``problems.toml``.

    One is for the published file, and one for a generated file in the same layout.
    Another upload of the same problem gives only the first.
    """
    problem = _PROBLEMS[name]
    file = _path(name)
    address = f"{_DATAFILES}/{problem['datafile']}"
    published = RawFile(
        path=file, urls=(address,), md5=problem["md5"], num_bytes=problem["num_bytes"]
    )
    made = RawFile(path=file, made_by=f"{_MAKE} {DOWNLOADED}/{name} --samples 1000")
    title = problem["title"]
    sizes = problem.get("num_samples", (8000, 1000, 1000))
    downloaded = _task(
        DOWNLOADED, name, title=title, files=(published,), num_samples=sizes
    )
    if "same_as" in problem:
        return (downloaded,)
    generated = _task(
        GENERATED, name, title=f"{title} (generated)", files=(made,), num_samples=None
    )
    return downloaded, replace(
        generated, fetcher=lambda raw, _: check_missing(generated.name, (made,), raw)
    )


def _task(benchmark: str, problem: str, **declared: Any) -> Task:
    """Return the task of a problem; ``declared`` are other fields of the task.

    ``benchmark`` says whether the file is published or generated.
    """
    name = f"{benchmark}/{problem}"
    reading = READINGS[problem]

    def build(workspace: Workspace) -> Arrays:
        path = workspace.file(_path(problem))
        with open_hdf5(path) as file:
            _check_origin(path, file, name)
            return _reading.build(workspace, reading.layout(file, path, reading))

    stated = ("loss", "input_scale", "target_scale", "paper_splits")
    fields = _BENCHMARKS[benchmark] | {
        key: value for key, value in _PROBLEMS[problem].items() if key in stated
    }
    target = Target("dense", shape=reading.shape)
    return Task(
        name=name,
        input_shape=reading.shape,
        target=target,
        build=build,
        **fields,
        **declared,
    )


def _path(problem: str) -> str:
    """Return the path of a problem's file below the raw directory."""
    declared = _PROBLEMS[problem]
    return str(declared["path"] if "path" in declared else PDEBENCH_FILES[problem])


def _problems() -> Mapping[str, Mapping[str, Any]]:
    """Return the tables of ``problems.toml``, completed by those of ``same_as``."""
    stated = tables("orca_ray.tasks.pdebench", "problems.toml")
    return {
        name: stated[problem.get("same_as", name)] | problem
        for name, problem in stated.items()
    }


def _reading_of(layout: Mapping[str, Any], scaling: str = "", **fields: Any) -> Reading:
    options = dict(layout)
    open_layout = partial(_LAYOUTS[options.pop("name")], **options)
    return Reading(layout=open_layout, scaling=_SCALINGS[scaling], **fields)


def _check_origin(path: Path, file: Hdf5, task: str) -> None:
    """Raise UserError if ``task`` is not for the kind of file that ``path`` is.

    A file is published or generated.
    """
    benchmark, problem = task.split("/")
    if benchmark == DOWNLOADED:
        if MARK in file.attrs:
            generated = _PROBLEMS[problem].get("same_as", problem)
            raise UserError(
                f"{path}: expected the published simulations, found generated ones"
                f" (attribute {MARK!r}); use the task {GENERATED}/{generated}, whose"
                " scores have their own leaderboard"
            )
        return
    settings = file.attrs.get(MARK)
    try:
        parse_json(settings, str(path))
    except UserError as error:
        raise UserError(
            f"{path}: expected simulations made by 'orca-sweep data generate', which"
            f" have their settings in the attribute {MARK!r} (a JSON object), found"
            f" {'none' if settings is None else quoted(settings)}; use the task"
            f" {DOWNLOADED}/{problem} for the published file"
        ) from error


_BENCHMARKS = tables("orca_ray.tasks.pdebench", "benchmarks.toml")
_PROBLEMS = _problems()
READINGS = {
    name: _reading_of(**problem["reading"]) for name, problem in _PROBLEMS.items()
}
TASKS = tuple(task for name in _PROBLEMS for task in _tasks(name))
