"""A short board for a page of the documentation, made of the document that
``leaderboard -o FILE.json`` writes.

The mark of such a board ends with the methods: ``<!-- board: pocket | nft orca -->``.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from orca_ray.methods.registry import get_method


def short_board(board: Any, methods: Sequence[str]) -> str:
    """Return a Markdown table with a row for each of ``methods``; errors relative to
    `nft` do not depend on them.
    """
    ratios = {
        (row["method"], row["other"]): row
        for row in board["statistics"]["verdict"]["values"]
    }
    costs: Counter[str] = Counter()
    for cell in board["cells"]:
        costs[cell["method"]] += cell["cost"]["device_seconds"]
    head = (
        "method",
        "what it does",
        "error, relative to `nft`",
        f"seconds, {len(board['tasks'])} trials",
    )
    lines = [f"| {' | '.join(head)} |", "|---|---|--:|--:|"]
    for name in methods:
        ratio = (
            "{value:.2f} [{low:.2f}, {high:.2f}]".format(**ratios[name, "nft"])
            if name != "nft"
            else "1"
        )
        row = (f"`{name}`", get_method(name).title, ratio, f"{costs[name]:.0f}")
        lines.append(f"| {' | '.join(row)} |")
    return "\n".join([*lines, ""])
