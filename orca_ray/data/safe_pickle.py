"""Reader of pickles that may come from anyone: numpy arrays and plain containers come out, and nothing else runs.

An ordinary unpickler imports and calls whatever a file names. This one knows a dozen names, and even those do not
reach the real function: arrays are noted down (`orca_ray.data.pickled_arrays`), checked, and built by us at the end.
Numpy's own ``__setstate__`` would follow raw bytes as pointers if a file only claimed a type that holds objects.

It stands on the standard library's unpickler in Python: the one in C clears as much memory as any index of its memo
asks for, whatever the size of the file.
"""

import pickle
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO, ClassVar, cast

import numpy as np

from orca_ray.data.pickled_arrays import NotPlain, PickledArray, PickledType, array_from_buffer, scalar
from orca_ray.errors import UserError

_MOST_DEPTH = 64
"""Containers within containers; the deepest of our benchmarks has four."""
_MOST_GROWTH = 4
"""Bytes that converting and copying may make, for each byte of the file."""
_MOST_KEY = 2**60
"""Integers from the modulus of Python's hash on, 2**61 - 1, share their hash with others."""
_LEAVES = frozenset({type(None), bool, int, float, complex, str, bytes, bytearray})
_ALLOWED = "only numpy arrays and plain containers (dict, list, tuple, set) of text and numbers are read from pickles"


def load(source: Path | BinaryIO, what: str, *, encoding: str = "latin1") -> Any:
    """Return what a pickle holds: plain containers, text, numbers and numpy arrays (read-only where not of objects).

    Arrays may be of booleans, numbers, text of fixed length, or objects that are plain in turn. Pickles of numpy 1 and
    2, of any protocol, and of Python 2 are read.

    Args:
        source: a file, or a stream that ends with the pickle.
        what: it is, for the message: "ECG records", or the path in a stream's archive.
        encoding: of the text in a Python 2 pickle; "latin1", or "bytes" to leave it as it is.

    Raises:
        UserError: with the file and the name of the first global that is not admitted, or with what is wrong otherwise.
    """
    if not isinstance(source, Path):
        return _load(source, what, encoding)
    where = str(source) if what in str(source) else f"{source} ({what})"
    try:
        stream = source.open("rb")
    except OSError as error:
        raise UserError(f"cannot read {where}: {error.strerror}") from error
    with stream:
        return _load(stream, where, encoding)


def _load(stream: BinaryIO, where: str, encoding: str) -> Any:
    try:
        unpickler = _Unpickler(_Source(stream), encoding)
        value = _Settling().settle(unpickler.load())
        if stream.read(1):
            raise NotPlain("there are more bytes after its end; the file is damaged, fetch it again")
    except UserError:
        raise
    except NotPlain as error:
        raise UserError(f"{where}: {error}") from error
    # Whatever a damaged pickle makes Python's machine stumble over: a dozen types, none of them documented.
    except Exception as error:
        raise UserError(
            f"{where}: expected a whole pickle, found one that ends early or is damaged ({type(error).__name__}: "
            f"{str(error)[:200]}); fetch the file again"
        ) from error
    return value


class _Source:
    """A stream that gives all that is asked for, or raises EOFError, and counts what it gave."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.num_bytes = 0

    def read(self, size: int) -> bytes:
        found = self._stream.read(size) if size > 0 else b""
        self.num_bytes += len(found)
        if len(found) != size:
            raise EOFError(f"{size} bytes expected after byte {self.num_bytes - len(found)}, {len(found)} found")
        return found

    def readline(self) -> bytes:
        line = self._stream.readline()
        self.num_bytes += len(line)
        if not line.endswith(b"\n"):
            raise EOFError(f"a line that ends was expected before byte {self.num_bytes}")
        return line


class _Global:
    """What a pickle gets for a name: it can be called, and no state can be set on it."""

    __slots__ = ("_call", "name")

    def __init__(self, name: str, call: Callable[..., Any]) -> None:
        self.name, self._call = name, call

    def __call__(self, *args: Any) -> Any:
        return self._call(*args)

    def __setstate__(self, state: object) -> None:
        raise NotPlain(f"it changes {self.name}; {_ALLOWED}")


def _refused(reason: str) -> Callable[[Any], None]:
    def refuse(_: Any) -> None:
        raise NotPlain(f"it holds {reason}; {_ALLOWED}")

    return refuse


def _keys_checked(opcode: bytes, keys: Callable[[list[Any]], Iterable[Any]]) -> Mapping[int, Callable[[Any], None]]:
    """Return the opcode's routine, run after a check of the keys that it finds on the stack."""
    routine = pickle._Unpickler.dispatch[opcode[0]]

    def checked(unpickler: Any) -> None:
        _refuse_costly_keys(keys(unpickler.stack))
        routine(unpickler)

    return {opcode[0]: checked}


