"""Nine problems of PDEBench; each gives two tasks, one for the published file and one for a generated file.

Files made by ``orca-sweep data generate`` have the root attribute `MARK`, a JSON object with the settings.
They belong to the benchmark ``pdebench_generated`` and other files to ``pdebench``, so they share no leaderboard.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

from orca_ray.data.cache import parse_json
from orca_ray.data.hdf5 import open_hdf5
from orca_ray.data.raw import MARK, PDEBENCH_FILES, RawFile, check_missing
from orca_ray.errors import UserError, quoted
from orca_ray.tasks.pdebench import _reading
from orca_ray.tasks.pdebench._layouts import Hdf5, Seeds, Stacked, Steady
from orca_ray.tasks.pdebench._reading import Reading, by_frame, by_inputs
from orca_ray.tasks.task import Arrays, Scale, Target, Task, Workspace

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
        domain="pde",
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


_ONE_FIELD = partial(Stacked, fields=("tensor",))
PROBLEMS = (
    # Advection at speed 0.4 of a random wave on a periodic line.
    Problem(
        name="advection",
        title="Advection, speed 0.4",
        datafile=255674,
        md5="d595bbfd2c659df995a93cd40d6ea568",
        num_bytes=8_230_000_000,
        loss="nrmse",
        input_scale="standardised",  # waves around 0, deviation 0.8
        target_scale="standardised",
        reading=Reading(layout=_ONE_FIELD, grid=(1024,), stride=4, time_stride=5, t_train=200, test_first=True),
    ),
    # Viscous Burgers equation, viscosity 1.0, on a periodic line.
    Problem(
        name="burgers",
        title="Burgers equation, viscosity 1.0",
        datafile=281365,
        md5="9021eba35332d127306f11ef84c1a60f",
        num_bytes=8_230_000_000,
        loss="rmse",
        input_scale="standardised",  # waves around 0, deviation 0.8
        target_scale="standardised",
        reading=Reading(layout=_ONE_FIELD, grid=(1024,), time_stride=5, t_train=200, test_first=True),
    ),
    # Compressible Navier–Stokes equations on a periodic line, viscosities 0.1: density, pressure and velocity,
    # concatenated. As in the reference implementation of ORCA, inputs and targets are standardised by statistics of the
    # inputs, and scores are computed from standardised values.
    Problem(
        name="cfd_1d",
        title="Compressible flow, 1-D",
        datafile=164668,
        md5="45655bd77d006ab539c52b7fbcf099b9",
        num_bytes=12_410_000_000,
        loss="rmse",
        input_scale="standardised",
        target_scale="standardised",
        reading=Reading(
            layout=partial(Stacked, fields=("density", "pressure", "Vx")),
            grid=(1024,),
            time_stride=5,
            t_train=100,
            test_first=True,
            input_channels=(0, 1, 2),
            target_channels=(0, 1, 2),
            flattened=True,
            scaling=by_inputs,
        ),
        paper_splits=True,
    ),
    # Compressible Navier–Stokes equations in a periodic square, Mach 1.0, viscosities 0.1: four fields, 64×64. As in
    # the reference implementation of ORCA, the input frame and the target frame are each standardised by their own
    # statistics over the first hundred training samples, and scores are computed from standardised values.
    Problem(
        name="cfd_2d",
        title="Compressible flow, 2-D, 64×64",
        datafile=164691,
        md5="75a34f34a3dcd9bc8ae4b7adf8bf372c",
        num_bytes=55_050_000_000,
        loss="nrmse",
        input_scale="standardised",
        target_scale="standardised",
        reading=Reading(
            layout=partial(Stacked, fields=("density", "pressure", "Vx", "Vy")),
            grid=(128, 128),
            stride=2,
            t_train=21,
            test_first=False,
            input_channels=(0, 1, 2, 3),
            target_channels=(0, 1, 2, 3),
            scaling=by_frame,
        ),
        paper_splits=True,
    ),
    # Darcy flow with forcing 0.1: from the diffusion coefficient to the steady state.
    Problem(
        name="darcy",
        title="Darcy flow, 64×64",
        datafile=133218,
        md5="294f9a03a4aa16b0e386469ca8b471be",
        num_bytes=1_310_000_000,
        loss="nrmse",
        reading=Reading(layout=Steady, grid=(128, 128), stride=2, t_train=1000, test_first=True),
    ),
    # Diffusion (0.5) and logistic growth (rate 1.0) on a periodic line.
    Problem(
        name="diffusion_reaction_1d",
        title="Diffusion and reaction, 1-D",
        datafile=133177,
        md5="69a429239778d529cd419ed5888ea835",
        num_bytes=4_140_000_000,
        loss="nrmse",
        reading=Reading(layout=_ONE_FIELD, grid=(1024,), t_train=30, test_first=True),
        paper_splits=True,
    ),
    # FitzHugh–Nagumo diffusion and reaction in the plane. As in the reference implementation of ORCA, input and target
    # are different quantities: the activator (channel 0) in the first frame and the inhibitor (channel 1) in a later
    # one.
    Problem(
        name="diffusion_reaction_2d",
        title="Diffusion and reaction, 2-D",
        datafile=133017,
        md5="b8d0b86064193195ddc30c33be5dc949",
        num_bytes=13_240_000_000,
        num_samples=(800, 100, 100),
        loss="nrmse",
        input_scale="standardised",  # normal noise
        reading=Reading(
            layout=partial(Seeds, channels=2),
            grid=(128, 128),
            t_train=101,
            test_first=False,
            input_channels=(0,),
            target_channels=(1,),
        ),
        paper_splits=True,
    ),
    # Diffusion and sorption of a solute in ground water, on a line.
    Problem(
        name="diffusion_sorption",
        title="Diffusion and sorption",
        datafile=133020,
        md5="9d466d1213065619d087319e16d9a938",
        num_bytes=4_140_000_000,
        loss="nrmse",
        reading=Reading(layout=partial(Seeds, channels=1), grid=(1024,), t_train=101, test_first=False),
        paper_splits=True,
    ),
    # Shallow-water equations after the break of a circular dam: from the initial to a later water height.
    Problem(
        name="shallow_water",
        title="Shallow water, radial dam break",
        datafile=133021,
        md5="75d838c47aa410694bdc912ea7f22282",
        num_bytes=6_620_000_000,
        num_samples=(800, 100, 100),
        loss="nrmse",
        reading=Reading(layout=partial(Seeds, channels=1), grid=(128, 128), t_train=101, test_first=False),
        paper_splits=True,
    ),
)
TASKS = tuple(declare(problem) for declare in (downloaded, generated) for problem in PROBLEMS)
