"""Samples of the conformance suites: usual runs have every test and every name, but not
each with each.
"""

from collections.abc import Collection
from typing import ClassVar
from zlib import crc32

import pytest


class Sampled:
    """Marks cases of a suite as exhaustive, but for one of ``every``; other tests of
    the suite keep other ones.

    Put it before the suite in the list of bases.
    """

    every: ClassVar[int] = 3

    def marks(
        self, test: str, case: tuple[str, ...], number: int
    ) -> Collection[pytest.MarkDecorator]:
        """Return no mark for the cases that are kept."""
        return (
            ()
            if (crc32(test.encode()) + number) % self.every == 0
            else (pytest.mark.exhaustive,)
        )
