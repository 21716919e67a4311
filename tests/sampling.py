"""Samples of the conformance suites.

Usual runs have every test and every name, but not each with each.
"""

from collections.abc import Collection
from typing import ClassVar
from zlib import crc32

import pytest


class Sampled:
    """Marks cases of a suite as exhaustive, but for one of ``every``.

    Other tests of the suite keep other cases. Put this class before the suite in the
    list of bases.
    """

    every: ClassVar[int] = 3

    def marks(
        self, test: str, case: tuple[str, ...], number: int
    ) -> Collection[pytest.MarkDecorator]:
        """Return the marks of a case: none for the cases that usual runs have."""
        if (crc32(test.encode()) + number) % self.every == 0:
            return ()
        return (pytest.mark.exhaustive,)
