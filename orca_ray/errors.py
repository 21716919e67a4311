"""Errors that a user can correct, and helpers that word their messages."""

import difflib
import re
from collections.abc import Collection, Iterable, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")

UNUSABLE: dict[str, Mapping[str, str]] = {}
"""Why plug-ins cannot be used, by kind (such as "task") and name.

`orca_ray.discovery` fills it.
"""


class UserError(ValueError):
    """Error for bad input, configuration or data.

    The message says what was given, what is allowed and what to do. The command line
    prints the message and exits with code 2. A trial that raises it ends with status
    ``failed_user``.
    """


class DataWarning(UserWarning):
    """Warning about data that can be trained on all the same, e.g. repeated samples."""


class NewerStoreError(UserError):
    """Error: a results store was written by a newer orca-ray."""


class LostLeaseError(UserError):
    """Error: a driver has lost the right to run its sweep, e.g. to another driver."""


class BusyStoreError(UserError):
    """Error: a results store did not answer in all attempts, and may answer later.

    The command exits with code 75; the same command may succeed.
    """


class RayStartError(UserError):
    """Error: Ray cannot start on this machine."""


class ClusterLostError(RuntimeError):
    """Error: the Ray cluster of a running sweep is lost.

    The command exits with code 75; the same command continues.
    """


def quoted(value: object, limit: int = 200) -> str:
    """Return the ``repr`` of a value from a file, with at most ``limit`` characters.

    The middle of a longer text is replaced by "…".
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints integers of up to 4300 digits
        text = f"a value of type {type(value).__name__} that is too long to print"
    if len(text) <= limit:
        return text
    half = limit // 2
    return f"{text[:half]}…{text[-half:]}"


_USER = re.compile(r"(:/{1,3})(?:[^/\s]+@|[^/\s:@]+:(?!\d+(?:[/?\s]|$))[^\s@]+@)")
"""User name and password in a URI, ``user:password@``."""
_SECRET = re.compile(
    r"(?i)([?&;#][\w.-]*"
    r"(?:key|secret|token|password|passwd|pwd|auth|credential|signature|sig)=)[^&;\s]+"
)
"""Secret query parameter of a URI, e.g. ``?access_key=...``."""


_NETLOC = re.compile(r"(netloc ['\"])\S*@")
"""User name and password in an error of `urllib.parse.urlsplit`."""


def _without_credentials(text: str) -> str:
    text = _NETLOC.sub(r"\1***@", text)
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def _escaped(char: str) -> str:
    return char.encode("unicode_escape").decode()


def printable(text: str, *, keep: str = "") -> str:
    """Replace unprintable characters by escapes such as ``\\x1b``.

    Unprintable are, for example, ESC, line breaks and lone surrogates. Characters in
    ``keep`` stay. Apply this function to names from files, stores and arguments before
    they are printed, because a terminal executes the control sequences in them.
    Credentials in URIs become ``***``: everything that is printed or logged passes
    here, whatever a user has given where no URI was expected.
    """
    text = _without_credentials(text)
    if text.isprintable():
        return text
    return "".join(
        char if char in keep or char.isprintable() else _escaped(char) for char in text
    )


_FORMULA = re.compile(r"[=+\-@]")
"""First character of a text that a spreadsheet takes for a formula."""
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
"""Decimal number, which no spreadsheet takes for a formula in spite of its sign."""


def csv_cell(value: object) -> object:
    """Return a cell of a CSV file for people, which no spreadsheet takes for a formula.

    Text is `printable`. Text that begins with ``=``, ``+``, ``-`` or ``@`` gets an
    apostrophe in front, unless it is a number.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    if _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def shorten(value: object, limit: int = 200) -> str:
    """Return ``value`` as text without credentials, cut after ``limit`` characters.

    A text that was cut ends with "…".
    """
    text = _without_credentials(str(value))
    return text if len(text) <= limit else f"{text[:limit]}…"


_GROUP = re.compile(r"[^/.]+[/.]")
"""Group at the start of a name GROUP/NAME or GROUP.NAME, with the separator."""
_LEAST_SIMILARITY = 0.65
"""Least ratio of `difflib` from which on two names are similar.

Names of three letters with one other letter have 0.67, quite unlike ones up to 0.6.
"""


