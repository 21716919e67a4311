"""Safe replacements for the classes and functions that a pickle of arrays names.

Pickles call these classes and functions "globals". The replacements check the pickle's
content, and build arrays only at the end. NumPy's own ``ndarray.__setstate__`` is not
used, because it interprets raw bytes as pointers if a hostile file claims an object
dtype.
"""

import math
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple

import numpy as np

from orca_ray.data.rows import Array

Charge = Callable[[int], None]
"""Function that is called with the size in bytes of each copy that is created.

It raises NotPlain if the sum of the sizes is too large.
"""
ALLOWED = (
    "only numpy arrays and plain containers (dict, list, tuple) of text and numbers are"
    " read from pickles"
)
LEAVES = frozenset({type(None), bool, int, float, str, bytes, bytearray})
"""Plain types that contain no other values."""
_MAX_KEY = 2**60
"""Integers in keys must be smaller than this number.

Python hashes integers modulo 2**61 - 1, so an attacker can choose larger ones with the
same hash.
"""
_TYPE_CODES = re.compile(
    r"\??|b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,9}|O[48]?"
)
_MAX_AXES = 64
"""Largest number of axes of an array; NumPy's limit."""
_LAST_CHARACTER = 0x10FFFF
"""Largest code point of Unicode."""


class NotPlain(Exception):
    """Raised if a pickle holds something other than plain values and valid arrays.

    The message says what.
    """


class Global(NamedTuple):
    """Replacement for a class or function that a pickle may name."""

    name: str
    """Full name of the class or function in the pickle."""
    call: Callable[..., Any]
    """Function that is called in its place."""


class PickledType:
    """Replacement for ``numpy.dtype``, made from a type code such as "f8".

    `set_state` sets the byte order.
    """

    def __init__(self, code: object, *_: object) -> None:
        text = _text(code)
        if not isinstance(text, str) or not text or not _TYPE_CODES.fullmatch(text):
            shown = reprlib.repr(text)
            raise NotPlain(
                f"it has an array of type {shown}; expected booleans, numbers, short"
                " text or objects"
            )
        self.dtype: np.dtype[Any] = np.dtype("O" if text.startswith("O") else text)

    def set_state(self, state: object) -> None:
        """Set the byte order from the pickled state.

        Raises NotPlain for a dtype with fields.
        """
        is_plain = (
            isinstance(state, tuple)
            and len(state) >= 5
            and all(value is None for value in state[2:5])
        )
        if not isinstance(state, tuple) or not is_plain:
            raise NotPlain(f"it has an array type with fields: {reprlib.repr(state)}")
        order = _text(state[1])
        if order not in ("<", ">", "|", "="):
            raise NotPlain(f"it has an array type of byte order {reprlib.repr(order)}")
        if order in "<>":
            self.dtype = self.dtype.newbyteorder(order)


class PickledArray:
    """Replacement for ``numpy.ndarray``: created empty, then filled by `set_state`."""

    def __init__(self, charge: Charge) -> None:
        self._charge = charge
        self._content: list[Any] | Array | None = None

    def set_state(self, state: object) -> None:
        """Check and store the pickled state: shape, type, memory order and content."""
        if not isinstance(state, tuple) or len(state) != 5 or self._content is not None:
            raise NotPlain("it has an array whose state is not what numpy writes")
        _, self._shape, dtype, fortran, content = state  # the first is a version
        self._order: Literal["C", "F"] = "F" if fortran else "C"
        checked_type = _checked_type(dtype)
        if not checked_type.hasobject:
            self._content = _from_bytes(
                content, checked_type, self._shape, self._order, self._charge
            )
        elif type(content) is not list or len(content) != _num_items(self._shape):
            raise NotPlain(
                f"it has an array of objects of shape {self._shape} whose items are not"
                " as many"
            )
        else:
            self._charge(len(content))
            self._content = content

    def transpose(self, axes: tuple[int, ...]) -> None:
        """Permute the axes; the array must not hold objects."""
        if not isinstance(axes, tuple) or sorted(axes) != list(range(len(axes))):
            raise NotPlain("it has an array whose axes are no permutation")
        assert isinstance(self._content, np.ndarray)
        self._content = self._content.transpose(axes)

    def settled(self, settle_all: Callable[[Iterable[Any]], list[Any]]) -> Array:
        """Return the NumPy array.

        ``settle_all`` replaces the stand-ins among the items of an array of objects.
        """
        if self._content is None:
            raise NotPlain("it has an array without a state")
        if isinstance(self._content, np.ndarray):
            return self._content
        flat = np.empty(len(self._content), dtype=object)
        for index, item in enumerate(settle_all(self._content)):
            flat[index] = item
        return flat.reshape(self._shape, order=self._order)


