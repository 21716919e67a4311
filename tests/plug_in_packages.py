"""Installs packages with entry points for tests."""

import importlib
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from orca_ray import discovery, errors
from orca_ray.alignment.registry import all_sources
from orca_ray.leaderboard.statistics import all_statistics
from orca_ray.methods.registry import all_methods, hyperparameter_types
from orca_ray.models.family import all_families
from orca_ray.sweep.trackers.base import all_trackers
from orca_ray.tasks.augmentations import all_augmentations
from orca_ray.tasks.losses import all_losses
from orca_ray.tasks.metrics import all_metrics
from orca_ray.tasks.registry import all_tasks
from orca_ray.training.artefacts.base import all_artefacts

EXAMPLE = Path(__file__).parents[1] / "examples" / "plugin"
_CACHES = (
    discovery._entry_points,
    hyperparameter_types,
    all_sources,
    all_statistics,
    all_methods,
    all_families,
    all_trackers,
    all_augmentations,
    all_losses,
    all_metrics,
    all_tasks,
    all_artefacts,
)


def forget() -> None:
    """Let all registries be built again."""
    importlib.invalidate_caches()
    for cache in _CACHES:
        cache.cache_clear()
    errors.UNUSABLE.clear()
    discovery._origins.clear()


def write_package(
    site: Path, name: str, entries: Mapping[str, Mapping[str, str]], **modules: str
) -> None:
    """Write an installed package, version 1.0.

    ``entries`` are the values of entry points by name by group; ``modules`` are the
    texts of modules by name.
    """
    info = site / f"{name.replace('-', '_')}-1.0.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(
        f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n"
    )
    lines = []
    for group, values in entries.items():
        lines.append(f"[{group}]")
        lines += [f"{entry} = {value}" for entry, value in values.items()]
    (info / "entry_points.txt").write_text("\n".join(lines) + "\n")
    for module, text in modules.items():
        (site / f"{module}.py").write_text(text)


@contextmanager
def installed(site: Path) -> Iterator[None]:
    """Context manager: this process finds the packages in a directory."""
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(site))
        forget()
        yield
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file and Path(file).is_relative_to(site):
            del sys.modules[name]
    forget()
