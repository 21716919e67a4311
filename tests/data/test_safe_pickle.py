import contextlib
import io
import pickle
import pickletools
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from orca_ray.data import safe_pickle
from orca_ray.errors import UserError

PROTOCOLS = range(pickle.HIGHEST_PROTOCOL + 1)

GRID = np.arange(6).reshape(2, 3)
DTYPES = ("?", "i1", "<u2", ">i4", "i8", "f2", ">f4", "f8", "c8", "c16", "S3", "U2")
PLAIN: list[Any] = [
    *(
        None,
        True,
        0,
        -1,
        255,
        65_536,
        2**31,
        -(2**70),
        1.5,
        float("nan"),
        "",
        "ü\n",
        "\ud800",
        b"",
        b"\xff\n",
    ),
    *([], (), {}, [[1], (2, "3"), {"a": [4, 5]}], (1,), (1, 2), (1, 2, 3, 4)),
    *({"a": 1, 2: "b", (1, "x"): None, None: 2.5, b"k": True}, [None] * 1500),
    *(GRID.astype(kind) for kind in DTYPES),
    *(GRID.T.astype(kind) for kind in DTYPES),
    *(GRID.astype(kind)[1, 2] for kind in DTYPES),
    *(np.zeros((0, 3)), np.array(2.5), np.array([1, "a", None, [GRID]], dtype=object)),
]


def loads(content: bytes, encoding: str = "latin1") -> Any:
    return safe_pickle.load(io.BytesIO(content), "toy.pkl", encoding=encoding)


def describe(value: Any) -> Any:
    """Return a description that is equal for equal values of equal types.

    NaN equals NaN.
    """
    kind = type(value).__name__
    if isinstance(value, np.ndarray) and value.dtype.hasobject:
        return ("objects", value.shape, [describe(item) for item in value.ravel()])
    if isinstance(value, np.ndarray | np.generic):
        native = value.dtype.newbyteorder("=")
        content = np.asarray(value).astype(native).tobytes()
        return (kind, native.str, value.shape, content)
    if isinstance(value, list | tuple):
        return (kind, [describe(item) for item in value])
    if isinstance(value, dict):
        items = [(describe(key), describe(item)) for key, item in value.items()]
        return ("dict", items)
    return (kind, repr(value))


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_plain_data_comes_out_as_it_went_in(protocol: int) -> None:
    for value in [*PLAIN, PLAIN]:
        content = pickle.dumps(value, protocol)
        assert describe(loads(content)) == describe(pickle.loads(content)), value


# From protocol 4 on, lengths of names are part of the pickle.
@pytest.mark.parametrize("protocol", [0, 3])
def test_numpy_one_names_its_modules_otherwise(protocol: int) -> None:
    value = {"data": np.arange(6.0).reshape(2, 3), "one": np.float32(2.5)}
    content = pickle.dumps(value, protocol)
    renamed = content.replace(b"numpy._core.", b"numpy.core.")
    assert renamed != content
    assert describe(loads(renamed)) == describe(value)


PYTHON_2 = (
    b"\x80\x02}q\x00U\x04dataq\x01cnumpy.core.multiarray\n_reconstruct\nq\x02cnumpy\nndarray\nq\x03K\x00\x85q\x04"
    b"U\x01bq\x05\x87q\x06Rq\x07(K\x01K\x01K\x03\x86q\x08cnumpy\ndtype\nq\tU\x02u1q\nK\x00K\x01\x87q\x0bRq\x0c"
    b"(K\x03U\x01|q\rNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0eb\x89U\x03\x00\x80\xffq\x0ftq\x10bs."
)
"""``{"data": np.array([[0, 128, 255]], np.uint8)}`` as Python 2.7 and numpy 1.16 write
it with protocol 2.
"""


@pytest.mark.parametrize(("encoding", "key"), [("latin1", "data"), ("bytes", b"data")])
def test_pickles_of_python_2(encoding: str, key: object) -> None:
    ((stored_key, array),) = loads(PYTHON_2, encoding).items()
    assert stored_key == key
    assert array.tolist() == [[0, 128, 255]]
    assert array.dtype == np.uint8


