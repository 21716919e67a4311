"""The model card: ``README.md`` of a model folder."""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from statistics import mean, stdev

from orca_ray.methods.model_folder import CARD, ModelConfig, config_text
from orca_ray.methods.registry import get_method
from orca_ray.tasks.metrics import all_metrics

_TARGETS = {"classes": "one of {size} classes", "labels": "any of {size} labels", "scalar": "one number"}


@dataclass(frozen=True, kw_only=True)
class Score:
    """Record of a method's test scores (lower is better) on the model's task, one per confirm seed."""

    method: str
    scores: tuple[float, ...]
    """Test score of each seed; at least one."""

    def text(self) -> str:
        """Return the mean and, with several seeds, its 95 % t interval, e.g. "0.105 [0.09, 0.12], 3 seeds"."""
        count = len(self.scores)
        shown = f"{mean(self.scores):.4g}"
        if count < 2:
            return f"{shown}, 1 seed"
        from orca_ray.leaderboard.statistics.intervals import student_quantile

        half = student_quantile(0.05, count - 1) * stdev(self.scores) / math.sqrt(count)
        return f"{shown} [{mean(self.scores) - half:.4g}, {mean(self.scores) + half:.4g}], {count} seeds"


def make_card(config: ModelConfig, board: Sequence[Score] = (), label_names: Sequence[str] = ()) -> str:
    """Return the model card in Markdown.

    ``board``: the scores of all methods that ran on the task. ``label_names``: names of the target's classes or labels.
    """
    task = config.task
    target = _TARGETS.get(task.target.kind, "a field of shape {shape}")
    target = target.format(size=task.target.size, shape=task.target.shape)
    made = f"\n\nMade by:\n\n```\n{config.command}\n```" if config.command else ""
    rows = {
        "task": f"{task.name}: {task.title}",
        "inputs": f"{task.modality}, float32 of shape (N, {', '.join(map(str, task.input_shape))})",
        "target": target + (f": {', '.join(label_names)}" if label_names else ""),
        "method": config.method,
        "body": config.body.name,
        "training loss": task.loss,
        "data fingerprint": task.data_fingerprint,
        "protocol": task.protocol,
        "trial": f"{config.trial} of {config.sweep}" if config.trial else "",
        "trained with": ", ".join(f"{name} {found}" for name, found in config.versions.items()),
    }
    return "\n".join([
        "---\nlibrary_name: orca-ray\ntags:\n- cross-modal-fine-tuning\n---\n",
        f"# {task.title or task.name}, by {config.method}\n",
        f"A network that `orca-ray` adapted to the task {task.name} by the method `{config.method}`.{made}\n",
        "| | |", "|---|---|", *(f"| {name} | {value.replace('|', ' ')} |" for name, value in rows.items() if value), "",
        _scores(config, board), _use(config), _licences(config), _LIMITS,
    ])  # fmt: skip


def write_card(config: ModelConfig, board: Sequence[Score], label_names: Sequence[str] = ()) -> tuple[str, str]:
    """Return the texts of ``README.md`` and of ``config.json``, which has the hash of ``README.md``; writes no file."""
    card = make_card(config, board, label_names)
    found = hashlib.sha256(card.encode()).hexdigest()
    return card, config_text(replace(config, files={**config.files, CARD: found}))


def _scores(config: ModelConfig, board: Sequence[Score]) -> str:
    metric = all_metrics().get(config.task.metric)
    meaning = f"{metric.title}: {metric.definition}" if metric else config.task.metric
    lines = [f"## Scores\n\n{meaning}. Lower is better.\n"]
    own = [("validation", config.validation_score), ("test", config.test_score)]
    lines += [f"- this model on {split} data: {value:.4g}" for split, value in own if value is not None]
    if board:
        lines += ["", "| method | test score: mean over seeds, with its 95 % interval |", "|---|---|"]
        lines += [f"| {each.method} | {each.text()} |" for each in board]
    return "\n".join([*lines, ""])


def _use(config: ModelConfig) -> str:
    extras = ",".join(["predict", *get_method(config.method).extras(config.hyperparameters)])
    return (
        "## Use\n\n```python\nimport orca_ray\n\nmodel = orca_ray.load(\"PATH OF THIS FOLDER\")\n"
        "predictions = model.predict(x)\n```\n\nor `orca-sweep predict PATH DATA -o predictions.parquet`. "
        f"It needs `pip install 'orca-ray[{extras}]'`; no Ray, model hub or data set."
        + (f" The weights of the body {config.body.name} are not in this folder." * bool(config.body.weights_sha256))
        + "\n"
    )  # fmt: skip


def _licences(config: ModelConfig) -> str:
    task = config.task
    data = task.licence or "unknown: that of whoever made them"
    cited = f" {task.citation}" if task.citation else ""
    body = config.body.licence or ("no pretrained weights" if config.body.name == "none" else "unknown")
    return f"## Licences\n\n- data: {data}.{cited} {task.reference}".rstrip() + f"\n- body: {body}\n"


_LIMITS = """## Limits

The scores hold for data drawn as the test split was. Inputs from another device, place or time may be predicted worse
without any sign of it. Probabilities are those of the network and were not calibrated. Nothing was tested for fairness,
safety or medical use.
"""
