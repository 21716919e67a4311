"""Stand-ins for numpy's types and arrays while a pickle is read: they note down, check, and build the array at last."""

import math
import re
import reprlib
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Charge = Callable[[int], None]
"""Counts bytes that are made and not read; raises NotPlain when they are too many."""

_TYPE_CODES = re.compile(r"\??|b1|[iu][1248]|f(2|4|8|12|16)|c(8|16|24|32)|[SU]\d{1,9}|O[48]?")
_MOST_AXES = 64
_LAST_CHARACTER = 0x10FFFF


class NotPlain(Exception):
    """A pickle holds something that is not a plain value or not a possible array; the message says what."""


class PickledType:
    """A numpy type, as numpy pickles it: a code, then a byte order in its state."""

    __slots__ = ("dtype",)

    def __init__(self, code: object, *_: object) -> None:
        text = code.decode("latin1") if isinstance(code, bytes) else code
        if not isinstance(text, str) or not text or not _TYPE_CODES.fullmatch(text):
            raise NotPlain(
                f"it has an array of type {reprlib.repr(text)}; expected booleans, numbers, text of fixed length or "
                "objects"
            )
        self.dtype: np.dtype[Any] = np.dtype("O" if text.startswith("O") else text)

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) < 5 or any(part is not None for part in state[2:5]):
            raise NotPlain(f"it has an array type with fields: {reprlib.repr(state)}")
        order = state[1].decode("latin1") if isinstance(state[1], bytes) else state[1]
        match order:
            case "<":
                self.dtype = self.dtype.newbyteorder("<")
            case ">":
                self.dtype = self.dtype.newbyteorder(">")
            case "|" | "=":
                pass
            case _:
                raise NotPlain(f"it has an array type of byte order {reprlib.repr(order)}")


class PickledArray:
    """An array of which the pickle has told the state, or will."""

    __slots__ = ("_charge", "_content", "_dtype", "_order", "_shape")

    def __init__(self, charge: Charge) -> None:
        self._charge = charge
        self._content: list[Any] | Array | None = None

    def __setstate__(self, state: object) -> None:
        if not isinstance(state, tuple) or len(state) != 5 or self._content is not None:
            raise NotPlain("it has an array whose state is not what numpy writes")
        _, self._shape, dtype, fortran, content = state
        self._dtype = _checked_type(dtype)
        self._order = "F" if fortran else "C"
        if not self._dtype.hasobject:
            if isinstance(content, str):  # what bytes of a Python 2 pickle become
                self._charge(len(content))
                content = content.encode("latin1")
            self._content = _from_bytes(content, self._dtype, self._shape, self._order, self._charge)
            return
        if type(content) is not list or len(content) != _num_items(self._shape):
            raise NotPlain(f"it has an array of objects of shape {self._shape} whose items are not as many")
        self._charge(len(content))
        self._content = content

    def settled(self, settle_all: Callable[[Iterable[Any]], list[Any]]) -> Array:
        """Return the array; ``settle_all`` settles the items of an array of objects."""
        if self._content is None:
            raise NotPlain("it has an array without a state")
        if isinstance(self._content, np.ndarray):
            return self._content
        flat = np.empty(len(self._content), dtype=object)
        for index, item in enumerate(settle_all(self._content)):
            flat[index] = item
        return flat.reshape(self._shape, order="F" if self._order == "F" else "C")


def array_from_buffer(charge: Charge) -> Callable[..., PickledArray]:
    """Return what stands for numpy's ``_frombuffer``, by which protocol 5 restores contiguous arrays."""

    def make(content: object, dtype: object, shape: object, order: object, axes: object = None) -> PickledArray:
        if order not in ("C", "F", "K"):
            raise NotPlain(f"it has an array of memory order {reprlib.repr(order)}")
        array = PickledArray(charge)
        array.__setstate__((1, shape, dtype, order == "F", content))
        if order == "K" and axes is not None:
            if not isinstance(axes, tuple) or sorted(axes) != list(range(len(axes))):
                raise NotPlain("it has an array whose axes are no permutation")
            assert isinstance(array._content, np.ndarray)
            array._content = array._content.transpose(axes)
        return array

    return make


def scalar(charge: Charge) -> Callable[..., Any]:
    """Return what stands for numpy's ``scalar``: one number or text, from its bytes."""

    def make(dtype: object, content: object = None) -> Any:
        checked = _checked_type(dtype)
        if checked.hasobject:
            raise NotPlain("it has a numpy scalar that holds an object")
        charge(checked.itemsize)
        raw = content.encode("latin1") if isinstance(content, str) else content
        return _from_bytes(raw, checked, (), "C", charge)[()]

    return make


def _checked_type(dtype: object) -> np.dtype[Any]:
    if not isinstance(dtype, PickledType):
        raise NotPlain("it has an array without a type")
    return dtype.dtype


def _num_items(shape: object) -> int:
    whole = isinstance(shape, tuple) and all(type(size) is int and 0 <= size < 2**62 for size in shape)
    if not isinstance(shape, tuple) or not whole or len(shape) > _MOST_AXES:
        raise NotPlain(f"it has an array of the impossible shape {reprlib.repr(shape)}")
    return math.prod(shape)


def _from_bytes(content: object, dtype: np.dtype[Any], shape: object, order: str, charge: Charge) -> Array:
    """Build an array over bytes, nothing copied; what is not a possible value in memory is refused or mended."""
    expected = _num_items(shape) * dtype.itemsize
    found = len(content) if isinstance(content, bytes | bytearray) else type(content).__name__
    if not isinstance(content, bytes | bytearray) or found != expected:
        raise NotPlain(f"it has an array {dtype.name} of shape {shape}: expected {expected} bytes, found {found}")
    assert isinstance(shape, tuple)
    if not dtype.itemsize:  # empty texts, of which no bytes of the file say how many there are
        charge(math.prod(shape))
    array: Array = np.ndarray(shape, dtype, buffer=content, order="F" if order == "F" else "C")
    if dtype.kind == "b":  # a true that is not 1 would count as more than one in sums
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