class _Runs:
    """What a hostile file holds: loading it calls a function."""

    def __init__(self, call: Any, *args: Any) -> None:
        self._call = call
        self._args = args

    def __reduce__(self) -> Any:
        return self._call, self._args


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_a_hostile_global_is_named_and_not_called(
    protocol: int, tmp_path: Path
) -> None:
    marker = tmp_path / "marker"
    content = pickle.dumps(
        {"data": [_Runs(exec, f"open({str(marker)!r}, 'w')")]}, protocol
    )
    with pytest.raises(
        UserError,
        match=r"toy\.pkl: it asks for '(builtins|__builtin__)\.exec', which is refused",
    ):
        loads(content)
    assert not marker.exists()
    pickle.loads(content)
    assert marker.exists()


@pytest.mark.parametrize(
    "name",
    [
        "os.system",
        "numpy.loads",
        "builtins.eval",
        "numpy.core.multiarray.other",
        "a.set",
    ],
)
@pytest.mark.parametrize(
    "opcodes",
    ["c{}\n{}\n)R.", "(i{}\n{}\n.", "(c{}\n{}\no.", "\x80\x04\x8c{}\x8c{}\x93)R."],
)
def test_any_other_global_is_refused_by_name(name: str, opcodes: str) -> None:
    module, _, attribute = name.rpartition(".")
    if "\x8c" in opcodes:  # a text after its length
        module = chr(len(module)) + module
        attribute = chr(len(attribute)) + attribute
    with pytest.raises(UserError, match=f"'{name}'"):
        loads(opcodes.format(module, attribute).encode("latin1"))


NOT_PLAIN: list[tuple[Any, str]] = [
    (OrderedDict(a=1), r"collections\.OrderedDict"),
    (np.dtype("f8"), "holds PickledType itself"),
    (np.ndarray, r"holds numpy\.ndarray itself"),
    (np.ma.masked_array([1], [True]), r"numpy\.ma"),
    (np.array([1], "M8[s]"), "array of type 'M8'"),
    (np.zeros(1, [("a", "i4")]), "array of type 'V4'"),
    # NumPy takes its bytes for the addresses of objects.
    (np.zeros(1, [("a", "O")]), "array of type 'V8'"),
    (np.array([OrderedDict()], dtype=object), r"collections\.OrderedDict"),
    ({((1, 2), 3): 4}, "a tuple within a key"),
    ({1, 2}, "a set"),
    (frozenset([1]), "a set"),
    ({2**61 - 1: 0}, "a complex or a very large number within a key"),
    ({(0, -(2**60)): 0}, "a complex or a very large number within a key"),
    ({np.uint64(2**63): 0}, "a complex or a very large number within a key"),
    ({np.complex64(1j): 0}, "a complex or a very large number within a key"),
]
TYPE = b"cnumpy\ndtype\n(S'%s'\nI0\nI1\ntR"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "a whole pickle"),
        (b"Pid\n.", "a persistent id"),
        (b"\x82\x01.", "a registered extension"),
        (b"\x80\x05\x97.", "a buffer outside the file"),
        (b"c__builtin__\nbytes\n)\x81.", "built by its class"),
        (b"cnumpy\nndarray\n(I5\ntR.", r"calls numpy\.ndarray"),
        (b"cnumpy\ndtype\n(dS'__call__'\nNsb.", r"changes numpy\.dtype"),
        (b"c_codecs\nencode\n(S'a'\nS'rot13'\ntR.", "other than text in latin1"),
        (b"c__builtin__\nbytes\n(I99999999999\ntR.", "a whole pickle"),
        (b"c__builtin__\nset\n(S'abc'\ntR.", "asks for '__builtin__.set'"),
        (ARRAY + b".", "without a state"),
        (
            ARRAY + b"(I1\n(I2\nt" + TYPE % b"f8" + b"I00\nS'1234'\ntb.",
            "expected 16 bytes, found 4",
        ),
        (ARRAY + b"(I1\n(I-2\nt" + TYPE % b"f8" + b"I00\nS''\ntb.", "impossible shape"),
        (
            ARRAY + b"(I1\n(I2\nt" + TYPE % b"O8" + b"I00\n(lNatb.",
            "whose items are not as many",
        ),
        (
            ARRAY + b"(I1\n(I1\nt" + TYPE % b"O8" + b"I00\nS'12345678'\ntb.",
            "whose items are not as many",
        ),
        (
            ARRAY + b"(I1\n(I1\nt" + TYPE % b"V8" + b"I00\nS'12345678'\ntb.",
            "array of type 'V8'",
        ),
        (
            ARRAY
            + b"(I1\n(I1\nt"
            + TYPE % b"U1"
            + b"I00\nS'\\xff\\xff\\xff\\xff'\ntb.",
            "impossible characters",
        ),
        (TYPE % b"f8" + b"(I3\nS'<'\nN(S'a'\ntNtb.", "type with fields"),
        ((TYPE % b"f8").replace(b"S'f8'", b"I8"), "array of type 8"),
        (b"]" * 100_000 + b"a" * 99_999 + b".", "nested more than 64 deep"),
        (b"]q\x00h\x00a.", "holds itself"),
        (b"}N" + b"\x85" * 100_000 + b"Ns.", "a tuple within a key"),
        (b"S" + b"-" * 20_000 + b"1\n.", "a whole pickle"),
        (b"N..", "more bytes after its end"),
        *((pickle.dumps(value), message) for value, message in NOT_PLAIN),
        # Sizes that the file does not have: of a bytearray, of bytes, of a frame, of a
        # long number.
        (b"\x80\x05\x96" + struct.pack("<Q", 2**40) + b".", "a whole pickle"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 2**40) + b".", "a whole pickle"),
        (b"\x80\x04\x95" + struct.pack("<Q", 2**62) + b".", "a whole pickle"),
        (b"\x80\x02\x8b" + struct.pack("<i", 2**31 - 1) + b".", "a whole pickle"),
    ],
)
def test_a_forged_pickle_is_refused(content: bytes, message: str) -> None:
    with pytest.raises(UserError, match=message):
        loads(content)


