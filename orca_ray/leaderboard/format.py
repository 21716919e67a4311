"""Formats in which leaderboards are written; each module of `formats` declares a `Format` as ``FORMAT``."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import eq

from orca_ray.discovery import declared, modules
from orca_ray.errors import UserError, lookup
from orca_ray.leaderboard import formats
from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.effects import Effects
from orca_ray.leaderboard.report import BoardReport


@dataclass(frozen=True)
class Format:
    """A format of leaderboards, and of the effects of a grid's factors unless ``effects`` is None.

    Equal boards give equal text or bytes. Text has no line break at the end. Formats for people mark the best score of
    each task, explain the numbers, and escape unprintable characters; formats for programs hold numbers in full.
    """

    name: str
    suffix: str
    """Ending of the names of files in this format, e.g. ``.md``."""
    render: Callable[[BoardReport], str | bytes]
    effects: Callable[[Effects], str] | None = None
    same: Callable[[bytes, bytes], bool] = eq
    """Takes the contents of two files in this format, and returns whether they hold the same board."""


@cache
def all_formats() -> Mapping[str, Format]:
    """Return all formats by name, sorted by name; raises ValueError if two modules declare the same name."""
    return declared(Format, "FORMAT", modules(formats))


def render(report: BoardReport | Board, format: str = "table") -> str | bytes:
    """Return a report in the format named ``format``: its effects if it has effects, else its leaderboard.

    Raises `UserError` if the format is unknown, or if it cannot write effects and the report has effects.
    """
    found = lookup("format", format, all_formats())
    report = BoardReport(report) if isinstance(report, Board) else report
    if report.effects is None:
        return found.render(report)
    if found.effects is None:
        allowed = ", ".join(name for name, each in all_formats().items() if each.effects)
        raise UserError(f"the effects of a grid cannot be written as {format}: give one of {allowed}")
    return found.effects(report.effects)
