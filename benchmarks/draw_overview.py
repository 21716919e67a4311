"""Draws docs/overview.svg: data go in, a pretrained transformer gets a new embedder and
head, a board comes out.

``python -m benchmarks.draw_overview ECG.npz``: the board and the field are those of
docs/stores/pocket, the table is wdbc of scikit-learn, and ``ECG.npz`` is
``pywt/data/ecg.npz`` of PyWavelets (a part of a record of MIT-BIH).
"""

import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import numpy.typing as npt
from sklearn.datasets import load_breast_cancer

from orca_ray.cli.app import run
from orca_ray.results.artefacts import Quantised
from orca_ray.results.store import ResultsStore

ROOT = Path(__file__).resolve().parents[1]
STORE = "docs/stores/pocket"
TASKS = ("japanese_vowels", "darcy16", "wdbc")
"""A series, a field and a table: columns of the board."""
MARKS = {
    "cnn": ("c6", "M0 0V11M0 0l-10 -7M0 0l10 -7"),
    "nft": ("c1", "M-9 -9h18v18h-18z"),
    "orca": ("c0", "M-10 0a10 10 0 1 0 20 0a10 10 0 1 0 -20 0"),
    "scratch": ("c2", "M0 -11L11 8H-11z"),
}
"""Methods of the board, with colour and mark as on the page of a board
(page-src/src/charts.js).
"""
_SCALE = np.array(
    [(68, 1, 84), (59, 82, 139), (33, 145, 140), (94, 201, 98), (253, 231, 37)],
    dtype=np.float64,
)

TITLE = (
    "A series, fields and a table go into a pretrained transformer with a new embedder"
    " and head; a board comes out"
)
STYLE = """
    text { font: 27px system-ui, "Segoe UI", Helvetica, Arial, sans-serif; fill: #15191e; }
    .middle { text-anchor: middle; } .end { text-anchor: end; } .best { font-weight: 700; }
    .page, .cell { fill: #ffffff; } .cell { stroke: #a9b3bd; stroke-width: 1.5; }
    .line { fill: none; stroke: #0072b2; stroke-width: 2.5; stroke-linejoin: round; }
    .brace { fill: none; stroke: #57616c; stroke-width: 3; stroke-linecap: round; }
    .rule { stroke: #a9b3bd; stroke-width: 1.5; }
    .new { fill: #dcebf7; stroke: #0072b2; stroke-width: 2.5; }
    .old { fill: #fdebc8; stroke: #b06f00; stroke-width: 2.5; }
    .c0 { fill: #0072b2; } .c1 { fill: #d55e00; } .c2 { fill: #009e73; } .c6 { stroke: #000000; stroke-width: 7; }
    @media (prefers-color-scheme: dark) {
      text { fill: #e8ebee; } .page, .cell { fill: #131416; } .cell { stroke: #56606b; } .rule { stroke: #56606b; }
      .c0 { fill: #3b9fe0; } .c1 { fill: #f07a28; } .c2 { fill: #1fbf92; } .c6 { stroke: #d9dde1; }
      .line { stroke: #56b4e9; } .brace { stroke: #9ba7b3; }
      .new { fill: #14324a; stroke: #56b4e9; } .old { fill: #43300c; stroke: #e69f00; }
    }"""


def text(x: float, y: float, words: str, kind: str = "") -> str:
    return f'<text x="{x:g}" y="{y:g}" class="{kind}">{words}</text>'


def box(
    x: float,
    y: float,
    width: float,
    height: float,
    *,
    kind: str = "",
    fill: str = "",
    radius: float = 0,
) -> str:
    look = f'fill="{fill}"' if fill else f'class="{kind}" rx="{radius:g}"'
    return (
        f'<rect x="{x:.5g}" y="{y:.5g}" width="{width:.5g}" height="{height:.5g}"'
        f" {look}/>"
    )


def curve(
    values: Sequence[float], x: float, y: float, width: float, height: float
) -> str:
    """Return a line through ``values`` in a rectangle."""
    low = min(values)
    high = max(values)
    across = width / (len(values) - 1)
    up = height / (high - low)
    points = (
        f"{x + across * i:.1f},{y + up * (high - value):.1f}"
        for i, value in enumerate(values)
    )
    return f'<polyline class="line" points="{" ".join(points)}"/>'


def field(values: npt.NDArray[np.float64], x: float, y: float, side: float) -> str:
    """Return squares in the colours of ``values`` [H, W]."""
    scaled = (values - values.min()) / (values.max() - values.min()) * (len(_SCALE) - 1)
    step = side / len(values)
    cells = []
    for (row, column), value in np.ndenumerate(scaled):
        parts = [
            round(float(np.interp(value, range(len(_SCALE)), _SCALE[:, part])))
            for part in range(3)
        ]
        colour = f"#{bytes(parts).hex()}"
        cells.append(
            box(x + column * step, y + row * step, step + 0.4, step + 0.4, fill=colour)
        )
    return "".join(cells)


