"""Whole trials of the reference's ``main.py`` and of ours: same raw files, body and
settings, one thread each.

``ORCA_REFERENCE=CHECKOUT python benchmarks/bench_trial_reference.py [--json FILE]
[--reuse FILE] [--part PART …]``. Parts: ``published`` times the stages of the ECG
configuration as published (the reference runs a few epochs, the rest is extrapolated
from their median; ours runs all), ``scores`` compares the scores of a small ECG trial
over seeds, ``pocket`` compares the times of small trials on our own tasks. Exits with 1
if arrays differ or our scores are worse by more than the spread of seeds.

The body has two layers of random weights with the published width and vocabulary. Every
run is a separate process; imports are not counted. ``--reuse`` takes the reference's
runs from an earlier ``--json`` file.
"""

# ruff: noqa: T201 - a benchmark prints its table

import argparse
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from statistics import mean, median

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import trial_problem
from benchmarks.reference import CHECKOUT_VARIABLE, reference_checkout
from benchmarks.trial_problem import Setting
from benchmarks.trial_runs import Bench, Trial

PUBLISHED = Setting(align_epochs=60, refine_epochs=15)
LEARNING = Setting(
    align_epochs=2,
    refine_epochs=6,
    batch_size=16,
    accumulation=1,
    optimizer="Adam",
    learning_rate=1e-4,
    weight_decay=0.0,
    warmup_epochs=0,
    decay_epochs=6,
    source_samples=1000,
)
"""Settings with which a small trial learns; the published rate is for many more steps.
"""
POCKET = replace(LEARNING, refine_epochs=2, decay_epochs=2)
ONE_A_SHAPE = (
    "pocket/wdbc",
    "pocket/japanese_vowels",
    "pocket/osuleaf",
    "pocket/digits",
    "pocket/burgers16",
)
"""Tabular, several channels, a long series, a flattened image, a dense target."""
FURTHER = ("pocket/mfeat_fourier", "pocket/mnist", "pocket/darcy16")


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    stage: str
    reference: float
    ours: float
    goal: float = 0.0

    def line(self) -> str:
        """Return the line as text."""
        ratio = self.reference / self.ours
        verdict = (
            f"{self.goal:5.1f} {'met' if ratio >= self.goal else 'missed'}"
            if self.goal
            else ""
        )
        return (
            f"{self.stage:44}{self.reference:12.2f}{self.ours:12.2f}{ratio:9.2f} "
            f" {verdict}"
        )