class StandIns(dict[str, Global]):
    """The replacements for all globals that a pickle may name.

    Raises NotPlain, with its name, for any other global.
    """

    def __init__(self, charge: Charge) -> None:
        self._charge = charge
        self._array = Global("numpy.ndarray", self._not_called)
        calls: dict[str, Callable[..., Any]] = {
            "numpy.dtype": PickledType,
            "_codecs.encode": self._encode,
        }
        for core in ("numpy.core", "numpy._core"):
            calls[f"{core}.multiarray._reconstruct"] = self._reconstruct
            calls[f"{core}.multiarray.scalar"] = self._scalar
            calls[f"{core}.numeric._frombuffer"] = self._from_buffer
        for builtins in ("builtins", "__builtin__"):
            # with arguments, no Python writes it
            calls[f"{builtins}.bytes"] = lambda: b""
        super().__init__(
            {name: Global(name, call) for name, call in calls.items()}
            | {self._array.name: self._array}
        )

    def __missing__(self, name: str) -> Global:
        raise NotPlain(f"it asks for {name[:200]!r}, which is refused; {ALLOWED}")

    def _reconstruct(self, subtype: object, *_: object) -> PickledArray:
        if subtype is not self._array:
            raise NotPlain(f"it makes an array that is not a numpy.ndarray; {ALLOWED}")
        return PickledArray(self._charge)

    def _scalar(self, dtype: object, content: object = None) -> Any:
        """Replace ``numpy.core.multiarray.scalar``, which restores a NumPy scalar."""
        checked_type = _checked_type(dtype)
        if checked_type.hasobject:
            raise NotPlain("it has a numpy scalar that holds an object")
        self._charge(checked_type.itemsize)
        return _from_bytes(content, checked_type, (), "C", self._charge)[()]

    def _from_buffer(
        self, content: Any, dtype: Any, shape: Any, order: Any, axes: Any = None
    ) -> PickledArray:
        """Replace ``numpy.core.numeric._frombuffer``.

        It restores contiguous arrays in pickle protocol 5.
        """
        if order not in ("C", "F", "K"):
            raise NotPlain(f"it has an array of memory order {reprlib.repr(order)}")
        array = PickledArray(self._charge)
        version_of_state = 1
        array.set_state((version_of_state, shape, dtype, order == "F", content))
        if order == "K" and axes is not None:
            array.transpose(axes)
        return array

    def _encode(self, text: str, encoding: str = "") -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise NotPlain("it encodes something other than text in latin1")
        self._charge(len(text))
        return text.encode("latin1")

    def _not_called(self, *_: object) -> None:
        raise NotPlain(f"it calls numpy.ndarray, which no numpy writes; {ALLOWED}")


def cheap_keys(keys: list[Any]) -> list[Any]:
    """Return ``keys`` of a dict unchanged.

    Raises NotPlain unless all keys are scalars or flat tuples of scalars. Hashing
    nested tuples can exhaust the stack or take very long. Complex and very large
    numbers are refused, too. An attacker can choose many of them with the same hash,
    and a dict would then compare each key with all others.
    """
    for key in keys:
        for value in key if type(key) is tuple else (key,):
            _check_cheap(value)
    return keys


def _check_cheap(value: object) -> None:
    """Raise NotPlain unless a value in a key is a scalar that is quick to hash."""
    is_large = isinstance(value, int | np.integer) and abs(int(value)) >= _MAX_KEY
    if is_large or isinstance(value, np.complexfloating):
        raise NotPlain(
            "it has a complex or a very large number within a key; expected"
            " smaller ones, or text"
        )
    if type(value) not in LEAVES and not isinstance(value, np.generic):
        raise NotPlain(
            f"it has a {type(value).__name__} within a key; expected text,"
            " numbers or tuples of them"
        )


def _text(value: object) -> object:
    """Return a value; bytes, as in a pickle of Python 2, are decoded to text."""
    return value.decode("latin1") if isinstance(value, bytes) else value


def _checked_type(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, PickledType):
        raise NotPlain("it has an array without a type")
    return dtype.dtype


def _num_items(shape: Any) -> int:
    """Return the number of items of an array; raise NotPlain if it cannot exist."""
    is_shape = isinstance(shape, tuple) and len(shape) <= _MAX_AXES
    if not is_shape or not all(map(_is_size, shape)):
        raise NotPlain(f"it has an array of the impossible shape {reprlib.repr(shape)}")
    return math.prod(shape)


def _is_size(value: object) -> bool:
    return type(value) is int and 0 <= value < 2**62


def _from_bytes(
    content: object,
    dtype: np.dtype[Any],
    shape: Any,
    order: Literal["C", "F"],
    charge: Charge,
) -> Array:
    """Return an array over ``content``, if possible without a copy.

    Raises NotPlain for a wrong size or bad text.
    """
    if isinstance(content, str):  # bytes of a Python 2 pickle
        charge(len(content))
        content = content.encode("latin1")
    expected = _num_items(shape) * dtype.itemsize
    if not isinstance(content, bytes | bytearray) or len(content) != expected:
        actual: object = type(content).__name__
        if isinstance(content, bytes | bytearray):
            actual = len(content)
        raise NotPlain(
            f"it has an array {dtype.name} of shape {shape}: expected {expected} bytes,"
            f" found {actual}"
        )
    # items of zero bytes: their number is not limited by the size of the file
    if not dtype.itemsize:
        charge(math.prod(shape))
    array: Array = np.ndarray(shape, dtype, buffer=content, order=order)
    # a byte other than 0 and 1 would count as more than one in sums
    if dtype.kind == "b":
        charge(len(content))
        return np.asarray(array.view(np.uint8) != 0)
    if dtype.kind == "U" and content:
        points = np.frombuffer(content, np.dtype("u4").newbyteorder(dtype.byteorder))
        if points.max() > _LAST_CHARACTER:
            raise NotPlain("it has text with impossible characters")
    if not dtype.isnative:
        charge(len(content))
        array = array.astype(dtype.newbyteorder("="))
    return array
