import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from orca_ray.data import readers
from orca_ray.errors import UserError

HEADER = "#a comment: with, commas\n@problemName Toy\n@classLabel true 1 2\n@data\n"

_values = st.floats(-1e6, 1e6)
_series = st.integers(1, 3).flatmap(
    lambda channels: st.lists(
        st.integers(1, 5).flatmap(
            lambda length: st.lists(
                st.lists(_values, min_size=length, max_size=length), min_size=channels, max_size=channels
            )
        ),
        min_size=1,
        max_size=4,
    )
)


def _text(series: list[list[list[float]]]) -> str:
    lines = [":".join(",".join(map(repr, row)) for row in each) + f":{number}" for number, each in enumerate(series)]
    return HEADER + "\n".join(lines) + "\n"


@given(_series)
def test_what_is_written_is_read(series: list[list[list[float]]]) -> None:
    parsed, labels = readers.parse_ts(_text(series), "toy.ts")
    assert labels == [str(number) for number in range(len(series))]
    assert [each.tolist() for each in parsed] == series


def test_a_file_cut_anywhere_within_its_last_line_is_refused() -> None:
    text = HEADER + "0.5,1.5:2.5,3.5:1\n4.5,5.5:6.5,7.5:2"
    start = text.rindex("\n") + 1
    for end in range(start + 1, len(text) - 1):
        with pytest.raises(UserError, match=r"toy\.ts, line 6"):
            readers.parse_ts(text[:end], "toy.ts")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no @data line"),
        (HEADER[:30], "no @data line"),
        (HEADER, "no series after @data"),
        (HEADER + "1,?,3:1\n", "line 5: could not convert"),
        (HEADER + "1,nan,3:1\n", "line 5: a value is not finite"),
        (HEADER + "1,2:1\n1,2:3,4:1\n", "line 6: 2 channels where the first series has 1"),
        (HEADER + "1,2:3:1\n", r"line 5: channels of different lengths: \[1, 2\]"),
        (HEADER + "1\n", "line 5: no values before the class label"),
    ],
)
def test_bad_text_is_refused_with_its_line(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        readers.parse_ts(text, "toy.ts")


def test_padding_follows_the_values() -> None:
    padded = readers.pad([np.ones((2, 3)), np.zeros((2, 1))], 4)
    assert padded.shape == (2, 2, 4)
    assert np.isnan(padded).sum(axis=2).tolist() == [[1, 1], [3, 3]]
    with pytest.raises(UserError, match="a series of length 3 does not fit into 2"):
        readers.pad([np.ones((2, 3))], 2)
