"""The exception and the warning for what a user can correct, and helpers that word
their messages.
"""

import difflib
import re
from collections.abc import Iterable, Mapping
from typing import TypeVar

_Value = TypeVar("_Value")

UNUSABLE: dict[str, Mapping[str, str]] = {}
"""Why plug-ins cannot be used, by kind (such as "task") and name; `orca_ray.discovery`
fills it.
"""


class UserError(ValueError):
    """Error for bad input, configuration or data.

    The message says what was given, what is allowed and what to do. The command line
    prints the message and exits with code 2. A trial that raises it ends with status
    ``failed_user``.
    """


class DataWarning(UserWarning):
    """Warning about user data that can be trained on all the same, such as equal
    samples in different splits.
    """


class ClusterLostError(RuntimeError):
    """Error: the Ray cluster of a running sweep is lost.

    The command exits with code 75; the same command continues.
    """


def quoted(value: object, limit: int = 200) -> str:
    """Return the ``repr`` of a value from a file; beyond ``limit`` characters, its
    middle is replaced by "…".
    """
    try:
        text = repr(value)
    except (ValueError, RecursionError):  # Python prints integers of up to 4300 digits
        text = f"a value of type {type(value).__name__} that is too long to print"
    return (
        text if len(text) <= limit else f"{text[: limit // 2]}…{text[-(limit // 2) :]}"
    )


_USER = re.compile(r"(:/{1,3})(?:[^/\s]+@|[^/\s:@]+:(?!\d+(?:[/?\s]|$))[^\s@]+@)")
_SECRET = re.compile(
    r"(?i)([?&;#][\w.-]*(?:key|secret|token|password|passwd|pwd|auth|credential|signature|sig)=)[^&;\s]+"
)


def _without_credentials(text: str) -> str:
    return _SECRET.sub(r"\1***", _USER.sub(r"\1***@", text))


def printable(text: str, *, keep: str = "") -> str:
    """Replace unprintable characters, such as ESC, line breaks and lone surrogates, by escapes such as ``\\x1b``.

    Characters in ``keep`` stay. Apply it to names from files, stores and arguments before they are printed, because a
    terminal executes the control sequences in them. Credentials in URIs become ``***``: everything that is printed or
    logged passes here, whatever a user has given where no URI was expected.
    """
    text = _without_credentials(text)
    if text.isprintable():
        return text
    return "".join(
        (
            char
            if char in keep or char.isprintable()
            else char.encode("unicode_escape").decode()
        )
        for char in text
    )


_FORMULA = re.compile(r"[=+\-@]")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")


def csv_cell(value: object) -> object:
    """Return a cell of a CSV file for people: text is `printable`, and no spreadsheet
    takes it for a formula.

    Text that begins with ``=``, ``+``, ``-`` or ``@`` gets an apostrophe in front,
    unless it is a number.
    """
    if not isinstance(value, str):
        return value
    text = printable(value)
    return f"'{text}" if _FORMULA.match(text) and not _NUMBER.fullmatch(text) else text


def shorten(value: object, limit: int = 200) -> str:
    """Return ``value`` as text without credentials; longer text ends with "…" after
    ``limit`` characters.
    """
    text = _without_credentials(str(value))
    return text if len(text) <= limit else f"{text[:limit]}…"


def nearest(given: str, allowed: Iterable[str]) -> str | None:
    """Return the name in ``allowed`` that is most similar to ``given``, or None if none
    is similar.
    """
    names = list(allowed)
    exact = [name for name in names if name.lower() == given.lower()]
    matches = exact or difflib.get_close_matches(given[:200], names, n=1, cutoff=0.5)
    return matches[0] if matches else None


MOST_NAMES = 100
"""Largest number of names that an error message lists, if they have groups."""


def unknown_name(
    kind: str, given: str, allowed: Iterable[str], hint: str = ""
) -> UserError:
    """Return the error for an unknown name of a ``kind``, e.g. "task"; it suggests the
    nearest name and lists all.

    Of more than `MOST_NAMES` names GROUP/NAME, those in the group of the nearest name
    are listed, or the groups. If a plug-in of this name cannot be used, the error says
    why. Else it names the plug-ins that cannot be used, since one of them may declare
    the name.
    """
    if given in (unusable := UNUSABLE.get(kind, {})):
        return UserError(unusable[given])
    names = sorted(allowed)
    close = nearest(given, names)
    question = f" Did you mean {close!r}?" if close else ""
    if len(names) > MOST_NAMES and "/" in names[0]:
        alike = [each for each in names if close and _group(each) == _group(close)]
        rest = (
            [f"and {len(names) - len(alike)} more"]
            if alike
            else sorted({f"{_group(each)}/..." for each in names})
        )
        names = [*alike, *rest]
    tail = "".join(
        f" {each}"
        for each in (hint, *(f"Left out: {why}." for why in unusable.values()))
        if each
    )
    return UserError(
        f"unknown {kind} {quoted(given)}.{question} Allowed:"
        f" {', '.join(map(printable, names))}.{tail}"
    )


def _group(name: str) -> str:
    return name.partition("/")[0]


def lookup(kind: str, name: str, known: Mapping[str, _Value]) -> _Value:
    """Return ``known[name]``; raises the UserError of `unknown_name` if there is no
    such name.
    """
    if name not in known:
        raise unknown_name(kind, name, known)
    return known[name]


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
"""Packages that only the extras install: names of modules, and names of distributions
for `importlib.metadata`.
"""


def missing_package(error: BaseException, extra: str) -> str:
    """Return a hint to install ``extra`` if ``error`` says that one of `HEAVY_PACKAGES`
    is missing; else "".
    """
    package = ((isinstance(error, ModuleNotFoundError) and error.name) or "").partition(
        "."
    )[0]
    if package not in HEAVY_PACKAGES:
        return ""
    return (
        f"needs the package {package!r}, which is not installed: pip install"
        f" 'orca-ray[{extra}]'"
    )