def _refuse_costly_keys(keys: Iterable[Any]) -> None:
    """Refuse keys other than scalars and flat tuples of them: hashing tuples in tuples can exhaust stack or time.

    Of numbers, those are refused that can be chosen to have one hash: then a dict compares each with all others.
    """
    for key in keys:
        for part in key if type(key) is tuple else (key,):
            if isinstance(part, complex | np.complexfloating) or (
                isinstance(part, int | np.integer) and abs(int(part)) >= _MOST_KEY
            ):
                raise NotPlain("it has a complex or a very large number within a key; expected smaller ones, or text")
            if type(part) not in _LEAVES and not isinstance(part, np.generic):
                raise NotPlain(f"it has a {type(part).__name__} within a key; expected text, numbers or tuples of them")


class _Unpickler(pickle._Unpickler):
    """The standard unpickler without what reaches outside the file."""

    dispatch: ClassVar[dict[int, Callable[[Any], None]]] = {
        **pickle._Unpickler.dispatch,
        **dict.fromkeys((pickle.PERSID[0], pickle.BINPERSID[0]), _refused("a persistent id")),
        **dict.fromkeys((pickle.EXT1[0], pickle.EXT2[0], pickle.EXT4[0]), _refused("a registered extension")),
        **dict.fromkeys((pickle.NEXT_BUFFER[0], pickle.READONLY_BUFFER[0]), _refused("a buffer outside the file")),
        **dict.fromkeys((pickle.NEWOBJ[0], pickle.NEWOBJ_EX[0]), _refused("an object that is built by its class")),
        **_keys_checked(pickle.SETITEM, lambda stack: stack[-2:-1]),
        **_keys_checked(pickle.SETITEMS, lambda stack: stack[::2]),
        **_keys_checked(pickle.DICT, lambda stack: stack[::2]),
        **_keys_checked(pickle.ADDITEMS, lambda stack: stack),
        **_keys_checked(pickle.FROZENSET, lambda stack: stack),
        # The routine of the library clears as many bytes as the file claims before it reads the first.
        pickle.BYTEARRAY8[0]: lambda unpickler: _bytearray8(unpickler),
    }

    def __init__(self, source: _Source, encoding: str) -> None:
        super().__init__(source, encoding=encoding)
        self._source = source
        self._grown = 0
        array = _Global("numpy.ndarray", _not_called)
        reconstruct, made = _reconstruct(array, self._charge), scalar(self._charge)
        from_buffer = array_from_buffer(self._charge)
        globals_: dict[str, Callable[..., Any]] = {"numpy.dtype": PickledType, "_codecs.encode": self._encode}
        for core in ("numpy.core", "numpy._core"):
            globals_ |= {f"{core}.multiarray._reconstruct": reconstruct, f"{core}.multiarray.scalar": made}
            globals_ |= {f"{core}.numeric._frombuffer": from_buffer}
        for builtins in ("builtins", "__builtin__"):
            globals_ |= {f"{builtins}.{kind.__name__}": self._container(kind) for kind in (set, frozenset)}
            globals_ |= {f"{builtins}.bytearray": self._bytearray, f"{builtins}.bytes": _empty_bytes}
            globals_ |= {f"{builtins}.complex": _complex}
        self._globals = {name: _Global(name, call) for name, call in globals_.items()} | {array.name: array}

    def find_class(self, module: str, name: str) -> _Global:
        """Return our stand-in; raises NotPlain with the name of a global that is not admitted."""
        asked = f"{module}.{name}"
        found = self._globals.get(asked)
        if found is None:
            raise NotPlain(f"it asks for {asked[:200]!r}, which is refused; {_ALLOWED}")
        return found

    def _charge(self, size: int) -> None:
        """Count bytes that were made, not read; a few bytes of pickle can ask for the same copy a million times."""
        self._grown += size
        if self._grown > _MOST_GROWTH * self._source.num_bytes + 4096:
            raise NotPlain(f"it unfolds into more than {_MOST_GROWTH} times its size; the file is damaged or hostile")

    def _encode(self, text: str, encoding: str = "") -> bytes:
        if type(text) is not str or encoding not in ("latin1", "latin-1"):
            raise NotPlain("it encodes something other than text in latin1")
        self._charge(len(text))
        return text.encode("latin1")

    def _bytearray(self, content: bytes | str = b"", *encoding: str) -> bytearray:
        if type(content) is str:
            content = self._encode(content, *encoding)
        if type(content) is not bytes:
            raise NotPlain("it makes a bytearray of something other than bytes")
        self._charge(len(content))
        return bytearray(content)

    def _container(self, kind: Callable[[list[Any]], Any]) -> Callable[..., Any]:
        def make(items: list[Any]) -> Any:
            if type(items) is not list:
                raise NotPlain("it makes a set of something other than a list")
            self._charge(len(items))
            _refuse_costly_keys(items)
            return kind(items)

        return make


