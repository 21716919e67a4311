"""Takes the pictures of a board's page in docs: ``python -m benchmarks.draw_page`` needs playwright and Chromium.

All are of docs/stores/pocket, in the light theme, with two pixels for each pixel of the page.
"""

import shutil
from contextlib import chdir
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from playwright.sync_api import sync_playwright

from orca_ray.cli.app import run
from orca_ray.results.store import ResultsStore

ROOT = Path(__file__).resolve().parents[1]
STORE = "docs/stores/pocket"
METHODS = ("orca_guarded", "orca", "nft", "cnn", "scratch", "fpt", "linear_probe")
WIDTH = 1180


def record() -> str:
    """Return the key of the trial of `orca` on darcy16 that has pictures of features and fields."""
    store = ResultsStore(str(ROOT / STORE))
    records, artefacts = store.records(), store.artefacts()
    chosen = records[
        (records["task"] == "pocket/darcy16") & (records["method"] == "orca") & (records["phase"] == "confirm")
    ]
    drawn = artefacts[artefacts["kind"] == "features"]["trial_key"]
    return str(chosen[chosen["trial_key"].isin(drawn)]["trial_key"].iloc[0])


def take(page: Any, address: str, name: str, height: int) -> None:
    """Write the picture of the top of a view."""
    page.goto(address)
    page.reload()
    page.wait_for_selector("main[data-shown]")
    page.screenshot(
        path=ROOT / "docs" / f"page-{name}.png", clip={"x": 0, "y": 0, "width": WIDTH, "height": height}, full_page=True
    )


def main() -> None:
    methods = "&".join(f"methods={method}" for method in METHODS)
    with TemporaryDirectory() as scratch, chdir(ROOT), sync_playwright() as playwright:
        file = Path(scratch) / "pocket.html"
        if run(["leaderboard", "pocket", "--results", STORE, "--out", str(file)]):
            raise SystemExit("no board")
        path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
        browser = playwright.chromium.launch(executable_path=path, args=["--no-sandbox", "--disable-gpu"])
        look = {"viewport": {"width": WIDTH, "height": 900}, "color_scheme": "light", "device_scale_factor": 2}
        page = browser.new_page(**look)
        take(page, f"{file.as_uri()}#/?{methods}", "table", 900)
        take(page, f"{file.as_uri()}#/differences?{methods}", "differences", 960)
        take(page, f"{file.as_uri()}#/record/{record()}", "record", 1200)
        browser.close()


if __name__ == "__main__":
    main()
