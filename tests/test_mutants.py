"""`benchmarks.mutation`: which mutants a module has, and how they are found after it has moved."""

from pathlib import Path

import pytest

from benchmarks.mutation import Source, find, is_another_program, read_package

MODULE = '''\
"""Docstring with 1 < 2."""

import logging

LIMIT = 3
TIMEOUT = 5


class Table:
    def rows(self, found: list[int]) -> int:
        logging.info("%d", 1 + 1)
        if not found or len(found) < 2:
            raise ValueError(f"{len(found) + 1}")
        found.sort(reverse=True)
        return found[0] - found[1]
'''


def sources(root: Path, file: str, text: str) -> list[Source]:
    path = root / "package" / file
    path.parent.mkdir(parents=True)
    path.write_text(text)
    return read_package(root / "package")


def test_mutants_leave_out_texts_messages_logging_and_times(tmp_path: Path) -> None:
    (source,) = sources(tmp_path, "room/module.py", MODULE)
    mutants = list(source.mutants())
    assert all(is_another_program(source, each) for each in mutants)
    assert {(each.function, each.operator, each.after[0]) for each in mutants} == {
        ("", "constant", "LIMIT = 4"),
        ("Table.rows", "condition", "if not (not found or len(found) < 2):"),
        ("Table.rows", "boolean", "if not found and len(found) < 2:"),
        ("Table.rows", "not", "if found or len(found) < 2:"),
        ("Table.rows", "comparison", "if not found or len(found) <= 2:"),
        ("Table.rows", "constant", "if not found or len(found) < 3:"),
        ("Table.rows", "call", "pass"),
        ("Table.rows", "keyword", "found.sort(reverse=False)"),
        ("Table.rows", "return", "return None"),
        ("Table.rows", "arithmetic", "return found[0] + found[1]"),
        ("Table.rows", "constant", "return found[1] - found[1]"),
        ("Table.rows", "constant", "return found[0] - found[2]"),
    }


@pytest.mark.parametrize(
    ("old", "new"), [("", ""), ("class Table:", "class Grid:"), ("        logging", "        pass\n        logging")]
)
def test_a_mutant_is_found_after_its_module_has_moved(tmp_path: Path, old: str, new: str) -> None:
    (source,) = sources(tmp_path / "old", "room/module.py", MODULE)
    mutant = next(each for each in source.mutants() if each.operator == "arithmetic")
    moved = sources(tmp_path / "new", "other/place.py", MODULE.replace(old, new))
    changed = sources(tmp_path / "changed", "room/module.py", MODULE.replace("found[0] -", "max(found) -"))
    assert find(mutant, changed) is None
    assert (place := find(mutant, moved))
    assert "        return found[0] + found[1]\n" in place[0].replace(place[1], mutant.after)
