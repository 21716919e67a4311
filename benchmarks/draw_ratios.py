"""Draws docs/findings.svg: errors of methods relative to plain fine-tuning, with intervals, from docs/stores/pocket."""

import json
import math
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

from orca_ray.cli.app import run

ROOT = Path(__file__).resolve().parents[1]
METHODS = {
    "cnn": "convolutional network",
    "orca_guarded": "align, guarded",
    "orca": "align, then fine-tune",
    "lora": "low-rank updates",
    "scratch": "random weights",
    "fpt": "train norms only",
    "linear_probe": "train head only",
}
TICKS = (0.5, 0.7, 1, 1.4, 2, 2.8)
LEFT, RIGHT, TOP, ROW = 176, 388, 30, 24
STYLE = """
    text { font: 13px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #15191e; }
    .middle { text-anchor: middle; }
    .end { text-anchor: end; } .page { fill: #ffffff; } .grid { stroke: #d8dde2; }
    .one { stroke: #57616c; stroke-width: 1.6; }
    .bar { stroke: #0072b2; stroke-width: 2.4; } .dot { fill: #0072b2; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e8ebee; } .page { fill: #131416; } .grid { stroke: #2c353f; } .one { stroke: #9ba7b3; }
      .bar { stroke: #56b4e9; } .dot { fill: #56b4e9; }
    }"""


def place(ratio: float) -> float:
    """Return the position of a ratio on the logarithmic axis, in pixels."""
    low, high = math.log(0.45), math.log(3.6)
    return LEFT + (RIGHT - LEFT) * (math.log(ratio) - low) / (high - low)


def main() -> None:
    with TemporaryDirectory() as scratch, chdir(ROOT):
        out = Path(scratch) / "board.json"
        if run(["leaderboard", "pocket", "--results", "docs/stores/pocket", "--out", str(out)]):
            raise SystemExit("no board")
        values = json.loads(out.read_text())["statistics"]["verdict"]["values"]
    found = {row["method"]: row for row in values if row["other"] == "nft"}
    bottom = TOP + ROW * len(METHODS) + 4
    parts = [f'<rect class="page" width="400" height="{bottom + 26}" rx="8"/>']
    parts.append('<text x="12" y="19">error, relative to plain fine-tuning</text>')
    for tick in TICKS:
        parts.append(f'<path class="{"one" if tick == 1 else "grid"}" d="M{place(tick):.1f} {TOP}V{bottom}"/>')
        parts.append(f'<text class="middle" x="{place(tick):.1f}" y="{bottom + 17}">{tick:g}</text>')
    for number, (method, name) in enumerate(METHODS.items()):
        row, y = found[method], TOP + ROW * (number + 0.5) + 2
        parts.append(f'<text class="end" x="{LEFT - 8}" y="{y + 4.5}">{name}</text>')
        parts.append(f'<path class="bar" d="M{place(row["low"]):.1f} {y}H{place(row["high"]):.1f}"/>')
        parts.append(f'<circle class="dot" cx="{place(row["value"]):.1f}" cy="{y}" r="4.5"/>')
    size = f'viewBox="0 0 400 {bottom + 26}" width="400" height="{bottom + 26}"'
    body = "\n  ".join(parts)
    (ROOT / "docs" / "findings.svg").write_text(
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">\n  <style>{STYLE}\n  </style>\n  {body}\n</svg>\n'
    )


if __name__ == "__main__":
    main()
