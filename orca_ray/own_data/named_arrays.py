"""Choose inputs and targets among the named arrays of a file."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import cast

import numpy as np

from orca_ray.data import cache
from orca_ray.data.rows import Array, JoinedRows
from orca_ray.errors import UserError, printable, unknown_name
from orca_ray.own_data.user_data import Inputs, Options, UserData

INPUT_NAMES = ("x", "inputs", "input", "data", "features", "images", "series", "signals")
TARGET_NAMES = ("y", "target", "targets", "label", "labels", "class", "classes", "output", "outputs")
_SPLITS = {"train": "train", "val": "validation", "valid": "validation", "validation": "validation", "test": "test"}
_PART = re.compile(rf"^(?:(?P<before>{'|'.join(_SPLITS)})_)?(?P<name>.+?)(?:_(?P<after>{'|'.join(_SPLITS)}))?$", re.I)
_NUMBERS, _TARGETS = "biuf", "biufUS"

Shapes = Mapping[str, tuple[int, ...]]
Read = Callable[[str], Inputs]


def choose(source: str, shapes: Shapes, read: Read, options: Options, labelled: bool) -> UserData:
    """Return the samples of a file with named arrays; ``read`` returns the array of a name.

    Without options, inputs and targets are found by their usual names (`INPUT_NAMES`, `TARGET_NAMES`), or the inputs
    are the only array besides the targets. Arrays named x_train, x_test and so on become samples with declared splits.
    """
    parts = _parts(shapes)
    if parts:
        return _joined(source, shapes, parts, read, options)
    x_name = _key(source, shapes, options.inputs, INPUT_NAMES, "inputs")
    y_name = _key(source, shapes, options.target, TARGET_NAMES, "target")
    given = {"group": options.group, "time": options.time, "split": options.split}
    extra = [_key(source, shapes, (name,) if name else (), (), what) for what, name in given.items()]
    left = [name for name in shapes if shapes[name] and name not in (x_name, y_name, *extra)]
    if x_name is None and len(left) > 1:
        num = shapes[y_name][:1] if y_name else None
        left = [name for name in left if num in (None, shapes[name][:1])]
    if x_name is None and len(left) == 1:
        x_name = left.pop()
    if x_name is None:
        raise UserError(f"{source}: which array are the inputs? It has {_listed(shapes)}; name one with 'inputs'")
    if y_name is None and labelled:
        raise UserError(f"{source}: which array is the target? It has {_listed(shapes)}; name one with --target")
    groups, times, splits = (None if name is None else _flat(source, name, read(name)) for name in extra)
    return UserData(
        x=numeric(source, x_name, read(x_name)),
        y=target(source, y_name, read(y_name)) if y_name else None,
        source=source,
        target_names=(y_name,) if y_name else (),
        groups=groups,
        times=times,
        splits=splits,
        notes=(f"not used: {', '.join(map(printable, left))}",) if left and labelled else (),
    )


def numeric(source: str, name: str, x: Inputs) -> Inputs:
    """Return the inputs ``x``; raises UserError if they are no numbers, or a single number."""
    kind, shape = getattr(x, "dtype", np.dtype("f4")).kind, getattr(x, "shape", (1,))
    if kind not in _NUMBERS or not shape:
        raise UserError(
            f"{source}, {printable(name)}: expected inputs [N, ...] of real numbers, found {kind!r} {shape}"
        )
    if not len(x):
        raise UserError(f"{source}, {printable(name)}: expected samples, found none")
    return x


def target(source: str, name: str, y: Inputs) -> Array:
    """Return the targets as an array, in memory unless memory-mapped; bytes become text."""
    cache.check_memory(float(np.prod(getattr(y, "shape", (1,)))) * 8, f"{source}, {name}", "give a smaller target")
    array = y if isinstance(y, np.ndarray) else np.asarray(cast(Array, y)[:])
    if array.dtype.kind == "S":
        array = np.char.decode(array, "utf-8", "replace")
    if array.dtype.kind not in _TARGETS or not array.ndim:
        raise UserError(f"{source}, {printable(name)}: expected targets as numbers or text, found {array.dtype}")
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _flat(source: str, name: str, values: Inputs) -> Array:
    array = target(source, name, values)
    if array.ndim != 1:
        raise UserError(f"{source}, {printable(name)}: expected one value a sample, found shape {list(array.shape)}")
    return array


def _key(source: str, shapes: Shapes, given: Sequence[str], usual: Sequence[str], what: str) -> str | None:
    if len(given) > 1:
        raise UserError(f"{source}: expected one array for {what}, got {', '.join(given)}")
    if given:
        if given[0] not in shapes:
            raise UserError(f"{source}: {unknown_name(f'{what} array', given[0], shapes)}")
        return given[0]
    return next((name for want in usual for name in shapes if name.lower() == want), None)


def _listed(shapes: Shapes) -> str:
    return ", ".join(f"{printable(name)} {list(shape)}" for name, shape in list(shapes.items())[:20]) or "none"


def _parts(shapes: Shapes) -> dict[str, dict[str, str]]:
    """Return the names of inputs ("x") and targets ("y") by split, if arrays are named x_train, y_train and so on."""
    found: dict[str, dict[str, str]] = {}
    for name in shapes:
        match = _PART.match(name)
        assert match is not None
        part = _SPLITS.get((match["before"] or match["after"] or "").lower())
        base = match["name"].lower()
        axis = "x" if base in INPUT_NAMES else "y" if base in TARGET_NAMES else ""
        if part and axis:
            found.setdefault(part, {})[axis] = name
    return found if {"train", "test"} <= found.keys() and all(len(each) == 2 for each in found.values()) else {}


def _joined(
    source: str, shapes: Shapes, parts: Mapping[str, Mapping[str, str]], read: Read, options: Options
) -> UserData:
    if options.target or options.inputs:
        raise UserError(f"{source}: has arrays by split ({_listed(shapes)}); leave out --target and 'inputs'")
    names = list(parts)
    xs = [cast(Array, numeric(source, parts[part]["x"], read(parts[part]["x"]))) for part in names]
    ys = [target(source, parts[part]["y"], read(parts[part]["y"])) for part in names]
    for part, x, y in zip(names, xs, ys, strict=True):
        if len(x) != len(y):
            raise UserError(f"{source}: {parts[part]['x']} has {len(x)} samples and {parts[part]['y']} {len(y)}")
        if x.shape[1:] != xs[0].shape[1:] or y.shape[1:] != ys[0].shape[1:]:
            raise UserError(f"{source}: the arrays of {names[0]} and {part} have different shapes: {_listed(shapes)}")
    x = xs[0]
    for each in xs[1:]:
        x = cast(Array, JoinedRows(x, each.astype(x.dtype) if each.dtype != x.dtype else each))
    splits = np.repeat(names, [len(each) for each in ys])
    return UserData(x=x, y=np.concatenate(ys), source=source, splits=splits, target_names=(parts["train"]["y"],))