def published(bench: Bench, args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Time the stages of the ECG configuration: 603 windows of 1000 values, 4 classes,
    5000 source features.
    """
    folder = bench.problem("ecg-603", PUBLISHED.source_samples)
    trial_problem.write_recordings(
        folder / "datasets" / "challenge2017.pkl", train=201, test=23, windows=(3, 3)
    )
    wrong = (
        []
        if bench.arrays_agree(folder)
        else ["the ECG windows differ from those of the reference's loader"]
    )
    few = replace(PUBLISHED, align_epochs=args.epochs, refine_epochs=args.epochs)
    # The source is not cached yet.
    first = bench.ours(folder, PUBLISHED, trial_problem.WINDOW, 0)
    theirs = []
    later = []
    for seed in range(args.repeats):
        theirs.append(bench.reference(folder, "ECG", few, seed))
        later.append(bench.ours(folder, few, trial_problem.WINDOW, seed))
    return _published_rows(theirs, first, later), wrong


def _published_rows(theirs: list[Trial], first: Trial, later: list[Trial]) -> list[Row]:
    align = _median_of_epochs(trial.align for trial in theirs)
    validated = _median_of_epochs(trial.validated for trial in theirs)
    rest = median(trial.rest for trial in theirs)
    ours = [first, *later]
    our_align = _median_of_epochs(trial.align[1:] for trial in ours)
    our_first_align = median(trial.align[0] for trial in later)
    published_align = PUBLISHED.align_epochs * align
    published_refine = PUBLISHED.refine_epochs * validated
    return [
        Row("loading, building, testing", rest, median(trial.rest for trial in ours)),
        Row("align epoch", align, our_align),
        Row("first align epoch, source not fitted yet", align, first.align[0]),
        Row("first align epoch, source fitted before", align, our_first_align),
        Row(
            f"align stage, {PUBLISHED.align_epochs} epochs *",
            published_align,
            sum(first.align),
            60.0,
        ),
        Row(
            "refine epoch, training",
            _median_of_epochs(trial.refine for trial in theirs),
            _median_of_epochs(trial.refine for trial in ours),
            1.3,
        ),
        Row(
            "refine epoch, validated",
            validated,
            _median_of_epochs(trial.validated for trial in ours),
        ),
        Row(
            f"refine stage, {PUBLISHED.refine_epochs} epochs *",
            published_refine,
            sum(first.validated),
        ),
        Row(
            "whole trial as published *",
            rest + published_align + published_refine,
            first.whole,
            5.0,
        ),
        Row(
            "peak memory, MiB",
            median(trial.peak_mib for trial in theirs),
            median(trial.peak_mib for trial in ours),
        ),
    ]


def _median_of_epochs(trials: Iterable[Sequence[float]]) -> float:
    """Return the median duration in seconds over all epochs of all trials."""
    return median(seconds for epochs in trials for seconds in epochs)


def scores(bench: Bench, args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Compare test scores, 1 - macro F1, on 201 training windows; test recordings are
    longer, for a steadier score.
    """
    folder = bench.problem("ecg-201", LEARNING.source_samples)
    trial_problem.write_recordings(
        folder / "datasets" / "challenge2017.pkl", train=201, test=23, windows=(1, 8)
    )
    wrong = (
        []
        if bench.arrays_agree(folder)
        else ["the small ECG windows differ from those of the reference's loader"]
    )
    theirs = []
    ours = []
    for seed in range(args.seeds):
        theirs.append(bench.reference(folder, "ECG", LEARNING, seed))
        ours.append(bench.ours(folder, LEARNING, trial_problem.WINDOW, seed))
    first = [trial.score for trial in theirs]
    second = [trial.score for trial in ours]
    spread = max(max(each) - min(each) for each in (first, second))
    print(
        f"scores (1 - macro F1): reference {_summary(first)}, ours {_summary(second)},"
        f" spread of seeds {spread:.4f}"
    )
    if args.seeds == 1:
        print("one seed has no spread: the scores are not judged")
    elif mean(second) - mean(first) > spread:
        wrong.append(
            "our score is worse than the reference's beyond the spread of seeds"
        )
    elif mean(first) - mean(second) > spread:
        print(
            "ours is better beyond the spread of seeds: initialisation and alignment"
            " steps are not the reference's"
        )
    return [
        Row(
            "small ECG trial",
            median(t.whole for t in theirs),
            median(t.whole for t in ours),
            1.0,
        )
    ], wrong


def _summary(values: list[float]) -> str:
    return f"{mean(values):.4f} ({', '.join(f'{value:.4f}' for value in values)})"


def pocket(bench: Bench, args: argparse.Namespace) -> tuple[list[Row], list[str]]:
    """Compare the times of small trials on pocket tasks, taken as series: 300 samples
    to train on, 100 to test.
    """
    rows = []
    for name in ONE_A_SHAPE + (FURTHER if args.all else ()):
        folder = bench.problem(name.replace("/", "-"), POCKET.source_samples)
        length = trial_problem.write_task(folder, name)
        theirs = []
        ours = []
        for seed in range(args.repeats):
            theirs.append(bench.reference(folder, "your_new_task", POCKET, seed))
            ours.append(bench.ours(folder, POCKET, length, seed))
        rows.append(
            Row(
                f"{name}, whole trial",
                median(t.whole for t in theirs),
                median(t.whole for t in ours),
                1.0,
            )
        )
        validated = [
            median(seconds for trial in side for seconds in trial.validated)
            for side in (theirs, ours)
        ]
        rows.append(Row(f"{name}, refine epoch, validated", *validated))
    return rows, []


PARTS = {"published": published, "scores": scores, "pocket": pocket}


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--json",
        type=Path,
        help="write everything measured to this file, after every run",
    )
    parser.add_argument(
        "--reuse", type=Path, help="take the reference's runs from this file"
    )
    parser.add_argument("--part", action="append", choices=PARTS, help="default: all")
    parser.add_argument(
        "--epochs",
        type=int,
        default=2,
        help="epochs a stage that the reference runs (published)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, help="alternations (published, pocket)"
    )
    parser.add_argument("--seeds", type=int, default=3, help="seeds (scores)")
    parser.add_argument(
        "--all",
        action="store_true",
        help="all pocket tasks that a body for sequences can take",
    )
    parser.add_argument(
        "--core",
        type=int,
        help="run everything on this core, the reference's loaders too",
    )
    parser.add_argument(
        "--clock",
        default="wall",
        choices=("wall", "cpu"),
        help="cpu: for a machine that is not quiet",
    )
    parser.add_argument(
        "--distance", default="otdd_reference", help="what ours aligns by"
    )
    parser.add_argument(
        "--workdir", type=Path, help="keep the problems and the logs here"
    )
    return parser.parse_args()


@contextmanager
def work_folder(wanted: Path | None) -> Iterator[Path]:
    """Yield an empty folder, by default a temporary one."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="orca-ray-bench-") as name:
            yield Path(name)
        return
    wanted.mkdir(parents=True)
    yield wanted.resolve()


def print_table(rows: list[Row], clock: str) -> None:
    """Print the table."""
    print(
        f"\n{f'seconds ({clock} clock)':44}{'reference':>12}{'ours':>12}{'ratio':>9} "
        " goal"
    )
    for row in rows:
        print(row.line())
    if any("*" in row.stage for row in rows):
        print(
            "* the reference extrapolated from the median of the epochs it ran; ours"
            " ran in full"
        )


def main() -> int:
    """Run the parts and print their tables."""
    args = parse_arguments()
    checkout = reference_checkout()
    if checkout is None:
        print(
            f"{CHECKOUT_VARIABLE} does not point to a checkout of the reference:"
            " nothing to compare with"
        )
        return 0
    if args.core is not None:
        os.sched_setaffinity(0, {args.core})
    reused = json.loads(args.reuse.read_text())["runs"] if args.reuse else []
    wrong: list[str] = []
    rows: list[Row] = []
    with work_folder(args.workdir) as folder:
        bench = Bench(checkout, folder, reused, args)
        for part in args.part or PARTS:
            part_rows, part_wrong = PARTS[part](bench, args)
            rows += part_rows
            wrong += part_wrong
    print_table(rows, args.clock)
    print(
        "\n".join(f"WRONG: {each}" for each in wrong)
        or "nothing that was compared disagrees"
    )
    if args.json:
        table = [{**vars(row), "ratio": row.reference / row.ours} for row in rows]
        machine = {
            "torch": version("torch"),
            "transformers": version("transformers"),
            "load": os.getloadavg(),
        }
        result = {
            "machine": machine,
            "clock": args.clock,
            "rows": table,
            "wrong": wrong,
            "runs": bench.all_runs,
        }
        args.json.write_text(json.dumps(result, indent=1))
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
