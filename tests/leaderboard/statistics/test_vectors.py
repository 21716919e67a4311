"""The statistics that the page's JavaScript must reproduce do not change by accident."""

import json
from typing import Any

import pytest

from tests.leaderboard.statistics.vectors import FILE, vectors


def assert_close(found: Any, expected: Any, where: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), where
        for key in expected:
            assert_close(found[key], expected[key], f"{where}.{key}")
    elif isinstance(expected, list):
        assert len(found) == len(expected), where
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_close(one, other, f"{where}[{index}]")
    elif isinstance(expected, float):
        assert found == pytest.approx(expected, rel=1e-9, abs=1e-12), where
    else:
        assert found == expected, where


def test_vectors_are_up_to_date() -> None:
    """After a wanted change, run ``python -m tests.leaderboard.statistics.vectors`` and the page's tests."""
    assert_close(vectors(), json.loads(FILE.read_text()))
