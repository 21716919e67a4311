import contextlib
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.io import savemat

from orca_ray.data.mat import mat5_variables, read_mat5
from orca_ray.errors import UserError

Array = np.ndarray[Any, Any]


def element(kind: int, content: bytes, endian: str, *, short: bool = False) -> bytes:
    if short:
        return struct.pack(f"{endian}I", len(content) << 16 | kind) + content.ljust(4, b"\0")
    return struct.pack(f"{endian}II", kind, len(content)) + content + bytes(-len(content) % 8)


def matrix(name: bytes, class_: int, stored: int, content: bytes, shape: tuple[int, ...], endian: str = "<") -> bytes:
    """A variable as MATLAB writes it: what fits into four bytes is short."""
    return element(
        14,
        element(6, struct.pack(f"{endian}II", class_, 0), endian)
        + element(5, struct.pack(f"{endian}{len(shape)}i", *shape), endian)
        + element(1, name, endian, short=len(name) <= 4)
        + element(stored, content, endian, short=len(content) <= 4),
        endian,
    )


def file(*elements: bytes, endian: str = "<") -> bytes:
    mark = {"<": b"IM", ">": b"MI"}[endian]
    return b"MATLAB 5.0 MAT-file".ljust(124) + struct.pack(f"{endian}H", 0x0100) + mark + b"".join(elements)


def read(path: Path, name: str) -> Array:
    return read_mat5(path, mat5_variables(path)[name])


@pytest.mark.parametrize("endian", ["<", ">"])
@pytest.mark.parametrize("compressed", [False, True])
def test_numbers_of_a_class_are_stored_in_the_shortest_type(endian: str, compressed: bool, tmp_path: Path) -> None:
    long = matrix(b"coefficient", 6, 3, struct.pack(f"{endian}6h", 3, 12, 3, 12, 3, -300), (3, 2), endian)
    short = matrix(b"sol", 6, 2, b"\1\2\3", (1, 3), endian)
    elements = [long, short]
    if compressed:  # without padding
        elements = [struct.pack(f"{endian}II", 15, len(z)) + z for z in map(zlib.compress, elements)]
    path = tmp_path / "d.mat"
    path.write_bytes(file(*elements, endian=endian))
    found = mat5_variables(path)
    assert {name: (each.kind, each.shape) for name, each in found.items()} == {
        "coefficient": ("f8", (3, 2)),
        "sol": ("f8", (1, 3)),
    }
    assert read(path, "coefficient").tolist() == [[3, 12], [12, 3], [3, -300]]
    assert read(path, "sol").tolist() == [[1, 2, 3]]


def test_what_is_no_full_array_is_named_and_passed_over(tmp_path: Path) -> None:
    content: dict[str, Any] = {
        "char": "abc",
        "cell": np.array([1, "a"], dtype=object),
        "struct": {"a": 1},
        "complex": np.array([1 + 2j]),
        "u1": np.array([True, False]),
        "f8": np.arange(4.0),
    }
    savemat(tmp_path / "d.mat", content)
    found = mat5_variables(tmp_path / "d.mat")
    assert [(name, each.kind, each.is_numeric) for name, each in found.items()] == [
        (name, name, name in ("u1", "f8")) for name in content
    ]
    opaque = element(14, element(6, struct.pack("<II", 17, 0), "<") + element(1, b"MCOS", "<"), "<")
    (tmp_path / "d.mat").write_bytes(file(opaque, matrix(b"a", 9, 2, b"\7", (1, 1))))
    assert list(mat5_variables(tmp_path / "d.mat")) == ["a"]


ONE = matrix(b"coeff", 6, 9, struct.pack("<2d", 1, 2), (1, 2))


PACKED = zlib.compress(ONE)


def packed(content: bytes) -> bytes:
    return file(struct.pack("<II", 15, len(content)) + content)  # without padding


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no header of level 5"),
        (file()[:-2] + b"XX", "no header of level 5"),
        (file(element(99, b"12345678", "<")), "an element of type 99"),
        (file(ONE)[:-1], "an element of type 14 and 72 bytes at byte 128 of 207"),
        (file(matrix(b"a", 6, 8, b"12345678", (1, 1))), "numbers of type 8"),
        (file(matrix(b"a", 6, 9, b"12345678", (1, 2))), r"8 bytes of float64 for an array 'a' of shape \[1, 2\]"),
        (file(matrix(b"a", 6, 9, b"", (-1, 0))), r"of shape \[-1, 0\]"),
        (file(matrix(b"a", 6, 9, b"12345678", (1,) * 65)), "for an array 'a'"),
        (file(matrix(b"a" * 5000, 6, 9, b"12345678", (1, 1))), "an element of type 1 and 5000 bytes where type 1 is"),
        (file(element(14, element(5, b"12345678", "<"), "<")), "an element of type 5 and 8 bytes where type 6 is due"),
        (file(element(14, struct.pack("<I", 5 << 16 | 6) + bytes(4), "<")), "a short element of 5 bytes"),
        (file(element(14, element(6, b"", "<"), "<")), "IndexError"),
        (packed(b"not zlib"), "incorrect header check"),
        (packed(PACKED[:30]), "compressed data ends early"),
        (packed(PACKED[:-1] + bytes([PACKED[-1] ^ 1])), "incorrect data check"),
    ],
)
def test_bad_files(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "d.mat").write_bytes(content)
    with pytest.raises(UserError, match=rf"d\.mat: expected a whole MATLAB file.*{message}"):
        read(tmp_path / "d.mat", "coeff")


@pytest.mark.parametrize("content", [file(ONE), packed(PACKED)], ids=["plain", "compressed"])
def test_a_changed_byte_is_read_or_refused(content: bytes, tmp_path: Path) -> None:
    """SciPy's reader ends the process for some of these."""
    path = tmp_path / "d.mat"
    for position in range(len(content)):
        path.write_bytes(content[:position] + bytes([content[position] ^ 0x41]) + content[position + 1 :])
        with contextlib.suppress(UserError):
            for variable in mat5_variables(path).values():
                if variable.is_numeric:
                    assert read_mat5(path, variable).shape == variable.shape
