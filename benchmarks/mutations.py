"""Mutations of files and folders: bits, blocks, numbers, texts, JSON, members of
archives, and whole files.
"""

import io
import json
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Drawer = np.random.Generator
_PNG = b"\x89PNG\r\n\x1a\n"
_NUMBERS = (
    0,
    1,
    -1,
    2,
    7,
    127,
    255,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**33,
    2**40,
    2**62,
    2**63 - 1,
)
_TEXTS = (
    "0",
    "-1",
    "1e308",
    "1e400",
    "NaN",
    "inf",
    "",
    "null",
    "true",
    "[]",
    "{}",
    "99999999999999999999",
    "2147483648",
    "1.5",
    "x",
    '"',
    '"""',
    ",",
    "\n",
    "\r",
    "\0",
    "\ufeff",
    "é",
    "𝄞",
    "a" * 5000,
    "1970-01-01",
    "2262-05-01T00:00:00.123456789",
    "=1+1",
    "../../x",
    "/dev/zero",
    "<f8",
    "|O",
    ">M8[ns]",
    "float8",
    "pickle",
)
_VALUES: tuple[Any, ...] = (
    None,
    True,
    0,
    -1,
    1.5,
    2**31,
    2**40,
    2**70,
    1e308,
    float("nan"),
    "",
    "x",
    "NaN",
    [],
    [[]],
    {},
    [1, "a"],
    {"id": "zlib"},
    {"a": {"b": []}},
    [0],
    [1, 1, 1],
    [2**40],
    "|O",
    "<f8",
    "<U1000000",
    ">M8[ns]",
    "float64",
    "bool",
    "../..",
    "é\ud800",
)


def mutate(folder: Path, drawer: Drawer) -> str:
    """Change a file below ``folder``, or the files, once or a few times; return the
    changes in words.
    """
    number = 1 if drawer.random() < 0.7 else int(drawer.integers(2, 5))
    return "; ".join(_change(folder, drawer) for _ in range(number))


def _change(folder: Path, drawer: Drawer) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if not files:
        return "nothing is left"
    path = files[int(drawer.integers(len(files)))]
    name = path.relative_to(folder).as_posix()
    if drawer.random() < 0.06:
        return _of_files(path, files, name, drawer)
    content = path.read_bytes()
    choices: list[Callable[[bytes, Drawer], tuple[bytes, str]]] = [
        _bits,
        _block,
        _cut,
        _integer,
        _integer,
        _number,
        _text,
        _declared,
    ]
    if content.startswith(b"PK"):
        choices += [_member] * 8
    elif b"\x89HDF" in content[:1024]:
        choices += [_tree]
    elif content.startswith(_PNG):
        choices += [_png_size]
    elif path.suffix == ".json" or path.name.startswith(".z"):
        choices += [_json] * 14
    elif path.suffix in (".csv", ".tsv", ".yaml"):
        choices += [_cells] * 4 + [_text] * 3
    changed, what = choices[int(drawer.integers(len(choices)))](content, drawer)
    path.write_bytes(changed)
    return f"{name}: {what}"


