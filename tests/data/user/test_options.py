"""Options in a ``task.yaml``."""

from pathlib import Path

import numpy as np
import pytest

from orca_ray.errors import UserError
from orca_ray.own_data import Options, options_of, read, read_options


def test_a_task_file_names_the_data_and_options(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", signal=np.zeros((5, 3)), kind=np.arange(5))
    (tmp_path / "task.yaml").write_text("data: a.npz\ntarget: kind\ninputs: signal\naxes: NL\n")
    data = read(tmp_path / "task.yaml")
    assert data.target_names == ("kind",)
    _, options = options_of(tmp_path / "task.yaml", Options(axes="NF"))
    assert (options.axes, options.target) == ("NF", ("kind",)), "what is given goes first"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tarjet: x", "unknown option 'tarjet'. Did you mean 'target'"),
        ("axes: XYZ", "axes: .*got 'XYZ'"),
        ("target: !!python/object:os.system x", "tag"),
        ("- a", "expected 'option: value'"),
        ("a: [", "not valid YAML"),
        ("kind: colour", "kind: "),
        ("target: x", "expected the line 'data: PATH'"),
    ],
)
def test_bad_task_files(text: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "task.yaml"
    path.write_text(text)
    with pytest.raises(UserError, match=expected) as error:
        read(path)
    assert "task.yaml" in str(error.value)


def test_options_are_plain(tmp_path: Path) -> None:
    (tmp_path / "t.yaml").write_text("columns: {id: drop}\nfractions: [0.2, 0.1]\n")
    assert read_options(tmp_path / "t.yaml") == Options(columns={"id": "drop"}, fractions=(0.2, 0.1))
