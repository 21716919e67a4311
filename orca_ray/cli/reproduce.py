"""``orca-sweep reproduce``: run the trial of a record again, and report whether its score agrees."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Exit, Option

from orca_ray.cli.options import JsonOption, ResultsOption, directory_option, required_store, results_uri
from orca_ray.cli.output import TRIALS_FAILED, emit_json, note, say, show

if TYPE_CHECKING:
    from orca_ray.sweep.execution.reproduce import Comparison


def reproduce(
    key: Annotated[str, Argument(metavar="KEY", help="Key of the trial, or the start of it.")],
    sweep: Annotated[str | None, Option(help="Sweep of the record, if several have this trial.")] = None,
    results: ResultsOption = None,
    keep_model: Annotated[
        Path | None, directory_option("--keep-model", "Write the trial's model to this new or empty directory.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Run a trial again, in this process, and compare its score with the record; the store is not changed.

    Exit code 0: the scores agree, bit for bit if the trial is deterministic, else within the spread of its seeds. 1:
    they do not. 2: the trial cannot run here.
    """
    store = required_store(results_uri(results), "give the store of the trial with --results URI")
    from orca_ray.methods.model_folder import refuse_other
    from orca_ray.sweep.execution import reproduce as again

    record = again.find_record(store, key, sweep)
    note(
        f"trial {record.trial_key} of {record.sweep}: {record.task}, {record.method}, {record.body}, seed {record.seed}"
    )
    if keep_model is not None:
        refuse_other(keep_model)
    compared = again.reproduce(record, store, keep_model)
    if keep_model is not None and keep_model.is_dir() and not json:
        note(f"model: {keep_model}")
    if json:
        emit_json(_summary(compared))
    else:
        _print(compared)
    if not compared.agrees:
        raise Exit(TRIALS_FAILED)


def _summary(compared: "Comparison") -> dict[str, Any]:
    record = compared.record
    return {
        "trial_key": record.trial_key, "sweep": record.sweep, "task": record.task, "method": record.method,
        "seed": record.seed, "metric": record.metric, "deterministic": bool(record.deterministic),
        "agrees": compared.agrees, "rule": compared.rule, "scores": compared.scores,
        "data_fingerprint": record.data_fingerprint, "differences": compared.differences,
        "environment": compared.environment, "error": compared.again.error,
    }  # fmt: skip


def _print(compared: "Comparison") -> None:
    record, again = compared.record, compared.again
    old, new = compared.scores
    split = "validation" if record.test_score is None else "test"
    verdict = "agrees, bit for bit" if compared.agrees and old == new else "agrees" if compared.agrees else "differs"
    say(f"{record.metric} on {split}: {old!r} in the record, {new!r} now: {verdict}")
    say(f"rule: {compared.rule}")
    say(f"data: fingerprint {record.data_fingerprint} in both")
    rows = [(name, *map(str, pair)) for name, pair in {**compared.differences, **compared.environment}.items()]
    if rows:
        show(("differs in", "record", "now"), rows, wrap=("record", "now"))
    else:
        versions = f"orca-ray {record.version}, torch {record.torch_version}, {record.device}"
        say(f"versions and hardware: the same ({versions})")
    if again.error:
        note(f"{again.status.value}: {again.error}")
