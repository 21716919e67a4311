"""Reader of pickles from untrusted sources.

It builds NumPy arrays and plain containers, and imports or calls nothing.
``pickletools.genops`` parses the opcodes, and a small stack machine executes those that
build data. The dozen classes and functions that a pickle may name ("globals") are
replaced by safe ones (`orca_ray.data.pickled`). ``pickle.Unpickler`` is not used,
because overriding ``find_class`` does not make it safe: its C code allocates as much
memory as a memo index asks for, and overflows the stack when it hashes nested tuples.
"""

import codecs
import io
import pickle
import pickletools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from orca_ray.data import cache
from orca_ray.data.archives import damaged
from orca_ray.data.pickled import (
    ALLOWED,
    LEAVES,
    Global,
    NotPlain,
    PickledArray,
    PickledType,
    StandIns,
    cheap_keys,
)
from orca_ray.errors import UserError

_MAX_DEPTH = 64
"""Largest nesting depth of containers; the files of our benchmarks need four."""
_MAX_GROWTH = 4
"""Largest number of bytes that conversions and copies create per byte of the pickle."""
_REFUSED = {
    "PERSID": "a persistent id",
    "BINPERSID": "a persistent id",
    "EXT1": "a registered extension",
    "EXT2": "a registered extension",
    "EXT4": "a registered extension",
    "NEXT_BUFFER": "a buffer outside the file",
    "READONLY_BUFFER": "a buffer outside the file",
    "NEWOBJ": "an object that is built by its class",
    "NEWOBJ_EX": "an object that is built by its class",
    "EMPTY_SET": "a set",
    "ADDITEMS": "a set",
    "FROZENSET": "a set",
}
"""Kind of value that an opcode makes, by the names of the opcodes that are refused."""


def load(source: Path | BinaryIO, what: str, *, encoding: str = "latin1") -> Any:
    """Return the content of a pickle.

    It consists of plain containers, text, numbers and NumPy arrays, which are read-only
    unless they hold objects. Arrays may hold booleans, numbers, text of fixed length,
    or plain objects. Pickles of Python 2 and 3, NumPy 1 and 2, and all protocols are
    supported.

    Args:
        source: a file or a stream, which must end where the pickle ends.
        what: name for error messages: "ECG records", or for a stream the path that it
            was opened from.
        encoding: how to decode Python 2 strings: "latin1", or "bytes" to return them as
            bytes.

    Raises UserError if the pickle is damaged, or names a class or function that is not
    allowed.
    """
    if isinstance(source, Path):
        where = str(source)
        if what not in where:
            where = f"{source} ({what})"
        with cache.open_file(source) as stream:
            return load(stream, where, encoding=encoding)
    try:
        unsettled = _Machine(_Source(source), encoding).run()
        value = _Settling().settle(unsettled)
        if source.read(1):
            raise NotPlain(
                "there are more bytes after its end; the file is damaged, fetch it"
                " again"
            )
    except (UserError, MemoryError):
        raise
    except NotPlain as error:
        raise UserError(f"{what}: {error}") from error
    # A damaged pickle makes Python's parsers fail with a dozen exception types, none of
    # them documented.
    except Exception as error:
        raise damaged(what, "a whole pickle", error) from error
    return value


class _Source:
    """Stream for genops that counts the bytes that are read.

    `read` returns exactly ``size`` bytes or raises EOFError.
    """

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._size: float = float("inf")
        if stream.seekable():
            start = stream.tell()
            self._size = stream.seek(0, io.SEEK_END) - start
            stream.seek(start)
        self.num_bytes = 0
        self.text = b""
        """The last line that contained a text of Python 2."""
        self._opcode = b""

    def read(self, size: int) -> bytes:
        """Return the next ``size`` bytes; EOFError if there are fewer."""
        # checked before the read allocates memory
        fits = 0 <= size <= self._size - self.num_bytes
        content = self._stream.read(size) if fits else b""
        self.num_bytes += len(content)
        if len(content) != size:
            start = self.num_bytes - len(content)
            raise EOFError(f"{size} bytes expected after byte {start}, fewer found")
        self._opcode = content
        return content

    def readline(self) -> bytes:
        """Return the next line; an empty text in place of a text of Python 2.

        The text of Python 2 is stored in `text`.
        """
        line = self._stream.readline()
        self.num_bytes += len(line)
        if not line.endswith(b"\n"):
            raise EOFError(
                f"a line that ends was expected before byte {self.num_bytes}"
            )
        if self._opcode != pickle.STRING:
            return line
        # genops would decode it as ASCII: `parse_text` does it instead
        self.text = line
        return b"''\n"


