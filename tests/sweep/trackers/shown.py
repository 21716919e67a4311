"""What a tracker shows of the runs of a sweep, read back from the tracker's files."""

from dataclasses import dataclass, field


@dataclass
class ShownRun:
    """What a tracker shows of a run."""

    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    status: str = ""

    def add_point(self, name: str, step: int, value: float) -> None:
        self.curves.setdefault(name, {})[step] = value


Shown = dict[str, ShownRun]
"""Runs by their trial key."""