def _reconstruct(array: _Global, charge: Callable[[int], None]) -> Callable[..., PickledArray]:
    def reconstruct(subtype: object, *_: object) -> PickledArray:
        if subtype is not array:
            raise NotPlain(f"it makes an array that is not a numpy.ndarray; {_ALLOWED}")
        return PickledArray(charge)

    return reconstruct


def _not_called(*_: object) -> None:
    raise NotPlain(f"it calls numpy.ndarray, which no numpy writes; {_ALLOWED}")


def _empty_bytes(*args: object) -> bytes:
    if args:
        raise NotPlain("it makes bytes of something, which no Python writes")
    return b""


def _complex(real: float, imag: float) -> complex:
    if type(real) is not float or type(imag) is not float:
        raise NotPlain("it makes a complex number of something other than two numbers")
    return complex(real, imag)


def _bytearray8(unpickler: Any) -> None:
    size = int.from_bytes(unpickler.read(8), "little")
    unpickler.append(bytearray(unpickler.read(size)))


class _Settling:
    """The last pass: puts arrays where they were noted down, and refuses what is not plain.

    Lists and dicts are changed in place, so that what the pickle shares stays shared.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}
        self._open: set[int] = set()

    def settle(self, value: Any) -> Any:
        """Return ``value`` with every array in place; raises NotPlain for anything that is not plain."""
        if type(value) in _LEAVES or isinstance(value, np.generic):
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open or len(self._open) >= _MOST_DEPTH:
            raise NotPlain(f"a container holds itself, or they are nested more than {_MOST_DEPTH} deep; {_ALLOWED}")
        self._open.add(id(value))
        settled = self._settle_container(value)
        self._open.remove(id(value))
        # The value is kept, or its id could become that of another.
        self._done[id(value)] = (value, settled)
        return settled

    def _settle_container(self, value: Any) -> Any:
        if isinstance(value, PickledArray):
            return value.settled(self._settle_all)
        if type(value) is list:
            value[:] = self._settle_all(value)
        elif type(value) is dict:
            value.update(zip(list(value), self._settle_all(value.values()), strict=True))
        elif type(value) is tuple:
            return tuple(self._settle_all(value))
        elif type(value) not in (set, frozenset):  # their items were checked when they were added
            name = cast(Any, value).name if isinstance(value, _Global) else type(value).__name__
            raise NotPlain(f"it holds {name} itself, which is refused; {_ALLOWED}")
        return value

    def _settle_all(self, values: Iterable[Any]) -> list[Any]:
        return [each if type(each) in _LEAVES else self.settle(each) for each in values]
