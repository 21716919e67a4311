"""What a tracker shows of the runs of a sweep, read back from the tracker's files."""

from dataclasses import dataclass, field

Shown = dict[str, "ShownRun"]


@dataclass
class ShownRun:
    """What a tracker shows of a run."""

    tags: dict[str, str] = field(default_factory=dict)
    settings: dict[str, str] = field(default_factory=dict)
    curves: dict[str, dict[int, float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    status: str = ""

    def point(self, name: str, step: int, value: float) -> None:
        self.curves.setdefault(name, {})[step] = value
