"""Hostile sweep files: each is refused with one message, without much memory."""

import contextlib
import difflib
import os
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.spec import MAX_SEEDS, Overrides
from orca_ray.yaml_reader import MAX_BYTES, MAX_NODES
from tests.sweep.plan.test_loading import read_refusal

HEAD = "name: mine\nbenchmark: pocket\nmethods: [nft]\ntasks: [pocket/digits]\n"


def nest_aliases(levels: int) -> str:
    """Return a sweep file whose aliases, expanded, are 9 to the power of levels."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        aliases = ", ".join([f"*a{level - 1}"] * 9)
        lines.append(f"a{level}: &a{level} [{aliases}]")
    return HEAD + "\n".join(lines)


@pytest.mark.parametrize(
    ("extra", "line", "part"),
    [
        ("name2: &a [*a]", 5, "contains itself"),
        (
            "seed: !!python/object/apply:os.system ['true']",
            5,
            "python/object/apply:os.system' is not allowed",
        ),
        ("seed: 2026-01-01", 5, "got '2026-01-01'"),
        ("seed: " + "9" * 5000, 5, "at most 64 bits"),
        ("seed: -1", 5, "greater than or equal to 0"),
        ("settings: {refine.learning_rate: .inf}", 5, "finite number"),
        ("1: 2", 5, "a key must be text: put '1' in quotes"),
        ("=: 2", 5, "unknown key '='"),
        ("name: mine", 5, "'name' is given twice"),
        (
            "x:\n" + "\n".join(" " * n + "a:" for n in range(1, 500)),
            28,
            "nested deeper than",
        ),
        (
            "x: [" + "1, " * MAX_NODES + "1]",
            5,
            f"more than {MAX_NODES} keys and values",
        ),
        (
            'bodies: {image: "\\e[2J"}',
            5,
            "control characters and line breaks are not allowed, got '\\x1b[2J'",
        ),
        (
            "per_task: {pocket/digits: {space: {refine.epochs: {choice: ["
            + "3, " * 300
            + "3]}}}}",
            5,
            "at most 256",
        ),
        (
            "space: {refine.learning_rate: {uniform: [-1.7e308, 1.7e308]}}",
            5,
            "too wide",
        ),
        ("early_stopping: {eta: 1.0000000001}", 5, "greater than or equal to 1.01"),
        ("--- \nname: two", 5, "found another document"),
        ("x: *nowhere", 5, "undefined alias"),
    ],
)
def test_odd_values_are_refused_with_their_line(
    extra: str, line: int, part: str
) -> None:
    message = read_refusal(HEAD + extra + "\n")
    assert part in message
    assert message.startswith(f"mine.yaml:{line}: "), message


@pytest.mark.parametrize("levels", [5, 6, 40])
def test_nested_anchors_are_not_expanded(levels: int) -> None:
    """The fifth level, in line 9, is the first with too many values."""
    message = read_refusal(nest_aliases(levels))
    expected = f"more than {MAX_NODES} keys and values, aliases expanded"
    assert message.startswith(f"mine.yaml:9: {expected}")


def test_a_large_grid_is_refused_before_it_is_expanded() -> None:
    levels = ", ".join(map(str, range(1, 257)))
    grid = (
        "grid:\n"
        f"  refine.epochs: [{levels}]\n"
        f"  refine.batch_size: [{levels}]\n"
        f"  align.epochs: [{levels}]\n"
        f"  embedder.sequence_length: [{levels}]\n"
    )
    message = read_refusal(HEAD + grid)
    assert message.startswith(
        "mine.yaml:5: grid: 4294967296 cells x 3 seeds: remove levels or seeds, at most"
        " 2000"
    )


def test_a_list_of_many_crosses_is_refused() -> None:
    allowed = HEAD + "grid:\n" + "  - refine.epochs: [1]\n" * 334
    crosses = parse_spec(allowed).file.grid
    assert crosses is not None
    assert len(crosses) == 334
    twice_as_many_cells = allowed.replace("[1]", "[1, 2]")
    assert "grid: 668 cells x 3 seeds" in read_refusal(twice_as_many_cells)


def test_anchors_may_be_used() -> None:
    text = f"""\
{HEAD}settings: &s {{refine.epochs: 3}}
per_method:
  nft: {{settings: {{<<: *s, refine.batch_size: 8}}}}