def mutate_bytes(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Return ``content`` with one change, and the change in words."""
    changes: list[Callable[[bytes, Drawer], tuple[bytes, str]]] = [
        _bits,
        _block,
        _cut,
        _integer,
        _number,
        _text,
        _declared,
    ]
    return changes[int(drawer.integers(len(changes)))](content, drawer)


def _of_files(path: Path, files: list[Path], name: str, drawer: Drawer) -> str:
    other = files[int(drawer.integers(len(files)))]
    what = (
        "swapped",
        "removed",
        "emptied",
        "renamed",
        "folder",
        "pipe",
        "link",
        "socket",
    )[int(drawer.integers(8))]
    if what == "swapped":
        one = path.read_bytes()
        two = other.read_bytes()
        path.write_bytes(two)
        other.write_bytes(one)
        return f"{name} swapped with {other.name}"
    if what == "renamed":
        new = (
            f"{path.name}.bak",
            f".{path.name}",
            os.fsdecode(b"\xff" + os.fsencode(path.suffix)),
            "n\new" + path.suffix,
        )
        path.rename(path.with_name(new[int(drawer.integers(len(new)))]))
        return f"{name} renamed"
    path.unlink()
    if what == "emptied":
        path.touch()
    elif what == "folder":
        path.mkdir()
    elif what == "pipe":
        os.mkfifo(path)
    elif what == "link":
        targets = ("/dev/zero", "/dev/null", path.name, "nowhere", str(other), "..")
        path.symlink_to(targets[int(drawer.integers(len(targets)))])
    elif what == "socket":
        os.mknod(path, 0o140644)
    return f"{name}: {what}"


def _place(content: bytes, drawer: Drawer) -> int:
    """Return a position; half of them are in the first or last 200 bytes, where headers
    are.
    """
    size = len(content)
    draw = drawer.random()
    if draw < 0.4:
        return int(drawer.integers(min(size, 200) + 1))
    return (
        size - int(drawer.integers(min(size, 200) + 1))
        if draw < 0.5
        else int(drawer.integers(size + 1))
    )


def _bits(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    changed = bytearray(content)
    places = []
    for _ in range(int(drawer.integers(1, 5)) if content else 0):
        place = min(_place(content, drawer), len(content) - 1)
        changed[place] ^= 1 << int(drawer.integers(8))
        places.append(place)
    return bytes(changed), f"bits in bytes {places}"


def _block(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    start = _place(content, drawer)
    size = int(2 ** drawer.uniform(0, 9))
    block = content[start : start + size]
    target = _place(content, drawer)
    what = ("deleted", "duplicated", "moved", "zeroed", "filled", "random", "inserted")[
        int(drawer.integers(7))
    ]
    rest = content[:start] + content[start + size :]
    noise = drawer.bytes(size)
    changed = {
        "deleted": rest,
        "duplicated": content[:target] + block + content[target:],
        "moved": rest[:target] + block + rest[target:],
        "zeroed": content[:start] + bytes(len(block)) + content[start + size :],
        "filled": content[:start] + b"\xff" * len(block) + content[start + size :],
        "random": content[:start] + noise[: len(block)] + content[start + size :],
        "inserted": content[:start] + noise + content[start:],
    }
    return changed[what], f"{size} bytes at {start} {what}"


def _cut(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    place = _place(content, drawer)
    return (
        (content[:place], f"cut at {place}")
        if drawer.random() < 0.8
        else (content[place:], f"begins at {place}")
    )


def _integer(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    width = int(drawer.choice([1, 2, 4, 8]))
    order = str(drawer.choice(["<", ">"]))
    place = _place(content, drawer)
    value = _NUMBERS[int(drawer.integers(len(_NUMBERS)))]
    if drawer.random() < 0.5:
        place -= place % width
    packed = struct.pack("<q" if order == "<" else ">q", value)
    packed = packed[:width] if order == "<" else packed[-width:]
    return (
        content[:place] + packed + content[place + width :],
        f"{value} of {width} bytes at {place}",
    )


def _declared(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Replace a small number wherever it occurs, as a size that is declared twice."""
    width = int(drawer.choice([2, 4, 8]))
    order = str(drawer.choice(["<", ">"]))
    end = len(content) - len(content) % width
    words = np.frombuffer(content[:end], f"{order}i{width}").copy()
    sizes = np.unique(words[(words > 1) & (words < 1000)])
    if not len(sizes):
        return _integer(content, drawer)
    size = int(drawer.choice(sizes))
    value = _NUMBERS[int(drawer.integers(len(_NUMBERS)))] % 2 ** (8 * width - 1)
    words[words == size] = value
    return (
        words.tobytes() + content[end:],
        f"each {size} of {width} bytes becomes {value}",
    )


def _png_size(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Let a PNG declare another width or height, with the right checksum."""
    value = _NUMBERS[int(drawer.integers(len(_NUMBERS)))] % 2**31
    place = 16 + 4 * int(drawer.integers(2))
    changed = bytearray(content)
    changed[place : place + 4] = struct.pack(">I", value)
    # The checksum of the first block is that of its name and its 13 bytes.
    changed[29:33] = struct.pack(">I", zlib.crc32(changed[12:29]))
    return bytes(changed), f"side at {place} of {value} pixels"


def _tree(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Let an address in a tree node of an HDF5 file be that of a node, also its own.

    Version 1 nodes have level, number of children and two siblings before their keys
    and children, which have 8 bytes each or a multiple of that.
    """
    nodes = [match.start() for match in re.finditer(b"TREE", content)]
    if not nodes:
        return _integer(content, drawer)
    node = nodes[int(drawer.integers(len(nodes)))]
    target = nodes[int(drawer.integers(len(nodes)))]
    # A user block before the file's content is not counted in addresses.
    address = target - content.find(b"\x89HDF")
    place = node + 8 * int(drawer.integers(1, 12))
    changed = bytearray(content)
    level = int(drawer.integers(2))
    changed[node + 5] = level
    changed[place : place + 8] = struct.pack("<q", address)
    return (
        bytes(changed),
        f"node at {node} of level {level} has the address {address} at {place}",
    )


def _number(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Replace a number that is written in digits; a header of NumPy's keeps its length
    by its blanks, if it can.
    """
    found = list(re.finditer(rb"\d+", content[:20_000]))
    if not found:
        return _bits(content, drawer)
    match = found[int(drawer.integers(len(found)))]
    choices = [str(value) for value in _NUMBERS] + [
        "1e9",
        "10**9",
        "0x10",
        "9" * 30,
        "",
    ]
    value = choices[int(drawer.integers(len(choices)))].encode()
    after = content[match.end() :]
    surplus = len(value) - len(match[0])
    if content.startswith(b"\x93NUMPY") and surplus:
        header = after[:100]
        rest = after[100:]
        blanks = b" " * 60
        after = (
            header.replace(b" " * max(surplus, 0), b"", 1) + rest
            if surplus > 0
            else header.replace(blanks, blanks + b" " * -surplus, 1) + rest
        )
    return (
        content[: match.start()] + value + after,
        f"{match[0]!r} at {match.start()} becomes {value!r}",
    )


def _text(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    draw = drawer.random()
    if draw < 0.15:
        encoding = str(
            drawer.choice(["utf-16", "utf-16-le", "latin1", "utf-32", "utf-8-sig"])
        )
        return content.decode("latin1").encode(encoding), f"in {encoding}"
    value = _TEXTS[int(drawer.integers(len(_TEXTS)))].encode()
    words = list(re.finditer(rb"[\w.]+", content[:20_000]))
    if not words or draw < 0.4:
        place = _place(content, drawer)
        return content[:place] + value + content[place:], f"{value[:20]!r} at {place}"
    match = words[int(drawer.integers(len(words)))]
    return (
        content[: match.start()] + value + content[match.end() :],
        f"{match[0][:20]!r} becomes {value[:20]!r}",
    )


def _json(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Replace, remove or nest a value of a JSON document."""
    try:
        document = json.loads(content)
    except ValueError:
        return _text(content, drawer)
    places: list[tuple[Any, Any]] = []
    waiting = [document]
    while waiting:
        each = waiting.pop()
        keys = (
            list(each)
            if isinstance(each, dict)
            else range(len(each))
            if isinstance(each, list)
            else ()
        )
        places += [(each, key) for key in keys]
        waiting += [each[key] for key in keys]
    value = _VALUES[int(drawer.integers(len(_VALUES)))]
    if not places or drawer.random() < 0.03:
        return json.dumps(value).encode(), f"all becomes {value!r}"
    holder, key = places[int(drawer.integers(len(places)))]
    draw = drawer.random()
    if draw < 0.15:
        del holder[key]
        return json.dumps(document).encode(), f"without {key!r}"
    if draw < 0.25 and isinstance(holder[key], int | float):
        holder[key] = value = holder[key] * 2 + int(drawer.integers(3))
    elif draw < 0.3:
        for _ in range(400):
            value = [value]
        holder[key] = value
        return json.dumps(document).encode(), f"{key!r} is deep"
    else:
        holder[key] = value
    return json.dumps(document).encode(), f"{key!r} becomes {value!r}"


def _cells(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Change a cell, a column or a line of a table of text."""
    lines = content.decode("latin1").split("\n")
    separator = max(",;\t:", key=lines[0].count)
    row = 0 if drawer.random() < 0.3 else int(drawer.integers(len(lines)))
    cells = lines[row].split(separator)
    place = int(drawer.integers(len(cells)))
    draw = drawer.random()
    value = _TEXTS[int(drawer.integers(len(_TEXTS)))].encode().decode("latin1")
    if draw < 0.4:
        cells[place] = value
    elif draw < 0.5:
        del cells[place]
    elif draw < 0.6:
        cells.append(cells[place])
    if draw < 0.6:
        lines[row] = separator.join(cells)
        return (
            "\n".join(lines).encode("latin1"),
            f"line {row + 1}, cell {place + 1}: {value[:20]!r}",
        )
    if draw < 0.8:
        changed = [line.split(separator) for line in lines]
        for each in changed[1:]:
            each[min(place, len(each) - 1)] = value
        return (
            "\n".join(separator.join(each) for each in changed).encode("latin1"),
            f"column {place + 1} is {value[:20]!r}",
        )
    if draw < 0.9:
        return (
            "\n".join([*lines[:row], *lines[row + 1 :]]).encode("latin1"),
            f"without line {row + 1}",
        )
    return (
        "\n".join([*lines, *lines[row:]]).encode("latin1"),
        f"lines from {row + 1} twice",
    )


def _member(content: bytes, drawer: Drawer) -> tuple[bytes, str]:
    """Change a member of a zip archive, whose checksum is then right; or swap, rename,
    double or remove members.
    """
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [
                (info.filename, archive.read(info), info.compress_type)
                for info in archive.infolist()
            ]
    except Exception:  # mutated before
        return _bits(content, drawer)
    if not members:
        return _bits(content, drawer)
    place, other = (int(drawer.integers(len(members))) for _ in range(2))
    name, inner, packing = members[place]
    draw = drawer.random()
    if draw < 0.7:
        change = (_bits, _block, _cut, _integer, _number, _number, _text)[
            int(drawer.integers(7))
        ]
        inner, what = change(inner, drawer)
        members[place] = (name, inner, packing)
    elif draw < 0.78:
        members[place] = (name, members[other][1], packing)
        what = f"is {members[other][0]}"
    elif draw < 0.86:
        members.append((name, members[other][1], packing))
        what = "is there twice"
    elif draw < 0.93:
        text = _TEXTS[int(drawer.integers(len(_TEXTS)))].replace("\0", "0")
        members[place] = (f"{text}.npy", inner, packing)
        what = "renamed"
    else:
        del members[place]
        what = "removed"
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for each, data, kind in members:
            archive.writestr(zipfile.ZipInfo(each), data, compress_type=kind)
    return stream.getvalue(), f"member {name} {what}"
