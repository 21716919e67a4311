"""The model card: ``README.md`` of a model folder.

Its words are in ``model_card.txt``.
"""

import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib import resources
from statistics import mean, stdev
from string import Template
from typing import Any

from orca_ray.data.rows import Target
from orca_ray.errors import counted, printable
from orca_ray.methods.model_config import (
    CARD,
    BodySummary,
    ModelConfig,
    config_text,
    describe_members,
)
from orca_ray.tasks.metrics import all_metrics

_TARGETS = {
    "classes": "one of {size} classes",
    "labels": "any of {size} labels",
    "scalar": "one number",
}
"""Description of each kind of target, except fields."""

Board = Mapping[str, Sequence[float]]
"""Test scores of each method on the model's task, one per confirm seed; lower is
better.
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
    bodies = list({member.body.name: member.body for member in members}.values())
    method_names = {member.method for member in members}
    command = f"\n\nMade by:\n\n```\n{config.command}\n```"
    score_lines = report_lines(config.report) or _scores(config, board)
    file = resources.files(__package__) / "model_card.txt"
    return Template(file.read_text(encoding="utf-8")).substitute(
        title=task.title or task.name,
        by=config.method if len(method_names) == 1 else "an ensemble",
        about=_about(config),
        made=command if config.command else "",
        facts=_facts(config, bodies, label_names),
        metric=_metric(config),
        scores="".join(f"{line}\n" for line in score_lines),
        extras=_extras(members),
        absent=_absent_weights(members),
        calibration=_calibration(config),
        data_licence=_data_licence(config),
        body_licence="; ".join(map(_body_licence, bodies)),
    )


def _extras(members: Sequence[ModelConfig]) -> str:
    """Return the extras of orca-ray, separated by commas, that the model needs."""
    has_4bit_weights = any(
        member.hyperparameters.get("lora.weights") == "nf4" for member in members
    )
    return "predict,nf4" if has_4bit_weights else "predict"


def _about(config: ModelConfig) -> str:
    """Return sentences that say what the model is."""
    name = config.task.name
    if not config.members:
        return (
            f"A network that `orca-ray` adapted to the task {name} by the method"
            f" `{config.method}`."
        )
    return (
        f"The average of {len(config.members)} networks that `orca-ray` adapted to the"
        f" task {name}: {describe_members(config)}."
    )


def _facts(
    config: ModelConfig, bodies: Sequence[BodySummary], label_names: Sequence[str]
) -> str:
    """Return the rows of a table of facts; facts without a value are left out."""
    task = config.task
    input_shape = ", ".join(map(str, task.input_shape))
    versions = [f"{name} {version}" for name, version in config.versions.items()]
    facts = {
        "task": f"{task.name}: {task.title}",
        "inputs": f"{task.modality}, float32 of shape (N, {input_shape})",
        "target": _target(task.target, label_names),
        "method": describe_members(config) or config.method,
        "body": ", ".join(body.name for body in bodies),
        "training loss": task.loss,
        "data fingerprint": task.data_fingerprint,
        "protocol": task.protocol,
        "trial": f"{config.trial} of {config.sweep}" if config.trial else "",
        "trained with": ", ".join(versions),
    }
    rows = [
        f"| {name} | {value.replace('|', ' ')} |"
        for name, value in facts.items()
        if value
    ]
    return "\n".join(rows)


def _target(target: Target, label_names: Sequence[str]) -> str:
    template = _TARGETS.get(target.kind, "a field of shape {shape}")
    text = template.format(size=target.size, shape=target.shape)
    return f"{text}: {', '.join(label_names)}" if label_names else text


def _metric(config: ModelConfig) -> str:
    metric = all_metrics().get(config.task.metric)
    if metric is None:  # of a plug-in that is not installed
        return config.task.metric
    return f"{metric.title}: {metric.definition}"


def _absent_weights(members: Sequence[ModelConfig]) -> str:
    """Return a sentence about bodies whose weights are not in the folder; "": none."""
    names = [member.body.name for member in members if member.body.weights_sha256]
    if not names:
        return ""
    distinct_names = ", ".join(dict.fromkeys(names))
    return f" The weights of the body {distinct_names} are not in this folder."


def _calibration(config: ModelConfig) -> str:
    """Return a sentence about the calibration of probabilities."""
    if config.temperature == 1:
        return "Probabilities are those of the network and were not calibrated."
    return (
        "Probabilities were calibrated on out-of-fold predictions: logits are divided"
        f" by {config.temperature:.3g}."
    )


def _data_licence(config: ModelConfig) -> str:
    task = config.task
    licence = task.licence or "unknown: that of whoever made them"
    citation = f" {task.citation}" if task.citation else ""
    return f"{licence}.{citation} {task.reference}".rstrip()


def _body_licence(body: BodySummary) -> str:
    if body.licence:
        return body.licence
    return "no pretrained weights" if body.name == "none" else "unknown"


def write_card(
    config: ModelConfig, board: Board, label_names: Sequence[str] = ()
) -> tuple[str, str]:
    """Return the texts of ``README.md`` and of ``config.json``; write no file.

    ``config.json`` has the hash of ``README.md``.
    """
    card = make_card(config, board, label_names)
    card_hash = hashlib.sha256(card.encode()).hexdigest()
    files = {**config.files, CARD: card_hash}
    return card, config_text(replace(config, files=files))


def interval_text(row: Mapping[str, Any]) -> str:
    """Return a score of a report with its interval, e.g. "0.12 [0.1, 0.15]"."""
    return f"{row['score']:.4g} [{row['low']:.4g}, {row['high']:.4g}]"


def score_lines(report: Mapping[str, Any]) -> list[str]:
    """Return sentences about the scores in a report.

    They also give the size and the latency of its model.
    """
    lines = [
        f"Score {interval_text(report)}, with its 90 % interval, is expected on new"
        " samples."
    ]
    num_folds = report["num_folds"]
    if num_folds:
        predicted = "the validation split"
        if num_folds > 1:
            predicted = (
                f"each predicted by a model that has not seen it ({num_folds} folds)"
            )
        score = report.get("out_of_fold", report["score"])
        lines.append(f"{score:.4g} on {report['num_samples']:,} samples, {predicted}.")
    if report["holdout"] is not None:
        use = "that were held out, and chose one of three models"
        if num_folds:
            use = "that no choice has seen"
        lines.append(
            f"{report['holdout']:.4g} on {report['num_holdout']:,} samples {use}."
        )
    for row in report["standings"]:
        if row["method"] == report["baseline"]:
            lines.append(f"Best baseline: {row['method']}, {interval_text(row)}.")
    lines += not_run_lines(report)
    if report["size_mb"]:
        lines.append(
            f"{report['size_mb']:.3g} MB; {report['latency_ms']:.3g} ms for one sample,"
            " where the model was made."
        )
    return lines


def not_run_lines(report: Mapping[str, Any]) -> list[str]:
    """Return a sentence with the time that each method without a trial needs.

    [] if all methods had a trial.
    """
    needs = [
        f"{row['method']} needs about {_duration(row['seconds'])}"
        for row in report.get("not_run", ())
    ]
    if not needs:
        return []
    return [
        f"Not run: {', '.join(needs)} for a trial. Give more --minutes or fewer"
        " --methods."
    ]


def _duration(seconds: float) -> str:
    """Return seconds, or minutes from one minute on, rounded up."""
    number = max(1, math.ceil(seconds))
    unit = "second"
    if number >= 60:
        number = math.ceil(seconds / 60)
        unit = "minute"
    return counted(number, unit)


def report_lines(report: Mapping[str, Any]) -> list[str]:
    """Return the lines of a model's report, in Markdown; [] if it is empty or damaged.

    The lines are the verdict, the scores, an empty line, and tables.
    """
    if not report:
        return []
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
                f"| {name} | {interval_text(row)} | {row['num_folds']} |"
                f" {row['seconds']:.3g} |"
            )
        warnings = [f"- {warning}" for warning in report["warnings"]]
        if warnings:
            lines += ["", "Warnings about the data:", "", *warnings]
    except (KeyError, TypeError, ValueError, AttributeError):
        return []  # somebody else may have written the report
    return list(map(printable, lines))


def _scores(config: ModelConfig, board: Board | None) -> list[str]:
    """Return lines with the model's scores, and a table of the methods on ``board``."""
    scores = {"validation": config.validation_score, "test": config.test_score}
    lines = [
        f"- this model on {split} data: {score:.4g}"
        for split, score in scores.items()
        if score is not None
    ]
    if board:
        lines += [
            "",
            "| method | test score: mean over seeds, with its 95 % interval |",
            "|---|---|",
        ]
        lines += [
            f"| {method} | {_interval(confirmed)} |"
            for method, confirmed in board.items()
        ]
    return lines


def _interval(scores: Sequence[float]) -> str:
    """Return the mean and, with several seeds, its 95 % t interval.

    An example is "0.105 [0.09, 0.12], 3 seeds".
    """
    count = len(scores)
    centre = mean(scores)
    if count < 2:
        return f"{centre:.4g}, 1 seed"
    from scipy.special import stdtrit

    half = -float(stdtrit(count - 1, 0.025)) * stdev(scores) / math.sqrt(count)
    return f"{centre:.4g} [{centre - half:.4g}, {centre + half:.4g}], {count} seeds"
