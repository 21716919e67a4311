"""Tasks of PDEBench from declared problems, for published files and for generated ones.

Files made by ``orca-sweep data generate`` have the root attribute `MARK`, a JSON object with the settings.
They belong to the benchmark ``pdebench_generated`` and other files to ``pdebench``, so they share no leaderboard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from orca_ray.data.cache import parse_json
from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.raw import MARK, PDEBENCH_FILES, RawFile, check_missing
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.pdebench import _reading
from orca_ray.tasks.pdebench._layouts import Hdf5, Steady, seeds, stacked
from orca_ray.tasks.pdebench._reading import Reading, by_frame, by_inputs
from orca_ray.tasks.task import Arrays, Scale, Target, Task, Workspace

__all__ = ["Problem", "Reading", "Steady", "by_frame", "by_inputs", "downloaded", "generated", "seeds", "stacked"]
"""Names that modules which declare problems import from here."""

DOWNLOADED, GENERATED = "pdebench", "pdebench_generated"
_DATAFILES = "https://darus.uni-stuttgart.de/api/access/datafile"
_CITATION = (
    "Takamoto, Praditia, Leiteritz, MacKinlay, Alesiani, Pflüger and Niepert, "
    "PDEBench: An extensive benchmark for scientific machine learning, NeurIPS Datasets and Benchmarks, 2022"
)


@dataclass(frozen=True, kw_only=True)
class Problem:
    """One equation of PDEBench with fixed parameters, its published file, and how to read such a file."""

    name: str
    title: str
    datafile: int
    """Id of the published file in DaRUS, the data repository of the University of Stuttgart."""
    md5: str
    num_bytes: int
    """Estimated size of the published file, from the samples, frames and points that PDEBench states."""
    num_samples: tuple[int, int, int] = (8000, 1000, 1000)
    """Sizes of train, validation and test of the published file."""
    loss: Literal["nrmse", "rmse"]
    input_scale: Scale = "units"
    target_scale: Scale = "units"
    reading: Reading
    paper_splits: bool = False
    """Whether arrays differ under ``paper``: in the target frame of test, or because statistics include validation."""

    @property
    def file(self) -> str:
        """File name in PDEBench."""
        return PDEBENCH_FILES[self.name]


def downloaded(problem: Problem) -> Task:
    """Return the task of a problem for the published file."""
    address = f"{_DATAFILES}/{problem.datafile}"
    return _task(
        problem,
        DOWNLOADED,
        RawFile(path=problem.file, urls=(address,), md5=problem.md5, num_bytes=problem.num_bytes),
        _check_generated,
        title=problem.title,
        num_samples=problem.num_samples,
        licence="CC-BY-4.0",
        terms="Asks to be cited.",
    )


def generated(problem: Problem) -> Task:
    """Return the task of a problem for a file in the same layout that ``orca-sweep data generate`` makes."""
    command = f"orca-sweep data generate {DOWNLOADED}/{problem.name} --samples 1000"
    source = RawFile(path=problem.file, made_by=command)
    return _task(
        problem,
        GENERATED,
        source,
        _check_downloaded,
        title=f"{problem.title} (generated)",
        num_samples=None,
        licence="none (made by orca-ray on the user's machine)",
        fetcher=lambda raw, _: check_missing(f"{GENERATED}/{problem.name}", (source,), raw),
    )


def _task(
    problem: Problem, benchmark: str, source: RawFile, check_other: Callable[[Path, Hdf5, str], None], **declared: Any
) -> Task:
    reading = problem.reading

    def build(workspace: Workspace) -> Arrays:
        path = workspace.file(problem.file)
        with open_hdf5(path) as file:
            check_other(path, file, problem.name)
            return _reading.build(workspace, reading, reading.layout(file, path, reading.grid))

    return Task(
        name=f"{benchmark}/{problem.name}",
        modality="pde",
        input_shape=reading.shape,
        target=Target("dense", shape=reading.shape),
        loss=problem.loss,
        metric="nrmse",
        input_scale=problem.input_scale,
        target_scale=problem.target_scale,
        citation=_CITATION,
        reference="https://doi.org/10.18419/darus-2986",
        files=(source,),
        paper_splits=problem.paper_splits,
        build=build,
        **declared,
    )


def _check_generated(path: Path, file: Hdf5, problem: str) -> None:
    if MARK in file.attrs:
        raise UserError(
            f"{path}: expected the published simulations, found generated ones (attribute {MARK!r}); use the task "
            f"{GENERATED}/{problem}, whose scores have their own leaderboard"
        )


def _check_downloaded(path: Path, file: Hdf5, problem: str) -> None:
    settings = file.attrs.get(MARK)
    try:
        parse_json(settings, str(path))
    except UserError as error:
        raise UserError(
            f"{path}: expected simulations made by 'orca-sweep data generate', which have their settings in the "
            f"attribute {MARK!r} (a JSON object), found {'none' if settings is None else quoted(settings)}; use the "
            f"task {DOWNLOADED}/{problem} for the published file"
        ) from error
