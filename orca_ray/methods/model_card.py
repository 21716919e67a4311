"""The model card: ``README.md`` of a model folder, whose words are in
``model_card.txt``.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from statistics import mean, stdev
from string import Template
from typing import Any

from orca_ray.errors import printable
from orca_ray.methods.model_folder import CARD, ModelConfig, composed, config_text
from orca_ray.tasks.metrics import all_metrics

_TARGETS = {
    "classes": "one of {size} classes",
    "labels": "any of {size} labels",
    "scalar": "one number",
}


Board = Mapping[str, Sequence[float]]
"""Test scores (lower is better) of each method on the model's task, one or more per
method: one per confirm seed.
"""


def make_card(
    config: ModelConfig, board: Board | None = None, label_names: Sequence[str] = ()
) -> str:
    """Return the model card in Markdown.

    ``board``: the scores of all methods that ran on the task. ``label_names``: names of
    the target's classes or labels. The card of a model with `ModelConfig.report` has
    the scores of the report instead.
    """
    task = config.task
    members = config.members or (config,)
    bodies = list({each.body.name: each.body for each in members}.values())
    method = composed(config) or config.method
    target = _TARGETS.get(task.target.kind, "a field of shape {shape}")
    target = target.format(size=task.target.size, shape=task.target.shape)
    facts = {
        "task": f"{task.name}: {task.title}",
        "inputs": (
            f"{task.modality}, float32 of shape (N,"
            f" {', '.join(map(str, task.input_shape))})"
        ),
        "target": target + (f": {', '.join(label_names)}" if label_names else ""),
        "method": method,
        "body": ", ".join(body.name for body in bodies),
        "training loss": task.loss,
        "data fingerprint": task.data_fingerprint,
        "protocol": task.protocol,
        "trial": f"{config.trial} of {config.sweep}" if config.trial else "",
        "trained with": ", ".join(
            f"{name} {found}" for name, found in config.versions.items()
        ),
    }
    metric = all_metrics().get(task.metric)
    cited = f" {task.citation}" if task.citation else ""
    template = (resources.files(__package__) / "model_card.txt").read_text(
        encoding="utf-8"
    )
    absent = ", ".join(
        {each.body.name: None for each in members if each.body.weights_sha256}
    )
    one = (
        f"A network that `orca-ray` adapted to the task {task.name} by the method"
        f" `{config.method}`."
    )
    several = (
        f"The average of {len(members)} networks that `orca-ray` adapted to the task"
        f" {task.name}: {method}."
    )
    return Template(template).substitute(
        title=task.title or task.name,
        by=(
            config.method
            if len({each.method for each in members}) == 1
            else "an ensemble"
        ),
        about=several if config.members else one,
        made=f"\n\nMade by:\n\n```\n{config.command}\n```" if config.command else "",
        facts="\n".join(
            f"| {name} | {value.replace('|', ' ')} |"
            for name, value in facts.items()
            if value
        ),
        metric=f"{metric.title}: {metric.definition}" if metric else task.metric,
        scores="".join(
            f"{line}\n" for line in reported(config.report) or _scores(config, board)
        ),
        absent=(
            f" The weights of the body {absent} are not in this folder."
            if absent
            else ""
        ),
        calibration=(
            "Probabilities are those of the network and were not calibrated."
            if config.temperature == 1
            else (
                "Probabilities were calibrated on out-of-fold predictions: logits are"
                f" divided by {config.temperature:.3g}."
            )
        ),
        data_licence=(
            f"{task.licence or 'unknown: that of whoever made them'}.{cited}"
            f" {task.reference}".rstrip()
        ),
        body_licence="; ".join(
            body.licence
            or ("no pretrained weights" if body.name == "none" else "unknown")
            for body in bodies
        ),
    )


def write_card(
    config: ModelConfig, board: Board, label_names: Sequence[str] = ()
) -> tuple[str, str]:
    """Return the texts of ``README.md`` and of ``config.json``, which has the hash of
    ``README.md``; writes no file.
    """
    card = make_card(config, board, label_names)
    found = hashlib.sha256(card.encode()).hexdigest()
    return card, config_text(replace(config, files={**config.files, CARD: found}))


def reported(report: Mapping[str, Any]) -> list[str]:
    """Return verdict and scores of a model's report, an empty line, and tables; []
    without a report, or a damaged one.

    The lines are Markdown.
    """
    if not report:
        return []
    from orca_ray.leaderboard.page.adaptation import interval, score_lines

    try:
        lines = [f"- {line}" for line in (report["verdict"], *score_lines(report))]
        lines += [
            "",
            "| method | score with its 90 % interval | folds | seconds a trial |",
            "|---|---|---|---|",
        ]
        for row in report["standings"]:
            name = row["method"].replace("|", " ")
            lines.append(
                f"| {name} | {interval(row)} | {row['num_folds']} |"
                f" {row['seconds']:.3g} |"
            )
        warned = [f"- {warning}" for warning in report["warnings"]]
        lines += ["", "Warnings about the data:", "", *warned] if warned else []
    except (
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
    ):  # somebody else may have written the report
        return []
    return list(map(printable, lines))


def _scores(config: ModelConfig, board: Board | None) -> list[str]:
    own = [("validation", config.validation_score), ("test", config.test_score)]
    lines = [
        f"- this model on {split} data: {value:.4g}"
        for split, value in own
        if value is not None
    ]
    if board:
        lines += [
            "",
            "| method | test score: mean over seeds, with its 95 % interval |",
            "|---|---|",
        ]
        lines += [
            f"| {method} | {_interval(scores)} |" for method, scores in board.items()
        ]
    return lines


def _interval(scores: Sequence[float]) -> str:
    """Return the mean and, with several seeds, its 95 % t interval, e.g. "0.105 [0.09,
    0.12], 3 seeds".
    """
    count = len(scores)
    centre = mean(scores)
    if count < 2:
        return f"{centre:.4g}, 1 seed"
    from scipy.special import stdtrit

    half = -float(stdtrit(count - 1, 0.025)) * stdev(scores) / math.sqrt(count)
    return f"{centre:.4g} [{centre - half:.4g}, {centre + half:.4g}], {count} seeds"