def grid(
    rows: Sequence[Sequence[str]], x: float, y: float, width: float, height: float
) -> str:
    """Return cells with text."""
    drawn = []
    for i, row in enumerate(rows):
        for j, word in enumerate(row):
            drawn.append(box(x + j * width, y + i * height, width, height, kind="cell"))
            if word:
                drawn.append(
                    text(x + (j + 0.5) * width, y + (i + 0.76) * height, word, "middle")
                )
    return "".join(drawn)


def brace(x: float, top: float, bottom: float) -> str:
    """Return a curly bracket that points to the right."""
    middle = (top + bottom) / 2
    r = 14
    upper = f"q{r} 0 {r} {r}V{middle - r}q0 {r} {r} {r}"
    lower = f"q{-r} 0 {-r} {r}V{bottom - r}q0 {r} {-r} {r}"
    return f'<path class="brace" d="M{x} {top}{upper}{lower}"/>'


def scores() -> dict[tuple[str, str], float]:
    """Return the test score of each task and method of the store's board."""
    with TemporaryDirectory() as scratch, chdir(ROOT):
        out = Path(scratch) / "board.json"
        if run(["leaderboard", "pocket", "--results", STORE, "--out", str(out)]):
            raise SystemExit("no board")
        board = json.loads(out.read_text())
    return {
        (task["name"].partition("/")[2], name): each["mean"]
        for task in board["tasks"]
        for name, each in task["scores"].items()
    }


def fields() -> list[npt.NDArray[np.float64]]:
    """Return two test targets of darcy16, from the artefacts of a stored trial."""
    store = ResultsStore(str(ROOT / STORE))
    records = store.records()
    artefacts = store.artefacts()
    key = records["trial_key"][
        (records["task"] == "pocket/darcy16") & (records["test_score"].notna())
    ].iloc[0]
    payloads = artefacts["payload"][
        (artefacts["trial_key"] == key) & (artefacts["kind"] == "field")
    ]
    return [
        Quantised(**json.loads(payload)["panels"][0]["values"]).decode()
        for payload in payloads
    ][:2]


def board(x: float, y: float) -> Iterator[str]:
    """Yield the parts of the board: icons of the tasks, then a row for each method; the
    best score is bold.
    """
    found = scores()
    for row, (method, (colour, mark)) in enumerate(MARKS.items()):
        base = y + 108 + 56 * row
        yield (
            f'<path class="{colour}" transform="translate({x + 11} {base - 9})"'
            f' d="{mark}"/>'
        )
        yield text(x + 32, base, method)
        for column, task in enumerate(TASKS):
            shown = {each: f"{found[task, each]:.3f}"[1:] for each in MARKS}
            kind = "end best" if shown[method] == min(shown.values()) else "end"
            yield text(x + 214 + 84 * column, base, shown[method], kind)
    yield f'<line class="rule" x1="{x}" x2="{x + 382}" y1="{y + 66}" y2="{y + 66}"/>'


def main(ecg: str) -> None:
    beats = np.load(ecg)["data"][150:700].astype(float).tolist()
    darcy = fields()
    table = load_breast_cancer().data
    parts = [
        box(0, 0, 1016, 430, kind="page", radius=12),
        curve(beats, 20, 24, 258, 100),
        field(darcy[0], 20, 150, 118),
        field(darcy[1], 160, 150, 118),
        grid(
            [[f"{value:.4g}" for value in row[:3]] for row in table[:3]],
            20,
            294,
            86,
            38,
        ),
        brace(296, 24, 408),
        box(340, 154, 30, 124, kind="new", radius=8),
        *(
            box(380 + 36 * layer, 110, 29, 212, kind="old", radius=8)
            for layer in range(4)
        ),
        box(524, 154, 30, 124, kind="new", radius=8),
        brace(568, 110, 322),
        *board(612, 68),
        curve(np.sin(np.linspace(0, 4 * np.pi, 60)).tolist(), 770, 90, 54, 28),
        field(darcy[1], 868, 84, 40),
        grid([[""] * 3] * 3, 946, 85, 16, 13),
    ]
    svg = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1016 430" width="1016"'
        f' height="430" role="img">\n  <title>{TITLE}</title>\n  <style>{STYLE}\n '
        " </style>\n  " + "\n  ".join(parts) + "\n</svg>\n"
    )
    (ROOT / "docs" / "overview.svg").write_text(svg)


if __name__ == "__main__":
    main(sys.argv[1])
