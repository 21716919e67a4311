"""Which pretraining transfers? Bodies with different pretraining on the same tasks.

Each body stands beside the same network with random weights. The trials are those of
`benchmarks/transfer.yaml` and, with the default body of a task, those of the
benchmark's own sweep. The questions are a family of their own.
"""

from collections.abc import Collection
from itertools import combinations

import numpy as np
import pandas as pd

from benchmarks.findings import Question, Sides, Study
from benchmarks.searches import REFERENCE
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.statistics import ScoreTable

SOURCES = {
    "minilm-l6:layers=4": "text",
    "vit-s14:layers=4": "images",
    "rxnfp:layers=4": "reactions",
}
"""What bodies were pretrained on."""
METHODS = {REFERENCE: "{}", "scratch": "random {}"}
"""Names of methods in the questions.

``text`` is `REFERENCE` with the pretrained body of text, ``random text`` the same
network with random weights.
"""
QUESTIONS = (
    *(
        Question(
            f"Does pretraining on {source} help?", Sides(source, f"random {source}")
        )
        for source in SOURCES.values()
    ),
    *(
        Question(
            f"Is the body of {first} better than that of {other}?", Sides(first, other)
        )
        for first, other in combinations(SOURCES.values(), 2)
    ),
)
"""All questions about bodies."""


def read(own: Study, board: Board, crossed: Board, seeds: Collection[int]) -> Study:
    """Return the scores of bodies that have all ``seeds``.

    The tasks are those whose data and metric are equal on both boards. ``own`` and
    ``board`` are those of the benchmark's own sweep, ``crossed`` is the board of
    the sweep ``transfer``.
    """
    tasks = [
        task for task in own.table.tasks if board.infos[task] == crossed.infos.get(task)
    ]
    scores = pd.concat([_by_body(board), _by_body(crossed)]).drop_duplicates(
        ["task", "method", "seed"]
    )
    scores = scores[scores["task"].isin(tasks) & scores["seed"].isin(seeds)]
    counts = scores.groupby(["task", "method"])["seed"].transform("size")
    table = ScoreTable.of(scores[counts == len(seeds)], board.floors)
    return Study(table, own.properties.part(np.isin(own.table.tasks, table.tasks)))


def _by_body(board: Board) -> pd.DataFrame:
    """Return the scores of a board by bodies of `SOURCES`.

    Names of `METHODS` are in the place of methods.
    """
    names = {}
    for (task, label), cell in board.cells.items():
        method = label.partition(" (")[0]
        body = cell.provenance.body
        if body in SOURCES and method in METHODS:
            names[task, label] = METHODS[method].format(SOURCES[body])
    keys = pd.MultiIndex.from_frame(board.scores[["task", "method"]])
    return board.scores[keys.isin(list(names))].assign(
        method=[names[key] for key in keys if key in names]
    )
