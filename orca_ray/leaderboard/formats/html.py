"""The page: one HTML file that opens without a network."""

import pandas as pd

from orca_ray.leaderboard.format import Format
from orca_ray.leaderboard.page import page_data, render
from orca_ray.leaderboard.report import Report


def _render(report: Report) -> str:
    nothing = pd.DataFrame()
    return render(
        page_data(
            report.board,
            nothing if report.records is None else report.records,
            nothing if report.curves is None else report.curves,
            published=report.published,
            artefacts=report.artefacts,
            about=report.about,
        )
    )


FORMAT = Format("html", ".html", _render)