class _Machine:
    """Stack machine that executes the opcodes of a pickle that build data."""

    def __init__(self, source: _Source, encoding: str) -> None:
        self.source = source
        self._bytes = encoding == "bytes"
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self._created = 0
        self._frame_end = 0
        self._globals = StandIns(self._charge)

    def run(self) -> Any:
        """Carry out the opcodes of the pickle, and return the object that they build.

        Arrays in it are stand-ins. Raises NotPlain for an opcode that is refused.
        """
        for opcode, argument, _ in pickletools.genops(self.source):  # type: ignore[arg-type]
            if opcode.name in _REFUSED:
                raise NotPlain(f"it holds {_REFUSED[opcode.name]}; {ALLOWED}")
            _OPCODES.get(opcode.name, _Machine.push)(self, argument)
        if self.source.num_bytes < self._frame_end:
            raise EOFError(
                f"a frame ends at byte {self._frame_end}, the pickle at"
                f" {self.source.num_bytes}"
            )
        return self.stack.pop()

    def _charge(self, size: int) -> None:
        """Add to the number of bytes that copies create; raise NotPlain if too many.

        A few bytes of a pickle can request the same copy a million times.
        """
        self._created += size
        if self._created > _MAX_GROWTH * self.source.num_bytes + 4096:
            raise NotPlain(
                f"it unfolds into more than {_MAX_GROWTH} times its size; the file is"
                " damaged or hostile"
            )

    def push(self, value: Any) -> None:
        self.stack.append(value)

    def get(self, index: int) -> None:
        """Push the value that is stored under a number."""
        self.push(self.memo[index])

    def put(self, index: int) -> None:
        """Store the topmost value, which stays on the stack, in the memo."""
        self.memo[index] = self.stack[-1]

    def pop(self) -> Any:
        """Remove the topmost mark or value, and return it."""
        if self.marks and self.marks[-1] == len(self.stack):
            return self.marks.pop()
        return self.stack.pop()

    def pop_items(self) -> list[Any]:
        """Remove the topmost mark and return the values above it."""
        start = self.marks.pop()
        items = self.stack[start:]
        self.stack[start:] = []
        return items

    def add(self, kind: Callable[..., Any], items: list[Any]) -> None:
        """Add items to the container on top of the stack, which is of type ``kind``.

        For a dict, keys and values alternate.
        """
        container = self.stack[-1]
        if type(container) is not kind:
            raise NotPlain(f"it adds items to a {type(container).__name__}; {ALLOWED}")
        if kind is list:
            container.extend(items)
        else:
            container.update(zip(cheap_keys(items[::2]), items[1::2], strict=True))

    def push_dict(self, items: list[Any]) -> None:
        self.push({})
        self.add(dict, items)

    def push_text(self, text: str) -> None:
        """Push a Python 2 string, as bytes if the caller of `load` asked for them."""
        self.push(text.encode("latin1") if self._bytes else text)

    def parse_text(self, _: object) -> None:
        text = self.source.text.strip()
        if len(text) < 2 or text[:1] not in (b"'", b'"') or text[:1] != text[-1:]:
            raise ValueError("text without quotation marks")
        self.push_text(codecs.escape_decode(text[1:-1])[0].decode("latin1"))

    def check_protocol(self, version: int) -> None:
        if version > pickle.HIGHEST_PROTOCOL:
            raise ValueError(f"protocol {version}")

    def start_frame(self, size: int) -> None:
        self._frame_end = self.source.num_bytes + size

    def find(self, name: str) -> Global:
        return self._globals[name.replace(" ", ".", 1)]

    def pop_two(self) -> tuple[Any, Any]:
        """Remove the two topmost values, and return them in the order of the stack."""
        second = self.pop()
        first = self.pop()
        return first, second

    def pop_three(self) -> tuple[Any, Any, Any]:
        """Remove the three topmost values; return them in the order of the stack."""
        third = self.pop()
        first, second = self.pop_two()
        return first, second, third

    def call_popped(self) -> None:
        """Call the function that was pushed before its arguments."""
        function, *arguments = self.pop_items()
        self.call(arguments, function)

    def call(self, arguments: Any, function: object) -> None:
        if not isinstance(function, Global):
            raise NotPlain(f"it calls a {type(function).__name__}; {ALLOWED}")
        self.push(function.call(*arguments))

    def build(self, state: object) -> None:
        """Set the state of the array or the array type on top of the stack."""
        target = self.stack[-1]
        if not isinstance(target, PickledType | PickledArray):
            raise NotPlain(
                f"it changes {getattr(target, 'name', type(target).__name__)};"
                f" {ALLOWED}"
            )
        target.set_state(state)


