"""Errors that a user can act on, and the wording they share."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, configuration or data: says what was given, what is allowed and what to do.

    The command line prints the message alone and exits with code 2; a trial that raises it ends as ``failed_user``.
    """


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the allowed name closest to ``given``, or None when nothing is close."""
    names = list(allowed)
    exact = [name for name in names if name.lower() == given.lower()]
    matches = exact or difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, given: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """Build the error for a misspelt name: the nearest one first, then all that are allowed."""
    names = sorted(allowed)
    close = nearest(given, names)
    question = f" Did you mean {close!r}?" if close else ""
    tail = f" {hint}" if hint else ""
    return UserError(f"unknown {kind} {given!r}.{question} Allowed: {', '.join(names)}.{tail}")
