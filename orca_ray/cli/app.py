"""The commands of ``orca-sweep``, and one message and exit code for every error.

Exit codes: 0 done; 1 some trials failed, scores differ (``reproduce``) or files are out
of date (``leaderboard --check``); 2 bad input; 70 an internal error; 75 the cluster is
lost or a results store busy; 130 interrupted. Nothing heavy is imported: ``orca-sweep
--help`` needs neither torch, ray, transformers nor pandas.
"""

import errno
import logging
import os
import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from orca_ray.cli import (
    adapt,
    benchmark,
    catalogue,
    data,
    doctor,
    generate,
    leaderboard,
    predict,
    results,
    show,
    submit,
    watch,
)
from orca_ray.cli import output as log
from orca_ray.cli.options import remember_arguments
from orca_ray.cli.output import (
    CLUSTER_LOST,
    INTERNAL_ERROR,
    INTERRUPTED,
    STORE_BUSY,
    USER_ERROR,
    fail,
)
from orca_ray.errors import (
    BusyStoreError,
    ClusterLostError,
    UserError,
    missing_package,
    nearest,
    unknown_name,
)
from orca_ray.version import __version__

logger = logging.getLogger(__name__)

_PACKAGE = Path(__file__).resolve().parents[1]
"""Folder of the package; errors about files in it are defects, not the user's."""

app = typer.Typer(
    name="orca-sweep",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    """Print the version and end the command if ``--version`` is given."""
    if value:
        typer.echo(f"orca-ray {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_show_version,
            is_eager=True,
            help="Print the version and exit.",
        ),
    ] = False,
) -> None:
    """Try transformers and everything else on your data in two minutes; keep what wins,
    and know by how much.
    """


data_app = typer.Typer(
    no_args_is_help=True,
    help="Fetch, add, prepare, list, show and generate the data of tasks.",
)
for function in (
    adapt.adapt,
    benchmark.benchmark,
    benchmark.run,
    benchmark.plan,
    leaderboard.leaderboard,
    leaderboard.leaderboard_diff,
    leaderboard.site,
    watch.status,
    watch.logs,
    watch.stop,
    watch.pause,
    watch.limit,
    watch.retry,
    watch.cancel,
    submit.submit,
    results.reproduce,
    predict.predict,
    predict.export,
    predict.serve,
    catalogue.tasks,
    catalogue.bodies,
    catalogue.methods,
    doctor.doctor,
):
    app.command(function.__name__.replace("_", "-"))(function)
for function in (
    data.fetch,
    data.add,
    data.prepare,
    show.list_,
    show.show,
    generate.generate,
):
    data_app.command(function.__name__.rstrip("_"))(function)
app.add_typer(data_app, name="data")
results_app = typer.Typer(
    no_args_is_help=True, help="Check, import and export scores as CSV files."
)
for function in (results.check, results.import_, results.export):
    results_app.command(function.__name__.rstrip("_"))(function)
app.add_typer(results_app, name="results")


