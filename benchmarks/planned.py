"""What is asked of each study, fixed before its first score; see docs/studies.md."""

from dataclasses import dataclass, field

from benchmarks.findings import (
    Question,
    Sides,
    between_kinds,
    by_distance,
    by_samples,
    joined_name,
)
from benchmarks.searches import (
    BEST_BASELINE,
    BEST_TRANSFORMER,
    REFERENCE,
    TYPICAL_BASELINE,
    Families,
)
from orca_ray.data.prepared import HELD_OUT, PAPER


@dataclass(frozen=True)
class Part:
    """Another sweep, or another protocol, of a study's methods and tasks.

    It has a board of its own. Only for comparisons do its methods stand beside those of
    the study, under the names of `joined_name`.
    """

    name: str
    budget: str
    """Budget of the benchmark that the sweep runs."""
    protocol: str = HELD_OUT


@dataclass(frozen=True)
class Plan:
    """The questions of a study, one family, and where its scores are."""

    questions: tuple[Question, ...]
    families: Families = field(default_factory=Families)
    budget: str | None = None
    """Budget of the benchmark that the sweep runs.

    None: the sweep with the most scores.
    """
    parts: tuple[Part, ...] = ()
    length: str = ""
    """Length of training, if the parts have other lengths."""
    trained: str = ""
    """How long the methods trained, for a page of another study."""
    num_tasks: int | None = None
    """Number of planned tasks; None: all tasks of the benchmark."""

    @property
    def on_baselines(self) -> tuple[Question, ...]:
        """Questions about single baselines, a family of their own."""
        return tuple(
            Question(f"Does fine-tuning beat `{name}`?", Sides(REFERENCE, name))
            for name in self.families.baselines
        )

    @property
    def compared(self) -> tuple[Sides, ...]:
        """What the questions compare: columns of tables."""
        return tuple(dict.fromkeys(question.sides for question in self.questions))


ALIGNING = Question("Does aligning help?", Sides("orca", REFERENCE))
PRETRAINING = Question("Does pretraining help?", Sides(REFERENCE, "scratch"))
TYPICAL = Question(
    "Does fine-tuning beat a typical baseline?", Sides(REFERENCE, TYPICAL_BASELINE)
)
SEARCH = Question(
    "Does the best of some transformers beat the best of as many baselines?",
    Sides(BEST_TRANSFORMER, BEST_BASELINE),
)
PRETRAINING_OF_KINDS = Question(
    "Does pretraining help more on some kinds of data?",
    Sides(REFERENCE, "scratch"),
    between_kinds,
)
BASELINES = (
    "linear",
    "nearest",
    "forest",
    "gradient_boosting",
    "minirocket",
    "hydra",
    "unet",
    "fno",
    "cnn",
)
"""Methods without a body."""

SIX_EPOCHS = Plan(
    questions=(
        ALIGNING,
        Question("Does guarded aligning help?", Sides("orca_guarded", REFERENCE)),
        PRETRAINING,
        TYPICAL,
        SEARCH,
        Question(
            "Is it better to train the whole body than the head alone?",
            Sides(REFERENCE, "linear_probe"),
        ),
        Question(
            "Is it better to train the whole body than its norms?",
            Sides(REFERENCE, "fpt"),
        ),
        PRETRAINING_OF_KINDS,
        Question(
            "Does fine-tuning do better on some kinds of data?",
            Sides(REFERENCE, TYPICAL_BASELINE),
            between_kinds,
        ),
        Question(
            "Does pretraining help more with fewer samples?",
            Sides(REFERENCE, "scratch"),
            by_samples,
            "with ten times the training samples of the same kind",
            grows=True,
        ),
        Question(
            "Does aligning help more where data are farther from the body's own?",
            Sides("orca", REFERENCE),
            by_distance,
            "at twice the distance from the same body",
        ),
    ),
    families=Families(
        transformers=("nft", "orca", "orca_guarded", "fpt", "linear_probe"),
        rivals=BASELINES,
        baselines=BASELINES,
    ),
    trained="after 6 to 30 epochs",
)
"""The first study of the cabinet, whose transformers have 6 epochs on most tasks."""

STEPS = "2,400 steps"
"""Length of training in the study `TRAINED`."""
SHORTER = (Part("150 steps", "steps150"), Part("600 steps", "steps600"))
"""The same study after fewer steps, the fewest first."""
_FEWEST = SHORTER[0].name

TRAINED = Plan(
    questions=(
        ALIGNING,
        PRETRAINING,
        SEARCH,
        TYPICAL,
        Question(
            "Is the gain of pretraining less after more steps?",
            Sides(REFERENCE, "scratch", _FEWEST),
            unit=f"after {STEPS} as after {_FEWEST}",
            grows=True,
        ),
        Question(
            "Is the gain of aligning less after more steps?",
            Sides("orca", REFERENCE, _FEWEST),
            unit=f"after {STEPS} as after {_FEWEST}",
            grows=True,
        ),
        PRETRAINING_OF_KINDS,
    ),
    families=Families(
        transformers=("nft", "orca", "scratch"),
        # Three of them can adapt to each task: the operators only to fields, and
        # boosting and forests to all data but fields.
        rivals=("cnn", "gradient_boosting", "fno", "forest", "unet"),
        baselines=BASELINES,
    ),
    budget="trained",
    parts=SHORTER,
    length=STEPS,
)
"""The study of the cabinet that is trained to the end."""

KNOWLEDGE = Plan(
    questions=tuple(
        Question(f"Is `{method}` better than `{reference}`?", Sides(method, reference))
        for reference in (REFERENCE, "scratch")
        for method in ("rescaled", "shuffled", "norms_only")
    ),
    budget="knowledge",
    num_tasks=20,
)
"""Whether the gain of pretraining is knowledge, or the scale of the weights."""

_ON_TEST = Part("paper", "price", PAPER)

PRICE = Plan(
    questions=tuple(
        Question(
            f"Does choosing on test data lower the reported error of `{method}`?",
            Sides(joined_name(method, _ON_TEST.name), method),
        )
        for method in (REFERENCE, "cnn", "gradient_boosting")
    ),
    budget="price",
    parts=(_ON_TEST,),
    num_tasks=20,
)
"""How much lower the error is that the protocol ``paper`` reports."""

PLANS = {
    "trained": TRAINED,
    "knowledge": KNOWLEDGE,
    "price": PRICE,
}
"""Studies that have a plan of their own, by budget; `SIX_EPOCHS` is that of others."""
