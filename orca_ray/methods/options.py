"""Hyper-parameters of a trial, in sections; some sections belong to one method.

Nothing here imports torch, so that a sweep can be planned without it. Some methods, and
all plug-ins, declare their options beside their recipe instead.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import partial
from typing import Annotated, Any, TypeVar, get_type_hints

from orca_ray.models.modality import EmbedderConfig, HeadConfig
from orca_ray.options import (
    Amount,
    Config,
    Count,
    Fraction,
    Number,
    Positive,
    Share,
    at_least_2,
    one_of,
    section_name,
)
from orca_ray.training.config import AlignConfig, DataConfig, RefineConfig

_Config = TypeVar("_Config")
Scalar = int | float | str
"""Value of one hyper-parameter."""
TARGETS = {
    "all": ("attention", "mlp"),
    "attention": ("attention",),
    "mlp": ("mlp",),
    "query_value": ("query", "value"),
}
"""Roles of the linear layers that each value of ``lora.targets`` adapts."""


@dataclass(frozen=True)
class LoraConfig(Config):
    """Options of `lora` and `orca_lora`."""

    rank: Number = 8
    alpha: Positive = 16.0
    """The low-rank updates are multiplied by ``alpha / rank``."""
    dropout: Fraction = 0.0
    """Probability of dropout at the input of the updates; ``refine.dropout`` applies to
    all other layers.
    """
    targets: Annotated[str, partial(one_of, TARGETS)] = "all"
    """Linear layers of each transformer layer that are adapted: ``attention``, ``mlp``,
    or ``all`` of them; ``query_value``: the projections to queries and values, as in
    the paper's experiments. Where one layer projects to queries, keys and values
    together, it is adapted as a whole.
    """
    weights: Annotated[str, partial(one_of, ("float32", "nf4"))] = "float32"
    """How the frozen weights of the adapted layers are stored.

    ``nf4`` is 4-bit NormalFloat, with a scale for each 64 values (QLoRA); it needs the
    extra ``nf4``.
    """


@dataclass(frozen=True)
class LinearConfig(Config):
    """Options of methods that fit a linear model to features."""

    limit: Amount = 0.0
    """Number of standard deviations from its mean over the training samples at which a
    feature is clipped; 0: it is not clipped.
    """


@dataclass(frozen=True)
class ForestConfig(Config):
    """Options of the random forest."""

    splits: Annotated[str, partial(one_of, ("best", "random"))] = "best"
    """Thresholds that a split may use: the ``best`` ones, or ``random`` ones. With
    ``random``, each tree sees all samples, up to 10,000 (Geurts et al., 2006,
    "Extremely randomized trees"). Such trees had 0.93 of the errors of the others on 9
    x 9 pixels of an aerial scene.
    """


@dataclass(frozen=True)
class BoostingConfig(Config):
    """Options of the trees.

    The defaults are LightGBM's, except ``rounds``, ``patience`` and ``columns``.
    """

    rounds: Number = 25
    """Number of boosting rounds of an epoch."""
    patience: Count = 4
    """Epochs without a better validation score after which the trial ends; 0: it runs
    all of ``refine.epochs``.
    """
    learning_rate: Positive = 0.1
    leaves: Annotated[int, at_least_2] = 31
    """Largest number of leaves of a tree."""
    leaf_samples: Number = 20
    """Smallest number of samples in a leaf."""
    columns: Share = 0.5
    """Share of the features, drawn with the trial's seed, that a split may use. On four
    pocket tasks, 0.5 has a lower validation error than 1.
    """
    rows: Share = 1.0
    """Share of the samples, drawn with the trial's seed, that each round of trees sees.
    """
    copies: Number = 1
    """Number of times that the rounds of an epoch are trained, each time with other
    random draws; the epoch adds the mean of the results.
    """
    l2: Amount = 0.0
    """Penalty on the squares of the leaves' outputs."""


@dataclass(frozen=True)
class Hyperparameters:
    """Record of all hyper-parameters of a trial, by section.

    `registry.from_flat` makes it.
    """

    of_methods: Mapping[str, Any]
    """The sections that methods declare in `Recipe.options`, by section name."""
    data: DataConfig
    embedder: EmbedderConfig
    head: HeadConfig
    align: AlignConfig
    refine: RefineConfig

    def of(self, config: type[_Config]) -> _Config:
        """Return the section of the class ``config``.

        The `Recipe.options` of some method must contain the class.
        """
        section = self.of_methods[section_name(config)]
        assert isinstance(section, config)
        return section

    def to_flat(self) -> dict[str, Scalar]:
        """Return the values of all hyper-parameters by dotted name."""
        shared = {name: getattr(self, name) for name in SHARED}
        sections = {**shared, **self.of_methods}
        return {
            f"{name}.{option.name}": getattr(section, option.name)
            for name, section in sections.items()
            for option in fields(section)
        }


SHARED: Mapping[str, type[Any]] = {
    name: kind
    for name, kind in get_type_hints(Hyperparameters).items()
    if name != "of_methods"
}
"""Class of each section that any method may use, by section name."""