_command: Any = typer.main.get_command(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; no exception is raised."""
    try:
        log.start(hidden=__name__)
        words = sys.argv[1:] if arguments is None else list(arguments)
        remember_arguments(words)
        # Not command.main(), which would turn Ctrl-C and a closed pipe into exit codes
        # without a message.
        with _command.make_context("orca-sweep", words) as context:
            _command.invoke(context)
        # a full disk is reported here, not when the interpreter exits
        sys.stdout.flush()
    except typer.Exit as error:
        return error.exit_code
    except KeyboardInterrupt as error:
        return fail(str(error) or "interrupted", INTERRUPTED)
    except BrokenPipeError:  # the reader (head, less) has gone, which is no error
        return 0
    except Exception as error:
        return _fail_by(error)
    return 0


def _fail_by(error: Exception) -> int:
    """Print the message for an error that ended the command; return the exit code."""
    # A usage error of the parser, such as a misspelt option.
    if hasattr(error, "format_message") and hasattr(error, "exit_code"):
        usage = _usage_message(error)
        return fail(usage, USER_ERROR) if usage else USER_ERROR
    if type(error).__name__ == "Abort":
        return fail("interrupted", INTERRUPTED)
    message = _user_message(error)
    if message:
        logger.debug("bad input", exc_info=error)
        is_busy = isinstance(error, BusyStoreError)
        return fail(message, STORE_BUSY if is_busy else USER_ERROR)
    if isinstance(error, ClusterLostError):
        logger.error("the cluster is lost", exc_info=error)
        return fail(
            f"{error}: the sweep has ended; the same command continues it", CLUSTER_LOST
        )
    logger.error("unexpected error", exc_info=error)
    log_path = log.path()
    if log_path:
        trace = f"the traceback is in {log_path}"
    else:
        trace = "".join(traceback.format_exception(error))
    limit = _limit_message(error)
    if limit:
        return fail(
            f"{limit} ({type(error).__name__}: {error})\nIf the input is not the cause,"
            f" report this: {trace}",
            USER_ERROR,
        )
    return fail(
        f"unexpected {type(error).__name__}: {error}\nThis is a defect of orca-ray;"
        f" {trace}",
        INTERNAL_ERROR,
    )


def _user_message(error: Exception) -> str:
    """Return the message for an error that the user can correct; "" for others."""
    missing = missing_package(error, "sweep")
    if missing:
        return (
            f"this command {missing}\n(leaderboard, tasks, bodies and doctor work"
            " without it)"
        )
    if isinstance(error, UserError):
        return str(error)
    return _system_message(error) if isinstance(error, OSError) else ""


_NO_COMMAND = re.compile("No such command '(.*?)'")
"""Matches the parser's message for an unknown command."""


def _usage_message(error: Any) -> str:
    """Return the message for a usage error of the parser, in one line and a hint.

    It suggests the nearest name for a misspelt option or command.
    """
    message = str(error.format_message()).strip().replace("Value error, ", "")
    # The parser lists choices in indented lines.
    message = re.sub(r"\s*\n\s*", " ", message)
    if not message:  # no arguments at all: the parser has printed the help
        return ""
    context = getattr(error, "ctx", None)
    option = getattr(error, "option_name", None)
    if option and context is not None and message.startswith("No such option"):
        names = [
            name
            for parameter in context.command.params
            for name in parameter.opts
            if name.startswith("--")
        ]
        suggestion = nearest(option, [*names, "--help"])
        message = f"No such option: {option}."
        if suggestion:
            message += f" Did you mean {suggestion!r}?"
    misspelt = _NO_COMMAND.match(message)
    if misspelt and context is not None:
        message = str(unknown_name("command", misspelt[1], context.command.commands))
    return f"{message}\nTry: {getattr(context, 'command_path', 'orca-sweep')} --help"


def _system_message(error: OSError) -> str:
    """Return the message for a path or disk that the operating system refuses.

    Returns "" for an error that is not the user's.
    """
    path = ""
    if isinstance(error.filename, str | bytes):
        path = os.fsdecode(error.filename)
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        disk = f"the disk of {path}" if path else "the disk"
        return f"no space left on {disk}: free some, then run the command again"
    if path and _PACKAGE not in Path(path).parents:
        return f"cannot use {path}: {error.strerror}"
    if error.errno == errno.ENOENT and not path:  # raised by os.getcwd
        return (
            "the working directory no longer exists: change to another one, then run"
            " the command again"
        )
    return ""


def _limit_message(error: Exception) -> str:
    """Return the message for a limit that the input exceeds; "" for other errors.

    The limits are those of memory, recursion, numbers and text.
    """
    text = str(error)
    # torch reports a failed allocation on CPUs as RuntimeError
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and "can't allocate memory" in text
    ):
        return (
            "not enough memory: free some, or give smaller data, a smaller body or"
            " fewer workers"
        )
    if isinstance(error, RecursionError):
        return "the input is nested too deeply"
    if isinstance(error, OverflowError) or "integer string conversion" in text:
        return "the input holds a number that is too large"
    if isinstance(error, UnicodeError):
        return "the input holds text that is not valid UTF-8"
    if "embedded null" in text:
        return "a path in the input holds a null character"
    return ""
