"""The page of a board: one HTML file that holds its data, style and program, and opens without a network.

``page.js`` and ``page.css`` are built from ``page-src`` by ``make page``.
"""

import base64
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Any

from orca_ray.leaderboard.board import Board
from orca_ray.leaderboard.page.data import page_data
from orca_ray.leaderboard.page.pictures import chosen_pictures, picture_keys

__all__ = ["chosen_pictures", "page_data", "picture_keys", "render", "render_index"]

_FOLDER = Path(__file__).parent
_ESCAPES = {ord(each): f"\\u{ord(each):04x}" for each in "<>&\u2028\u2029"}


def render(data: Mapping[str, Any], *, refresh_seconds: int = 0) -> str:
    """Return the page of a board's `page_data`; with ``refresh_seconds``, it loads itself again after that time.

    The page may execute its own script only, and load nothing (Content-Security-Policy). Data are embedded as JSON
    without the characters ``<``, ``>`` and ``&``, so that no text of a record ends the element or begins another one.
    """
    script, style = ((_FOLDER / name).read_text(encoding="utf-8") for name in ("page.js", "page.css"))
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )
    text = json.dumps(data, ensure_ascii=False, allow_nan=False, separators=(",", ":")).translate(_ESCAPES)
    return Template((_FOLDER / "template.html").read_text(encoding="utf-8")).substitute(
        refresh=f' data-refresh="{refresh_seconds:d}"' if refresh_seconds else "",
        policy=policy,
        title=html.escape(f"{data['benchmark']}: leaderboard"),
        style=style,
        data=text,
        script=script,
    )


def render_index(boards: Mapping[str, Board]) -> str:
    """Return a page with links to the pages of boards, by file name. It needs no JavaScript."""
    rows = []
    for name, board in boards.items():
        best = {method: sum(method in board.best(task) for task in board.tasks) for method in board.methods}
        most = max(best.values(), default=0)
        leaders = ", ".join(method for method in best if best[method] == most)
        won = f"{leaders}: best on {most} of {len(board.tasks)} tasks" if most else "no score yet"
        cells = [board.sweep, board.protocol, str(len(board.tasks)), str(len(board.methods)), won]
        link = f'<th scope="row"><a href="{html.escape(name)}">{html.escape(board.benchmark)}</a></th>'
        rows.append(f"<tr>{link}{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return Template((_FOLDER / "index.html").read_text(encoding="utf-8")).substitute(
        policy="default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'",
        style=(_FOLDER / "page.css").read_text(encoding="utf-8"),
        rows="\n".join(rows),
    )