def nearest(name: str, allowed: Iterable[str]) -> str | None:
    """Return the most similar name in ``allowed``, or None if none is similar.

    A name without a group is also compared with NAME of a GROUP/NAME or GROUP.NAME.
    """
    candidates = list(allowed)
    for candidate in candidates:
        if candidate.lower() == name.lower():
            return candidate
    compared = {candidate: candidate for candidate in candidates}
    if not _GROUP.match(name):
        without_group = {_GROUP.sub("", whole, count=1): whole for whole in candidates}
        compared = without_group | compared
    matches = difflib.get_close_matches(
        name[:200], compared, n=1, cutoff=_LEAST_SIMILARITY
    )
    return compared[matches[0]] if matches else None


def counted(number: int, noun: str) -> str:
    """Return a number with a noun, which gets an s unless the number is 1."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


MOST_NAMES = 100
"""Largest number of names that an error message lists in full."""
LISTED_NAMES = 10
"""Number of names that a message lists of more names, if they have no groups."""


def unknown_name(
    kind: str, name: str, allowed: Iterable[str], hint: str = ""
) -> UserError:
    """Return the error for an unknown name of a ``kind``, e.g. "task".

    The error suggests the nearest name and lists all names. If there are more than
    `MOST_NAMES`, it lists the groups of ``name`` and of the nearest name in full, and
    every other group as GROUP/* or GROUP.*; names without groups are the first
    `LISTED_NAMES` and the number of the others. If a plug-in of this name cannot be
    used, the error says why. Otherwise it lists the plug-ins that cannot be used, since
    one of them may declare the name.
    """
    unusable = UNUSABLE.get(kind, {})
    if name in unusable:
        return UserError(unusable[name])
    names = sorted(allowed)
    nearest_name = nearest(name, names)
    question = f" Did you mean {nearest_name!r}?" if nearest_name else ""
    choices = _list_names(names, {_group(name), _group(nearest_name or "")})
    message = f"unknown {kind} {quoted(name)}.{question} Allowed: {choices}."
    if hint:
        message += f" {hint}"
    for reason in unusable.values():
        message += f" Left out: {reason}."
    return UserError(message)


def _list_names(names: list[str], groups: Collection[str]) -> str:
    """Return ``names`` as a list in words; many names are shortened to ``groups``."""
    number_left_out = 0
    if len(names) > MOST_NAMES and any(map(_group, names)):
        names = _without_other_groups(names, groups)
    elif len(names) > MOST_NAMES:
        number_left_out = len(names) - LISTED_NAMES
        names = names[:LISTED_NAMES]
    listed = ", ".join(map(printable, names))
    return f"{listed} and {number_left_out} others" if number_left_out else listed


def _without_other_groups(names: list[str], groups: Collection[str]) -> list[str]:
    """Return ``names``, with one entry GROUP/* or GROUP.* for each other group.

    Names in ``groups`` and names without a group are returned as they are.
    """
    entries = []
    for name in names:
        group = _group(name)
        is_listed = not group or group in groups
        entries.append(name if is_listed else f"{group}*")
    return list(dict.fromkeys(entries))


def _group(name: str) -> str:
    match = _GROUP.match(name)
    return match[0] if match else ""


def lookup(kind: str, name: str, objects: Mapping[str, _Value]) -> _Value:
    """Return ``objects[name]``; raises the error of `unknown_name` for another name."""
    if name not in objects:
        raise unknown_name(kind, name, objects)
    return objects[name]


HEAVY_PACKAGES = {
    "PIL",
    "arff",
    "filelock",
    "h5py",
    "huggingface_hub",
    "obstore",
    "onnx",
    "optuna",
    "ot",
    "peft",
    "pot",
    "psutil",
    "ray",
    "requests",
    "safetensors",
    "sklearn",
    "threadpoolctl",
    "timm",
    "torch",
    "torchvision",
    "transformers",
    "urllib3",
}
"""Packages that only the extras install.

They are named as modules and as distributions, for `importlib.metadata`.
"""


def missing_package(error: BaseException, extra: str) -> str:
    """Return a hint to install ``extra`` if one of `HEAVY_PACKAGES` is missing.

    Returns "" for any other error.
    """
    if not isinstance(error, ModuleNotFoundError) or error.name is None:
        return ""
    package = error.name.partition(".")[0]
    if package not in HEAVY_PACKAGES:
        return ""
    return (
        f"needs the package {package!r}, which is not installed: pip install"
        f" 'orca-ray[{extra}]'"
    )
