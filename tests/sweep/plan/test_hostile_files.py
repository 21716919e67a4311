"""Sweep files that are not what they seem: one message, bounded time and memory,
nothing started.
"""

import contextlib
import os
import time
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.errors import UserError
from orca_ray.sweep.plan.loading import load_spec, parse_spec
from orca_ray.sweep.plan.spec import MAX_SEEDS, Overrides
from orca_ray.yaml_reader import MAX_BYTES, MAX_NODES
from tests.sweep.plan.test_loading import refused

HEAD = "name: mine\nbenchmark: pocket\nmethods: [nft]\ntasks: [pocket/digits]\n"


def laughs(levels: int) -> str:
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lines += [
        f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, levels)
    ]
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
    message = refused(HEAD + extra + "\n")
    assert part in message
    assert message.startswith(f"mine.yaml:{line}: "), message


@pytest.mark.parametrize("levels", [5, 6, 40])
def test_nested_anchors_do_not_grow(levels: int) -> None:
    """The fifth level, in line 9, is the first with too many values."""
    message = refused(laughs(levels))
    expected = f"more than {MAX_NODES} keys and values, aliases expanded"
    assert message.startswith(f"mine.yaml:9: {expected}")


def test_a_large_grid_is_refused_before_it_is_expanded() -> None:
    levels = ", ".join(map(str, range(1, 257)))
    names = (
        "refine.epochs",
        "refine.batch_size",
        "align.epochs",
        "embedder.sequence_length",
    )
    grid = "grid:\n" + "".join(f"  {name}: [{levels}]\n" for name in names)
    message = refused(HEAD + grid)
    assert message.startswith(
        "mine.yaml:5: grid: 4294967296 cells x 3 seeds: remove levels or seeds, at most"
        " 2000"
    )
    crosses = "grid:\n" + "  - refine.epochs: [1, 2]\n" * 334
    assert "grid: 668 cells x 3 seeds" in refused(HEAD + crosses)
    assert (
        len(parse_spec(HEAD + crosses.replace("[1, 2]", "[1]")).file.grid or ()) == 334
    )


def test_anchors_may_be_used() -> None:
    text = (
        HEAD
        + "settings: &s {refine.epochs: 3}\nper_method:\n  nft: {settings: {<<: *s,"
        " refine.batch_size: 8}}\n"
    )
    assert parse_spec(text).settings("pocket/digits", "nft") == {
        "refine.epochs": 3,
        "refine.batch_size": 8,
    }


def test_control_characters_in_the_text_and_in_the_name() -> None:
    assert refused(HEAD + "x: \x07\n").startswith(
        "mine.yaml:5: not valid YAML: special characters are not allowed"
    )
    for read in (partial(parse_spec, "[]"), load_spec):
        with pytest.raises(UserError) as caught:
            read("a\x1b[2J.yaml")
        assert "\x1b" not in str(caught.value)


@given(
    st.text(max_size=200)
    | st.binary(max_size=200).map(lambda data: data.decode("latin-1"))
)
def test_any_text_is_a_sweep_or_a_user_error(text: str) -> None:
    for whole in (text, HEAD + text):
        with contextlib.suppress(UserError):
            parse_spec(whole)


def test_numbers_of_the_command_line_have_limits() -> None:
    cases = {
        f"--seeds must be at least 1 and at most {MAX_SEEDS}, got 20000": Overrides(
            seeds=20_000
        ),
        "--body must not contain control characters": Overrides(body="\x1b[2J"),
        "--trials must be at least 1 and at most 100000": Overrides(trials=10**9),
    }
    for part, overrides in cases.items():
        assert part in refused(HEAD, overrides=overrides)
    seeds = parse_spec(
        HEAD + "seed: 7\n", overrides=Overrides(seeds=MAX_SEEDS)
    ).confirm_seeds
    assert len(seeds) == len(set(seeds)) == MAX_SEEDS
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
    long = tmp_path / "long.yaml"
    long.write_bytes(b"#" * (MAX_BYTES - len(HEAD)) + b"\n" + HEAD.encode()[1:])
    with pytest.raises(UserError, match="unknown key 'ame'"):
        load_spec(long)


@pytest.mark.slow
def test_many_misspelt_names_take_seconds() -> None:
    names = "".join(f"  refine.learning_rat{i}: 1\n" for i in range(9000))
    started = time.monotonic()
    with pytest.raises(UserError) as caught:
        parse_spec(f"{HEAD}settings:\n{names}", "mine.yaml")
    assert (
        time.monotonic() - started < 20
    )  # some seconds; a search for every nearest name would take half a minute
    lines = str(caught.value).splitlines()
    assert len(lines) == 6
    assert all("Did you mean 'refine.learning_rate'?" in line for line in lines[:5])
    assert lines[5] == "and 8995 more"
