"""The class `Recipe`, which defines a method, and functions that recipes share."""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pkgutil import resolve_name
from typing import TYPE_CHECKING, Any

from orca_ray.methods.options import Scalar

if TYPE_CHECKING:  # planning a sweep must not import torch
    from torch.nn import Parameter

    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.body import Body
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task
    from orca_ray.training.config import AlignConfig

_LINKS = {
    "paper": r"arxiv\.org/abs/\d{4}\.\d{4,5}",
    "code": r"github\.com/[\w-]+/[\w-]+",
}
"""Patterns of the addresses in `Recipe.reference`."""
NO_BODY = "none"
"""Name of the body in trials of methods that use none."""
FROZEN_BODY = 0.7
"""Duration of an epoch with a frozen body, relative to an epoch that trains the body.

It was measured on the pocket tasks; `Recipe.other_epochs` uses it.
"""


def align_then_refine(
    trial: "Trial", options: "AlignConfig | None" = None, *, guarded: bool = False
) -> "list[Stage]":
    """Return an `AlignStage`, if the method aligns, and a `RefineStage`.

    The method aligns if ``align.epochs`` is not 0. ``options`` replace the trial's
    options ``align.*``. ``guarded``: whether an `AlignGuard` chooses the embedder.
    """
    from orca_ray.methods.stages.align_stage import AlignStage
    from orca_ray.methods.stages.refine_stage import RefineStage
    from orca_ray.methods.stages.trial import Stage

    stages = list[Stage]()
    if trial.aligns and trial.hyperparameters.align.epochs > 0:
        stages.append(AlignStage(trial, options, guarded=guarded))
    stages.append(RefineStage(trial))
    return stages


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Complete definition of a method.

    Functions in it import torch only when they are called.
    """

    name: str
    title: str
    """Short description, shown in lists of methods."""
    reference: str
    """Paper that introduced the method, with its identifier of arXiv and its authors'
    repository on GitHub.
    """
    aligns: bool = False
    """Whether the method uses the options ``align.*``."""
    stage_names: Sequence[str] = ()
    """Names of the stages, for lists of methods.

    Default: ``align`` if ``aligns``, and ``refine``.
    """
    pretrained: bool = True
    """Whether body and embedder start from pretrained weights."""
    uses_body: bool = True
    """Whether the method needs the sweep's body, or at least the body's embedding. If
    not, no body is loaded, and the body in the records of the method's trials is
    `NO_BODY`.
    """
    sections: Sequence[str] = ("data", "embedder", "head", "refine")
    """Sections of the options that the method uses, or names of single options, e.g.
    ``refine.epochs``, besides ``align`` and the sections of ``options``.
    """
    options: Sequence[type[Any]] = ()
    """Options of this method alone: dataclasses like `RefineConfig`.

    ``LoraConfig`` defines the options ``lora.*``.
    """
    problem: "Callable[[Task], str | None]" = lambda task: None
    """Returns why the method cannot adapt to a task on this machine, e.g. "it needs the
    package lightgbm"; None if no reason is known. Before data are prepared, a task may
    lack its input shape. Default: no reason for any task.
    """
    network: "Callable[[NetworkRequest], CrossModalModel]" = lambda request: (
        request.build()
    )
    """Returns the model to train.

    Default: the body between a new embedder and a new head.
    """
    stages: "Callable[[Trial], Sequence[Stage]]" = align_then_refine
    """Returns the stages of a trial in the order in which they run, the last one a
    `RefineStage` or a `FittedStage`.
    """
    trainable: "Callable[[CrossModalModel], Iterable[Parameter]]" = lambda model: (
        model.parameters()
    )
    """Returns the parameters that the refine stage trains; that stage freezes all
    others. Default: all.
    """
    names_body: bool = False
    """Whether a model folder only names the body, without the body's weights that
    ``trainable`` does not return.
    """
    operations: "Callable[[Task, Mapping[str, Scalar]], float | None] | None" = None
    """Returns the floating-point operations of a forward pass on one sample, given all
    hyper-parameters, for cost estimates; None if the task's shape is not known yet.
    Default: the operations of the body.
    """
    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    """Defaults of this method, by dotted name, that override the defaults of the
    sections.
    """
    relative_cost: float = 1.0
    """Duration of refining, relative to ``nft`` with the same options; measured on the
    pocket tasks.
    """
    other_epochs: "Callable[[Mapping[str, Scalar], int], float]" = (
        lambda values, num_train: 0.0
    )
    """Returns how many epochs of ``nft`` take as long as all stages except ``align``
    and ``refine``, given all hyper-parameters and the number of training samples.
    """
    fitted: bool = False
    """Whether the method fits its model without gradients, in seconds on one core."""
    refits: bool = False
    """Whether the method can fit all samples, with a number of epochs that folds chose,
    as it needs no validation data for anything else.
    """
    variant: bool = False
    """Whether the group `FIELD` leaves the method out: a variant of another method, or
    a baseline for some tasks only.
    """

    def __post_init__(self) -> None:
        usual = ("align", "refine") if self.aligns else ("refine",)
        object.__setattr__(self, "stage_names", tuple(self.stage_names) or usual)

    @property
    def links(self) -> dict[str, str]:
        """URLs of the ``paper`` and its ``code``, if ``reference`` names them."""
        text = self.reference.replace("arXiv:", "arxiv.org/abs/")
        matches = {kind: re.search(pattern, text) for kind, pattern in _LINKS.items()}
        return {kind: f"https://{match[0]}" for kind, match in matches.items() if match}


def deferred(function: str) -> Callable[[Any], Any]:
    """Return the function that MODULE:NAME names.

    The first call imports its module, which may import torch.
    """
    return lambda argument: resolve_name(function)(argument)


def head_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield the parameters of the model's head."""
    yield from model.head.parameters()


def new_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield all parameters outside the body: those of embedder and head.

    Position embeddings are parameters of the embedder.
    """
    yield from model.embedder.parameters()
    yield from head_parameters(model)


def new_and_norm_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield the parameters of embedder and head, then those of the body's norms."""
    yield from new_parameters(model)
    yield from norm_parameters(model.body)


def norm_parameters(body: "Body") -> "Iterator[Parameter]":
    """Yield the parameters of the body's norms.

    Norms are layers without children whose class name contains "norm": some encoders
    define their own normalisation classes, which share no base class.
    """
    for layer in body.modules():
        if "norm" in type(layer).__name__.lower() and not list(layer.children()):
            yield from layer.parameters(recurse=False)
