"""Plain tables for a terminal."""

from orca_ray.errors import printable
from orca_ray.leaderboard import effects_text
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.leaderboard import Leaderboard
from orca_ray.leaderboard.text import footer, metrics_text, plain_table, score_grid, titles, wrapped


def _render(board: Leaderboard) -> str:
    # Five methods fit WIDTH because there are no spaces around ± and metrics are below the table.
    rows = plain_table(score_grid(board, "{}*", "±"))
    last = len(board.tasks) + 2
    below = ["* best score of the task", metrics_text(board.metrics, board.benchmark), *footer(board)]
    foot = [line for text in below for line in wrapped(text)]
    title, subtitle = titles(board)
    head = [printable(title), *wrapped(subtitle)]
    return "\n".join([*head, "", *rows[:last], rows[1], *rows[last:], "", *foot])


def _table_effects(effects: Effects) -> str:
    lines = [printable(effects_text.title(effects))]
    for title, rows, _ in effects_text.sections(effects, full=False):
        lines += ["", printable(title), "", *plain_table(rows)]
    return "\n".join([*lines, "", *(line for text in effects_text.footer(effects) for line in wrapped(text))])


FORMAT = Format("table", ".txt", _render, _table_effects)