_OPCODES: Mapping[str, Callable[[_Machine, Any], object]] = {
    "PROTO": _Machine.check_protocol,
    "FRAME": _Machine.start_frame,
    "STOP": lambda m, _: None,
    "NONE": lambda m, _: m.push(None),
    "NEWTRUE": lambda m, _: m.push(True),
    "NEWFALSE": lambda m, _: m.push(False),
    "STRING": _Machine.parse_text,
    "BINSTRING": _Machine.push_text,
    "SHORT_BINSTRING": _Machine.push_text,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": lambda m, _: m.put(len(m.memo)),
    "MARK": lambda m, _: m.marks.append(len(m.stack)),
    "POP": lambda m, _: m.pop(),
    "POP_MARK": lambda m, _: m.pop_items(),
    "DUP": lambda m, _: m.push(m.stack[-1]),
    "EMPTY_TUPLE": lambda m, _: m.push(()),
    "TUPLE1": lambda m, _: m.push((m.pop(),)),
    "TUPLE2": lambda m, _: m.push(m.pop_two()),
    "TUPLE3": lambda m, _: m.push(m.pop_three()),
    "TUPLE": lambda m, _: m.push(tuple(m.pop_items())),
    "EMPTY_LIST": lambda m, _: m.push([]),
    "LIST": lambda m, _: m.push(m.pop_items()),
    "APPEND": lambda m, _: m.add(list, [m.pop()]),
    "APPENDS": lambda m, _: m.add(list, m.pop_items()),
    "EMPTY_DICT": lambda m, _: m.push({}),
    "DICT": lambda m, _: m.push_dict(m.pop_items()),
    "SETITEM": lambda m, _: m.add(dict, list(m.pop_two())),
    "SETITEMS": lambda m, _: m.add(dict, m.pop_items()),
    "GLOBAL": lambda m, name: m.push(m.find(name)),
    "STACK_GLOBAL": lambda m, _: m.push(m.find(" ".join(m.pop_two()))),
    "REDUCE": lambda m, _: m.call(m.pop(), m.pop()),
    "INST": lambda m, name: m.call(m.pop_items(), m.find(name)),
    "OBJ": lambda m, _: m.call_popped(),
    "BUILD": lambda m, _: m.build(m.pop()),
}
"""What each opcode does; an opcode that is not listed pushes its argument."""


class _Settling:
    """Last pass over the loaded value, which replaces each `PickledArray`.

    It is replaced by its NumPy array. Shared objects remain shared.
    """

    def __init__(self) -> None:
        self._done: dict[int, tuple[Any, Any]] = {}
        """Each settled value and its replacement, by the id of the value."""
        self._open: set[int] = set()
        """Ids of the containers around the current value."""

    def settle(self, value: Any) -> Any:
        """Return ``value`` with all arrays replaced by NumPy arrays.

        Lists and dicts are changed in place. Raises NotPlain for other objects.
        """
        if type(value) in LEAVES or isinstance(value, np.generic):
            return value
        if id(value) in self._done:
            return self._done[id(value)][1]
        if id(value) in self._open or len(self._open) >= _MAX_DEPTH:
            raise NotPlain(
                f"a container holds itself, or they are nested more than {_MAX_DEPTH}"
                f" deep; {ALLOWED}"
            )
        self._open.add(id(value))
        settled = value
        if isinstance(value, PickledArray):
            settled = value.settled(self._settle_all)
        elif type(value) is list:
            value[:] = self._settle_all(value)
        elif type(value) is dict:
            values = self._settle_all(value.values())
            value.update(zip(list(value), values, strict=True))
        elif type(value) is tuple:
            settled = tuple(self._settle_all(value))
        else:
            name = getattr(value, "name", type(value).__name__)
            raise NotPlain(f"it holds {name} itself, which is refused; {ALLOWED}")
        self._open.remove(id(value))
        # The value is stored, too, so that its id is not reused.
        self._done[id(value)] = (value, settled)
        return settled

    def _settle_all(self, values: Iterable[Any]) -> list[Any]:
        # a leaf needs no call, of which a large list would take many
        return [
            value if type(value) in LEAVES else self.settle(value) for value in values
        ]
