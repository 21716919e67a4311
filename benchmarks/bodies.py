"""Which pretraining transfers? Bodies that were pretrained on different data, on the same tasks, beside random weights.

The trials are those of `benchmarks/transfer.yaml` and, with the default body of a task, those of the benchmark's own
sweep in the same store. The questions are a family of their own, chosen before the trials ran.
"""

from itertools import combinations

import numpy as np
import pandas as pd

from benchmarks.findings import REFERENCE, Question, Study
from orca_ray.leaderboard import build
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.statistics import ScoreTable

SOURCES = {"minilm-l6": "text", "vit-s14": "images", "rxnfp": "reactions"}
"""What bodies were pretrained on."""
_NAMES = {"text": "text", "images": "images", "reactions": "chemical reactions"}

QUESTIONS = (
    *(Question(f"Does pretraining on {_NAMES[each]} help?", (each, f"random {each}")) for each in SOURCES.values()),
    *(
        Question(f"Is the body of {_NAMES[one]} better than that of {_NAMES[other]}?", (one, other))
        for one, other in combinations(SOURCES.values(), 2)
    ),
)
"""Questions about methods that are bodies: ``text`` is `REFERENCE` with the pretrained body, ``random text`` the same
network with random weights."""


def read(own: Study, board: Board, records: pd.DataFrame) -> Study | None:
    """Return the scores of bodies on the tasks of the sweep ``transfer``, as far as they have all seeds of ``board``.

    None if there are no records of that sweep. ``own`` and ``board`` are those of the benchmark's own sweep.
    """
    sweep = f"transfer/{board.sweep.partition('/')[2]}"
    if not (records["sweep"] == sweep).any():
        return None
    crossed = build(records, benchmark=board.benchmark, sweep=sweep)
    scores = pd.concat([_by_body(board), _by_body(crossed)])
    scores = scores[scores["task"].isin({*board.tasks} & {*crossed.tasks})]
    seeds = scores.groupby(["task", "method"])["seed"].transform("nunique")
    table = ScoreTable.of(scores[seeds == len(board.seeds)])
    return Study(table, own.properties.part(np.isin(own.table.tasks, table.tasks)))


def _by_body(board: Board) -> pd.DataFrame:
    """Return the scores of a board with the names of `QUESTIONS` in the place of methods."""
    starts = {REFERENCE: "", "scratch": "random "}
    names = {}
    for key, cell in board.cells.items():
        source, method = SOURCES.get(cell.provenance.body.partition(":")[0]), key[1].partition(" (")[0]
        if source and method in starts:
            names[key] = starts[method] + source
    keys = list(zip(board.scores["task"], board.scores["method"], strict=True))
    return board.scores.assign(method=[names.get(key, "") for key in keys]).query("method != ''")
