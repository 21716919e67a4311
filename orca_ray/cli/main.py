"""Entry point of ``orca-sweep``: the commands, and what becomes of an error.

Exit codes: 0 done; 1 some trials failed; 2 the user's mistake; 70 a defect of orca-ray; 130 interrupted.
Nothing heavy is imported here: ``orca-sweep --help`` answers without torch, ray, transformers and pandas.
"""

import errno
import logging
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from orca_ray import __version__
from orca_ray.cli import benchmark, catalogue, data, doctor, leaderboard, log
from orca_ray.cli.output import DEFECT, INTERRUPTED, USER_ERROR, fail
from orca_ray.errors import UserError, nearest

logger = logging.getLogger(__name__)

HEAVY_PACKAGES = {
    "PIL", "filelock", "h5py", "onnx", "optuna", "ot", "psutil", "ray", "requests", "safetensors", "scipy", "sklearn",
    "timm", "torch", "torchvision", "transformers", "urllib3",
}  # fmt: skip
"""Modules of the extra ``sweep``: the base install does without (docs/decisions/0001-extras.md)."""

_REFUSALS = {errno.EACCES, errno.EPERM, errno.EROFS, errno.ENAMETOOLONG, errno.ELOOP, errno.ENOSPC, errno.EDQUOT}
"""What the system says of paths that are the user's to mend."""

app = typer.Typer(
    name="orca-sweep",
    help="Distributed sweeps that adapt pretrained transformers to any modality: align, then refine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _show_version(value: bool) -> None:
    if value:
        typer.echo(f"orca-ray {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Distributed sweeps that adapt pretrained transformers to any modality: align, then refine."""


for group in (benchmark, leaderboard, catalogue, data, doctor):
    group.register(app)


def run(arguments: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code; every error ends here."""
    command = typer.main.get_command(app)
    try:
        log.start(hidden=__name__)
        result = command.main(
            args=None if arguments is None else list(arguments), prog_name="orca-sweep", standalone_mode=False
        )
    except UserError as error:
        logger.debug("user error", exc_info=True)
        return fail(str(error), USER_ERROR)
    except ModuleNotFoundError as error:
        logger.debug("missing package", exc_info=True)
        return _missing_package(error)
    except KeyboardInterrupt:
        return fail("interrupted", INTERRUPTED)
    except BrokenPipeError:
        # The reader (head, less) has gone: not an error, but the interpreter would complain again when it flushes.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        return _refused(error)
    except Exception as error:
        if hasattr(error, "format_message") and hasattr(error, "exit_code"):
            message = _usage(error)
            return fail(message, USER_ERROR) if message else USER_ERROR
        if type(error).__name__ == "Abort":
            return fail("interrupted", INTERRUPTED)
        return _defect(error)
    return result if isinstance(result, int) else 0


def entry() -> None:
    """Console script: run the process's command line and exit."""
    sys.exit(run())


def _usage(error: Any) -> str:
    """Word a usage error of the parser; a misspelt command or option gets its nearest name."""
    message = str(error.format_message()).strip().replace("Value error, ", "")
    context = getattr(error, "ctx", None)
    if not message:  # no arguments at all: the parser has printed the help
        return ""
    given = getattr(error, "option_name", None)
    if given and context is not None and message.startswith("No such option"):
        known = [name for parameter in context.command.params for name in (*parameter.opts, *parameter.secondary_opts)]
        close = nearest(given, [name for name in known if name.startswith("--")] + ["--help"])
        message = f"No such option: {given}." + (f" Did you mean {close!r}?" if close else "")
    path = getattr(context, "command_path", "orca-sweep")
    return f"{message}\nTry: {path} --help"


def _refused(error: OSError) -> int:
    """Word what the system refuses of a path that the user named, or of the cache directory."""
    if error.errno not in _REFUSALS or error.filename is None:
        return _defect(error)
    logger.debug("refused by the system", exc_info=True)
    return fail(f"cannot use {error.filename}: {error.strerror}", USER_ERROR)


def _missing_package(error: ModuleNotFoundError) -> int:
    package = (error.name or "").partition(".")[0]
    if package not in HEAVY_PACKAGES:
        return _defect(error)
    return fail(
        f"this command needs the package {package!r}, which is not installed: pip install 'orca-ray[sweep]'\n"
        f"(leaderboard, tasks, bodies and doctor work without it)",
        USER_ERROR,
    )


def _defect(error: BaseException) -> int:
    logger.error("unexpected error", exc_info=error)
    path = log.path()
    told = f"the traceback is in {path}" if path else "".join(traceback.format_exception(error))
    return fail(f"unexpected {type(error).__name__}: {error}\nThis is a defect of orca-ray; {told}", DEFECT)


if __name__ == "__main__":
    entry()
