"""The pictures of trials that a page holds, as far as there is room."""

import contextlib
import json
from collections.abc import Mapping
from typing import Any

import pandas as pd

from orca_ray.leaderboard.board import Board
from orca_ray.results.artefacts import parse_payload

MAX_PICTURE_CHARACTERS = 1_000_000
"""Largest size of all artefacts of a page together, as JSON."""


def chosen_pictures(board: Board, artefacts: pd.DataFrame) -> dict[str, list[Mapping[str, Any]]]:
    """Return the artefacts that a page shows by trial key: those of each cell's first seed, as far as there is room.

    Room goes to the first artefact of each cell, then to the second of each, and so on. ``artefacts`` are those of the
    store, as `ResultsStore.artefacts` returns them; an artefact with an invalid payload is left out.
    """
    payloads = {str(key): group["payload"].tolist() for key, group in artefacts.groupby("trial_key", sort=True)}
    keys = [key for key in picture_keys(board) if key in payloads]
    room = MAX_PICTURE_CHARACTERS
    found: dict[str, list[Mapping[str, Any]]] = {}
    for place in range(max((len(payloads[key]) for key in keys), default=0)):
        for key in keys:
            for payload in payloads[key][place : place + 1]:
                if len(payload) <= room:
                    with contextlib.suppress(ValueError):
                        picture = parse_payload(payload)
                        json.dumps(picture, allow_nan=False)  # a page holds no NaN
                        found.setdefault(key, []).append(picture)
                        room -= len(payload)
    return found


def picture_keys(board: Board) -> list[str]:
    """Return the key of the scored trial with the lowest seed of each cell; a page shows their artefacts."""
    return [next(iter(cell.trial_keys.values())) for cell in board.cells.values() if cell.trial_keys]
