"""The exception for mistakes that a user can correct, and helpers that word its messages."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input, configuration or data. The message says what was given, what is allowed and what to do.

    The command line prints the message and exits with code 2. A trial that raises it ends with status ``failed_user``.
    """


def printable(text: str, *, keep: str = "") -> str:
    """Replace unprintable characters, such as ESC, line breaks and lone surrogates, by escapes such as ``\\x1b``.

    Characters in ``keep`` stay. Apply it to names from files, stores and arguments before they are printed, because a
    terminal executes the control sequences in them.
    """
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or char.isprintable() else char.encode("unicode_escape").decode() for char in text
    )


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the name in ``allowed`` that is most similar to ``given``, or None if none is similar."""
    names = list(allowed)
    exact = [name for name in names if name.lower() == given.lower()]
    matches = exact or difflib.get_close_matches(given, names, n=1, cutoff=0.5)
    return matches[0] if matches else None


def unknown_name(kind: str, given: str, allowed: Iterable[str], hint: str = "") -> UserError:
    """Return the error for an unknown ``kind`` of name, e.g. "task"; it suggests the most similar and lists all."""
    names = sorted(allowed)
    close = nearest(given, names)
    question = f" Did you mean {close!r}?" if close else ""
    tail = f" {hint}" if hint else ""
    return UserError(f"unknown {kind} {given!r}.{question} Allowed: {', '.join(map(printable, names))}.{tail}")
