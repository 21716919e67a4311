"""Options that several commands share, and functions that check and convert their values."""

import inspect
import os
import shlex
from collections.abc import Callable, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

from typer import Argument, BadParameter, Option

from orca_ray.cli.output import note
from orca_ray.errors import UserError
from orca_ray.paths import check_special, public_uri, secrets_in, without
from orca_ray.protocol import Protocol

if TYPE_CHECKING:
    from orca_ray.results.store import ResultsStore

Options = TypeVar("Options")

JsonOption = Annotated[bool, Option("--json", help="Print one JSON document to stdout, for programs.")]
QuietOption = Annotated[bool, Option("--quiet", "-q", help="Print only errors and failed trials.")]
DeviceOption = Annotated[str, Option("--device", help="auto, cpu or cuda.")]
BenchmarkArgument = Annotated[str | None, Argument(metavar="[BENCHMARK]", help="Only tasks of this benchmark.")]
SplitsOption = Annotated[
    Protocol, Option("--protocol", help="Protocol of the splits; most tasks have the same splits for both.")
]
ResultsOption = Annotated[
    str | None,
    Option(
        "--results",
        metavar="URI",
        envvar="ORCA_RAY_RESULTS",
        help="Results store: a directory, or a URI that pyarrow.fs understands (s3://…). "
        "Default: results/, or a directory in the cache for a job submitted to Ray.",
    ),
]


_arguments: ContextVar[Sequence[str]] = ContextVar("arguments", default=())
"""Arguments of the command line that runs."""


def remember(arguments: Sequence[str]) -> None:
    """Store the arguments of the command line that runs, for `typed`."""
    _arguments.set(tuple(arguments))


def typed() -> str:
    """Return the command line that runs, without credentials in it."""
    return shlex.join(["orca-sweep", *(without(each, secrets_in(each)) for each in _arguments.get())])


def takes(kind: type[Options]) -> Callable[[Callable[[str, Options], None]], Callable[..., None]]:
    """Return a decorator that makes the fields of the keyword-only dataclass ``kind`` the options of a command.

    The decorated function takes the command's argument and an instance of ``kind``; Typer sees one parameter per field.
    """

    def decorate(command: Callable[[str, Options], None]) -> Callable[..., None]:
        argument = next(iter(inspect.signature(command).parameters.values()))

        def call(**given: Any) -> None:
            command(given.pop(argument.name), kind(**given))

        options = inspect.signature(kind).parameters.values()
        call.__signature__ = inspect.Signature([argument.replace(kind=argument.KEYWORD_ONLY), *options])  # type: ignore[attr-defined]
        call.__name__, call.__doc__ = command.__name__, command.__doc__
        return call

    return decorate


def directory_option(name: str, help: str) -> Any:
    """Return a Typer option whose value is a directory; an empty value, e.g. an unset shell variable, is an error."""
    return Option(name, metavar="DIR", parser=_directory, help=help)


def _directory(given: str) -> Path:
    if not given:
        raise BadParameter("it names no directory; give one, or leave the option out")
    try:
        check_special(Path(given), "the directory")
    except UserError as error:  # Typer drops the message of any other ValueError
        raise BadParameter(str(error)) from error
    return Path(given)


def check_file(path: Path, option: str) -> None:
    """Raise UserError if no file can be written to ``path``, the value of an option."""
    check_special(path, option)
    folder = path.absolute().parent
    if path.is_dir() or not folder.is_dir():
        what = f"{path} is a directory" if path.is_dir() else f"{folder} is no directory"
        raise UserError(f"{option} {path}: {what}; give the path of a file in an existing directory")


def split_names(option: str, values: Sequence[str] | None) -> list[str] | None:
    """Return the names in an option that may be repeated, comma-separated, or both; None if it was not given.

    Raises UserError if it was given without a name, e.g. by an unset shell variable: that must not mean "all".
    """
    if not values:
        return None
    names = [name.strip() for name in ",".join(values).split(",") if name.strip()]
    if not names:
        raise UserError(f"{option} {','.join(values)!r} names nothing: give names, or leave the option out for all")
    return names


def results_uri(given: str | None, *, announce: bool = False) -> str:
    """Return the path or URI of the results store: ``given``, or else ``results`` in the working directory.

    Ray deletes a submitted job's working directory; its default is in the cache directory, and ``announce`` prints it.
    """
    if given:
        return given
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:
        return "results"
    from orca_ray.data.cache import home

    uri = str(home() / "results")
    if announce:
        note(f"results store: {uri} (the working directory of a submitted job is temporary)")
    return uri


def existing_store(uri: str) -> "ResultsStore | None":
    """Open the store at ``uri``; return None for nothing or an empty directory. Anything else there is a UserError."""
    from orca_ray.results.folder import open_folder
    from orca_ray.results.store import ResultsStore

    folder = open_folder(uri)
    empty = folder.kind() == "missing" or (folder.kind() == "directory" and not folder.names())
    return None if empty else ResultsStore(uri)


def required_store(
    uri: str, advice: str = "run `orca-sweep benchmark NAME` first, or give --results URI"
) -> "ResultsStore":
    """Open the store at ``uri``; raises the UserError of `no_results` if `existing_store` finds none."""
    store = existing_store(uri)
    if store is None:
        raise no_results(uri, advice)
    return store


def no_results(uri: str, advice: str) -> UserError:
    """Return the error for a store that does not exist; ``advice`` says what to do."""
    return UserError(f"no results at {public_uri(uri)!r}: {advice}")


def is_path(source: str) -> bool:
    """Return whether an argument NAME|SWEEP.yaml is the path of a sweep file, and not a name."""
    return "/" in source or source.endswith((".yaml", ".yml"))
