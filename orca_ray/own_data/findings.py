"""Properties inferred from own data, with the reason and the option that overrides each; and warnings."""

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Finding:
    """One inferred property of own data."""

    what: str
    """The property, such as "target"."""
    value: str
    why: str
    option: str
    """Option of :class:`orca_ray.own_data.Options` that overrides it, with an example; "": none."""

    def __str__(self) -> str:
        override = f"; to override: {self.option}" if self.option else ""
        return f"{self.what}: {self.value} ({self.why}{override})"


@dataclass
class Notes:
    """Collects findings and warnings while a task is inferred."""

    findings: list[Finding] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def find(self, what: str, value: object, why: str, option: str = "") -> None:
        """Add a finding."""
        self.findings.append(Finding(what, str(value), why, option))

    def warn(self, text: str) -> None:
        """Add a warning, once."""
        if text not in self.warnings:
            self.warnings.append(text)
