"""orca-ray: distributed sweeps for cross-modal fine-tuning.

`load`, `Predictor` and the estimators import torch when they are first used.
"""

from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from orca_ray.version import __version__ as __version__

if TYPE_CHECKING:
    from orca_ray.api import adapt as adapt
    from orca_ray.estimators import CrossModalClassifier as CrossModalClassifier
    from orca_ray.estimators import CrossModalRegressor as CrossModalRegressor
    from orca_ray.predictor import Predictor as Predictor
    from orca_ray.predictor import load as load

_LAZY = {
    "adapt": "orca_ray.api:adapt",
    "Predictor": "orca_ray.predictor:Predictor",
    "load": "orca_ray.predictor:load",
    "CrossModalClassifier": "orca_ray.estimators:CrossModalClassifier",
    "CrossModalRegressor": "orca_ray.estimators:CrossModalRegressor",
}
"""Names of the Python interface, and where they are."""


def __getattr__(name: str) -> Any:
    """Import an object of `_LAZY` when it is first used.

    If a package is missing, the error says which extra installs it.
    """
    if name not in _LAZY:
        raise AttributeError(f"module 'orca_ray' has no attribute {name!r}")
    try:
        return resolve_name(_LAZY[name])
    except ModuleNotFoundError as error:
        from orca_ray.errors import missing_package

        extra = "sweep" if name == "adapt" else "predict"
        hint = missing_package(error, extra)
        if not hint:
            raise
        raise ModuleNotFoundError(f"orca_ray.{name} {hint}", name=error.name) from error


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