def test_copies_without_end_are_refused() -> None:
    text = b"X" + struct.pack("<I", 10_000) + b"a" * 10_000 + b"q\x00"
    with pytest.raises(UserError, match="unfolds into more than 4 times its size"):
        loads(text + b"c_codecs\nencode\n(h\0S'latin1'\ntR0" * 1000 + b"N.")


def test_what_is_shared_stays_shared_and_takes_no_more_memory() -> None:
    value: list[Any] = [np.zeros(2)]
    for _ in range(30):
        value = [value] * 2
    first, second = loads(pickle.dumps(value))
    assert first is second
    memo_of_two_billion_entries = b"\x80\x02Nr" + struct.pack("<I", 2**31 - 1) + b"."
    assert loads(memo_of_two_billion_entries) is None


_opcodes = st.sampled_from(
    [opcode.code.encode("latin1") for opcode in pickletools.opcodes]
)
_snippets = _opcodes | st.sampled_from(
    [
        ARRAY,
        TYPE % b"f8",
        TYPE % b"O8",
        b"(I1\n(I1\nt",
        b"K\x01",
        b"h\x00",
        b"q\x00",
        b"S'12345678'\n",
        b"I00\n",
        b"tb",
    ]
)


@settings(max_examples=200)
@given(st.lists(_snippets | st.binary(max_size=3), max_size=25))
def test_random_opcodes_are_plain_or_refused(snippets: list[bytes]) -> None:
    with contextlib.suppress(UserError):
        loads(b"".join(snippets) + b".")


WHOLE = pickle.dumps(
    {"data": np.array([np.arange(4.0), np.ones(2)], dtype=object), "label": ["N", "A"]},
    2,
)


def test_a_file_cut_anywhere_is_refused_by_name_and_a_changed_byte_does_no_harm(
    tmp_path: Path,
) -> None:
    path = tmp_path / "challenge2017.pkl"
    for end in range(len(WHOLE)):
        path.write_bytes(WHOLE[:end])
        with pytest.raises(
            UserError,
            match=r"challenge2017\.pkl \(ECG records\): .*fetch the file again",
        ):
            safe_pickle.load(path, "ECG records")
        for change in (1, 0x80):
            content = bytearray(WHOLE)
            content[end] ^= change
            with contextlib.suppress(UserError):
                loads(bytes(content))
    path.write_bytes(WHOLE)
    assert safe_pickle.load(path, "ECG records")["label"] == ["N", "A"]
