"""The class `Format`, in which leaderboards are written; modules of `formats` declare a ``FORMAT``."""

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
    """Whether two files hold the same board."""


@cache
def all_formats() -> Mapping[str, Format]:
    """Return all formats by name, sorted by name; raises ValueError if two modules declare the same name."""
    return declared(Format, "FORMAT", modules(formats))


def render(report: BoardReport | Board, format: str = "table") -> str | bytes:
    """Return a leaderboard, or the effects of its grid, in a format of `all_formats`.

    Raises `UserError` for an unknown format, and for one that effects cannot be written in.
    """
    found = lookup("format", format, all_formats())
    report = BoardReport(report) if isinstance(report, Board) else report
    if report.effects is None:
        return found.render(report)
    if found.effects is None:
        allowed = ", ".join(name for name, each in all_formats().items() if each.effects)
        raise UserError(f"the effects of a grid cannot be written as {format}: give one of {allowed}")
    return found.effects(report.effects)
