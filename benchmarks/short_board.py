"""A short board for a page of the documentation, made of the document that ``leaderboard -o FILE.json`` writes.

The mark of such a board ends with the methods and the questions: ``<!-- board: pocket | nft orca | aligning -->``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orca_ray.methods.registry import get_method


def short_board(board: Any, methods: Sequence[str], questions: Sequence[str]) -> str:
    """Return a Markdown table with a row for each of ``methods``, and the board's answers to ``questions``.

    Errors relative to `nft`, mean ranks and answers are those of the whole board, so they do not depend on the choice.
    """
    ratios = {(row["method"], row["other"]): row for row in board["statistics"]["verdict"]["values"]}
    costs: Counter[str] = Counter()
    for cell in board["cells"]:
        costs[cell["method"]] += cell["cost"]["device_seconds"]
    ranks = {row["name"]: row["mean_rank"]["value"] for row in board["methods"]}
    head = (
        "method",
        "what it does",
        "error, relative to `nft`",
        f"mean rank of {len(ranks)}",
        f"seconds, {len(board['tasks'])} tasks",
    )
    lines = [f"| {' | '.join(head)} |", "|---|---|--:|--:|--:|"]
    for name in methods:
        ratio = "{value:.2f} [{low:.2f}, {high:.2f}]".format(**ratios[name, "nft"]) if name != "nft" else "1"
        row = (f"`{name}`", get_method(name).title, ratio, f"{ranks[name]:.1f}", f"{costs[name]:.0f}")
        lines.append(f"| {' | '.join(row)} |")
    answers = {each["name"]: each["sentence"] for each in board["answers"]}
    return "\n".join([*lines, "", *(f"- {answers[question]}" for question in questions), ""])
