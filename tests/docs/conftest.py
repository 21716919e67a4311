"""The browser of the tests of pages, also for those of the site."""

from tests.leaderboard.page.conftest import browser

__all__ = ["browser"]
