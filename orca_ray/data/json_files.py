"""JSON objects from files that others wrote."""

import json
from pathlib import Path
from typing import Any

from orca_ray.data import cache
from orca_ray.errors import UserError

MOST_BYTES = 2**22


def read_json(path: Path) -> dict[str, Any]:
    """Return the JSON object of a regular file; raises UserError for other content, or more than 4 MiB of it."""
    with cache.open_file(path) as stream, cache.read_errors(path):
        content = stream.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UserError(f"{path}: expected JSON of at most {MOST_BYTES:,} bytes, found more")
    try:
        value = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: expected JSON, found something else ({str(error)[:200]})") from error
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found a {type(value).__name__}")
    return value