"""
    settings = parse_spec(text).settings("pocket/digits", "nft")
    assert settings == {"refine.epochs": 3, "refine.batch_size": 8}


def test_control_characters_in_the_text_are_refused() -> None:
    assert read_refusal(HEAD + "x: \x07\n").startswith(
        "mine.yaml:5: not valid YAML: special characters are not allowed"
    )


@pytest.mark.parametrize("read", [partial(parse_spec, "[]"), load_spec])
def test_control_characters_in_the_name_are_not_printed(
    read: Callable[[str], object],
) -> None:
    with pytest.raises(UserError) as caught:
        read("a\x1b[2J.yaml")
    assert "\x1b" not in str(caught.value)


@given(
    st.text(max_size=200)
    | st.binary(max_size=200).map(lambda data: data.decode("latin-1"))
)
def test_any_text_is_a_sweep_or_a_user_error(text: str) -> None:
    with contextlib.suppress(UserError):
        parse_spec(text)
    with contextlib.suppress(UserError):
        parse_spec(HEAD + text)


@pytest.mark.parametrize(
    ("overrides", "part"),
    [
        (
            Overrides(seeds=20_000),
            f"--seeds must be at least 1 and at most {MAX_SEEDS}, got 20000",
        ),
        (
            Overrides(body="\x1b[2J"),
            "--body must not contain control characters",
        ),
        (
            Overrides(trials=10**9),
            "--trials must be at least 1 and at most 100000",
        ),
    ],
)
def test_options_of_the_command_line_have_limits(
    overrides: Overrides, part: str
) -> None:
    assert part in read_refusal(HEAD, overrides=overrides)


def test_the_most_seeds_are_distinct_and_leave_out_that_of_the_search() -> None:
    overrides = Overrides(seeds=MAX_SEEDS)
    seeds = parse_spec(HEAD + "seed: 7\n", overrides=overrides).confirm_seeds
    assert len(seeds) == MAX_SEEDS
    assert len(set(seeds)) == MAX_SEEDS
    assert 7 not in seeds


def test_special_files_are_refused_unopened(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe.yaml"
    os.mkfifo(pipe)
    folder = tmp_path / "folder.yaml"
    folder.mkdir()
    (tmp_path / "link.yaml").symlink_to("/dev/zero")
    cases = {
        pipe: "a named pipe",
        folder: "is a directory",
        tmp_path / "link.yaml": "/dev",
        Path("/dev/stdin"): "/dev",
        Path("/proc/self/environ"): "/proc",
        tmp_path / ("x" * 300 + ".yaml"): "cannot read",
    }
    for path, part in cases.items():
        with pytest.raises(UserError, match=part):
            load_spec(path)


def test_a_large_file_is_not_read(tmp_path: Path) -> None:
    large = tmp_path / "large.yaml"
    with large.open("wb") as file:
        file.truncate(50 * 2**30)  # sparse
    with pytest.raises(UserError, match="larger than 1 MiB"):
        load_spec(large)


def test_a_file_of_the_largest_size_is_read(tmp_path: Path) -> None:
    comment = "#" * (MAX_BYTES - len(HEAD)) + "\n"
    without_first_letter = HEAD[1:]
    path = tmp_path / "long.yaml"
    path.write_text(comment + without_first_letter)
    assert path.stat().st_size == MAX_BYTES
    with pytest.raises(UserError, match="unknown key 'ame'"):
        load_spec(path)


@pytest.mark.slow
def test_nearest_names_are_sought_only_for_the_names_in_the_message(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Seeking them for thousands of misspelt names would take half a minute."""
    search = mock.Mock(wraps=difflib.get_close_matches)
    monkeypatch.setattr(difflib, "get_close_matches", search)
    names = "".join(f"  refine.learning_rat{i}: 1\n" for i in range(9000))
    with pytest.raises(UserError) as caught:
        parse_spec(f"{HEAD}settings:\n{names}", "mine.yaml")
    *errors, last = str(caught.value).splitlines()
    assert len(errors) == 5
    assert all("Did you mean 'refine.learning_rate'?" in error for error in errors)
    assert last == "and 8995 more"
    assert search.call_count < 100
