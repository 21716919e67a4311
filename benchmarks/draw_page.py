"""Takes the pictures of a board's page in docs: ``python -m benchmarks.draw_page``
needs playwright and Chromium.

All are of docs/stores/pocket, in the light theme, with two pixels for each pixel of the
page.
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
    """Return the key of the trial of `orca` with pictures of fields and of features,
    which aligning has moved most.
    """
    store = ResultsStore(str(ROOT / STORE))
    records = store.records().set_index("trial_key")
    artefacts = store.artefacts()
    drawn = [
        set(artefacts["trial_key"][artefacts["kind"] == kind])
        for kind in ("features", "field")
    ]
    # The guarded method may discard what it aligned.
    aligned = records[records["method"] == "orca"]
    both = aligned.loc[
        [key for key in aligned.index if all(key in keys for keys in drawn)]
    ]
    return str((both["distance_before"] / both["distance_after"]).idxmax())


def take(page: Any, address: str, name: str, height: int, below: str = "") -> None:
    """Write the picture of a view: its top, or what begins at the words ``below``."""
    page.goto(address)
    page.reload()
    page.wait_for_selector("main[data-shown]")
    top = (
        page.get_by_text(below, exact=True).first.bounding_box()["y"] - 24
        if below
        else 0
    )
    clip = {"x": 0, "y": top, "width": WIDTH, "height": height}
    page.screenshot(path=ROOT / "docs" / f"page-{name}.png", clip=clip, full_page=True)


def main() -> None:
    methods = "&".join(f"methods={method}" for method in METHODS)
    with TemporaryDirectory() as scratch, chdir(ROOT), sync_playwright() as playwright:
        file = Path(scratch) / "pocket.html"
        if run(["leaderboard", "pocket", "--results", STORE, "--out", str(file)]):
            raise SystemExit("no board")
        path = next(
            filter(
                None,
                map(shutil.which, ("chromium", "chromium-browser", "google-chrome")),
            )
        )
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox", "--disable-gpu"]
        )
        look = {
            "viewport": {"width": WIDTH, "height": 900},
            "color_scheme": "light",
            "device_scale_factor": 2,
        }
        page = browser.new_page(**look)
        take(page, f"{file.as_uri()}#/?{methods}", "table", 900)
        take(page, f"{file.as_uri()}#/differences?{methods}", "differences", 960)
        take(
            page,
            f"{file.as_uri()}#/record/{record()}",
            "record",
            1100,
            "Features before and after aligning",
        )
        browser.close()


if __name__ == "__main__":
    main()
