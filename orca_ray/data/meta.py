"""What a directory of prepared data says of itself, and whether another one may take its place."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from orca_ray.data.layout import META
from orca_ray.errors import UserError


class Damaged(Exception):
    """The directory is not what its ``meta.json`` says."""


def read_meta(directory: Path) -> dict[str, Any]:
    """Return the content of ``meta.json``; raises `Damaged` where it is none."""
    path = directory / META
    try:
        meta = json.loads(path.read_text())
        if not isinstance(meta["fingerprint"], str) or not isinstance(meta["arrays"], dict):
            raise TypeError("unexpected types")
        for entry in meta["arrays"].values():
            entry["dtype"], entry["shape"], entry["bytes"], entry["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise Damaged(f"{path} is unreadable ({type(error).__name__}: {error})") from error
    return dict(meta)


def described(meta: Mapping[str, Any]) -> set[str]:
    """Return the names of the files that belong to the data."""
    return {META, *(f"{key}.npy" for key in meta["arrays"])}


def refuse_foreign(name: str, directory: Path, identity: str) -> None:
    """Raise UserError where ``directory`` holds anything but what would be written there."""
    if not directory.exists() or (directory.is_dir() and not any(directory.iterdir())):
        return
    try:
        meta = read_meta(directory)
    except Damaged:
        raise UserError(
            f"{directory} is not empty and holds no prepared data, so {name} is not written there: name a new directory"
        ) from None
    if meta.get("name") != name:
        raise UserError(f"{directory} holds the prepared data of {meta.get('name')}: name another directory for {name}")
    if meta.get("identity") != identity:
        raise UserError(
            f"{directory} holds {name} prepared from other raw files, by another version or under another protocol: "
            "name another directory, or remove that one"
        )


def refuse_replacing(name: str, directory: Path, identity: str) -> None:
    """Raise UserError where a new directory cannot take the place of ``directory``, or something would be lost."""
    refuse_foreign(name, directory, identity)
    if not directory.exists():
        return
    if directory.samefile(os.curdir):
        raise UserError(
            f"{directory} is the working directory, which cannot be replaced: name a directory in it, such as "
            f"{name.split('/')[-1]}"
        )
    if os.path.ismount(directory):
        raise UserError(f"{directory} is a mount point, which cannot be replaced: name a directory in it")
    if not any(directory.iterdir()):
        return
    if others := sorted({path.name for path in directory.iterdir()} - described(read_meta(directory))):
        raise UserError(
            f"{directory} also holds {', '.join(others[:5])}{' …' if len(others) > 5 else ''}, which would be removed "
            f"with it when {name} is prepared again: move that away, or name another directory"
        )
