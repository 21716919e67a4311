"""The class `Recipe`, which defines a method, and functions that recipes share."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from orca_ray.methods.options import Scalar

if TYPE_CHECKING:  # planning a sweep must not import torch
    from torch import nn
    from torch.nn import Parameter

    from orca_ray.methods.stages.trial import NetworkRequest, Stage, Trial
    from orca_ray.models.crossmodal import CrossModalModel
    from orca_ray.tasks.task import Task
    from orca_ray.training.config import AlignConfig

NO_BODY = "none"
"""Name of the body in trials of methods that use none."""
FROZEN_BODY = 0.7
"""Duration of an epoch with a frozen body, relative to an epoch that trains the body; measured on the pocket tasks."""


def align_then_refine(trial: "Trial", options: "AlignConfig | None" = None, *, guarded: bool = False) -> "list[Stage]":
    """Return the refine stage and, if the method aligns and ``align.epochs`` is not 0, an `AlignStage` before it.

    ``options`` replace the trial's options of the align stage; ``guarded`` is the argument of `AlignStage`.
    """
    from orca_ray.methods.stages.align_stage import AlignStage
    from orca_ray.methods.stages.refine_stage import RefineStage

    aligns = trial.aligns and trial.hyperparameters.align.epochs > 0
    return [*([AlignStage(trial, options, guarded=guarded)] if aligns else []), RefineStage(trial)]


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Complete definition of a method. Functions in it import torch only when they are called."""

    name: str
    title: str
    """Short description, shown in lists of methods."""
    reference: str
    """Paper that introduced the method, with its identifier."""
    aligns: bool = False
    """Whether the method uses the options ``align.*``."""
    stage_names: Sequence[str] = ()
    """Names of the stages, for lists of methods. Default: ``align`` if the method aligns, and ``refine``."""
    pretrained: bool = True
    """Whether body and embedder start from pretrained weights."""
    uses_body: bool = True
    """Whether the method needs the sweep's body, at least its embedding. If not, no body is loaded, and the body in its
    trials' records is `NO_BODY`."""
    sections: Sequence[str] = ("data", "decoder", "embedder", "head", "refine")
    """Sections of the options that the method uses, or names of single options, e.g. ``refine.epochs``, besides
    ``align`` and the sections of ``options``."""
    options: Sequence[type[Any]] = ()
    """Options of this method alone: dataclasses like `RefineConfig`. ``PareConfig`` defines the options ``pare.*``."""
    problem: "Callable[[Task], str | None]" = lambda task: None
    """Returns why the method cannot adapt to a task here, as a sentence; None if it can, as far as is known: before
    data are prepared, a task may lack its input shape. Default: the method can adapt to every task."""
    extras: "Callable[[Mapping[str, Scalar]], Sequence[str]]" = lambda values: ()
    """Returns the extras of orca-ray that a model with these hyper-parameters needs besides ``predict``."""
    network: "Callable[[NetworkRequest], CrossModalModel]" = lambda request: request.build()
    """Returns the model to train. Default: the body between a new embedder and a new head."""
    stages: "Callable[[Trial], Sequence[Stage]]" = align_then_refine
    """Returns the stages of a trial in the order in which they run, the last one a `RefineStage` or a `FittedStage`."""
    trainable: "Callable[[CrossModalModel], Iterable[Parameter]]" = lambda model: model.parameters()
    """Returns the parameters that the refine stage trains; it freezes all others. Default: all."""
    names_body: bool = False
    """Whether a model folder names the body instead of holding the weights of the body that no stage trains."""
    operations: "Callable[[Task, Mapping[str, Scalar]], float | None] | None" = None
    """Returns the floating-point operations of a forward pass on one sample, given all hyper-parameters, for cost
    estimates; None if the task's shape is not known yet. Default: those of the body."""
    defaults: Mapping[str, Scalar] = field(default_factory=dict)
    """Defaults of this method, by dotted name, that override the defaults of the sections."""
    relative_cost: float = 1.0
    """Duration of refining, relative to ``nft`` with the same options; measured on the pocket tasks."""
    other_epochs: "Callable[[Mapping[str, Scalar], int], float]" = lambda values, num_train: 0.0
    """Returns how many epochs of ``nft`` take as long as the stages that neither align nor refine, given all
    hyper-parameters and the number of training samples."""
    variant: bool = False
    """Whether the group `FIELD` leaves the method out: a variant of another method, or a baseline for some tasks
    only."""

    def __post_init__(self) -> None:
        usual = ("align", "refine") if self.aligns else ("refine",)
        object.__setattr__(self, "stage_names", tuple(self.stage_names) or usual)


def head_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield the head's parameters."""
    yield from model.head.parameters()


def new_parameters(model: "CrossModalModel") -> "Iterator[Parameter]":
    """Yield the parameters of the embedder, position embeddings included, and of the head: all outside the body."""
    yield from model.embedder.parameters()
    yield from head_parameters(model)


def norm_parameters(module: "nn.Module") -> "Iterator[Parameter]":
    """Yield the parameters of all normalisation layers in ``module``: those with "norm" in their class name.

    The name is used because some encoders define their own normalisation classes, which share no base class.
    """
    for layer in module.modules():
        if "norm" in type(layer).__name__.lower() and not list(layer.children()):
            yield from layer.parameters(recurse=False)
