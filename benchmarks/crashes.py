"""Lets a change of a results store fail at each of its points, as if the machine had
stopped there.
"""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from orca_ray.results.store import ResultsStore
from tests.results.factories import make_point, make_record


class Crash(BaseException):
    """The power goes: nothing that follows is carried out, clean-up included."""


def after_crashes(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    action: Callable[[ResultsStore], object],
) -> Iterator[tuple[ResultsStore, list[str]]]:
    """Yield a store of three trials and the changes made, for a crash at each point of
    ``action``, at last for none.
    """
    template = ResultsStore(tmp_path / "template", create=True)
    for key in "abc":
        template.append([make_record(key)], [make_point(key)])
    for limit in range(100):
        store = ResultsStore(shutil.copytree(template.uri, tmp_path / str(limit)))
        with monkeypatch.context() as patch, suppress(Crash):
            done = _arm(patch, limit)
            action(store)
        yield ResultsStore(store.uri), done
        if len(done) < limit:
            return


def _arm(patch: pytest.MonkeyPatch, limit: int) -> list[str]:
    """Let the changes of the file system after the first ``limit`` ones fail, as if the
    machine had stopped.
    """
    done: list[str] = []

    def step(
        name: str, original: Callable[..., object], *arguments: Any, **options: Any
    ) -> object:
        if len(done) >= limit:
            raise Crash
        done.append(name)
        return original(*arguments, **options)

    for name in ("fsync", "replace", "unlink"):
        patch.setattr(os, name, partial(step, name, getattr(os, name)))
    return done
