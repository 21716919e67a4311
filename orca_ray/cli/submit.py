"""``orca-sweep submit``: run a command on a Ray cluster as a job, and follow it."""

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Context, Exit, Option

from orca_ray.cli.output import INTERRUPTED, note, say, size
from orca_ray.errors import UserError, printable, unknown_name
from orca_ray.paths import public_uri

if TYPE_CHECKING:
    from ray.job_submission import JobDetails

WARN_BYTES = 50 * 2**20
"""Size of a job's files above which a warning is printed; every node downloads them."""
RESULTS_VARIABLE = "ORCA_RAY_RESULTS"
"""Environment variable with the results store, whose value here a job receives."""


def submit(
    context: Context,
    command: Annotated[
        list[str],
        Argument(
            metavar="COMMAND...",
            help="Command of orca-sweep after --, e.g. -- benchmark pocket.",
        ),
    ],
    address: Annotated[
        str | None,
        Option(
            metavar="URL",
            envvar="RAY_API_SERVER_ADDRESS",
            help=(
                "Address of the cluster's dashboard, e.g. http://10.0.0.1:8265."
                " Default: the cluster on this machine."
            ),
        ),
    ] = None,
    token_path: Annotated[
        Path | None,
        Option(
            metavar="FILE",
            help="File with the cluster's token. Default: as for Ray, RAY_AUTH_TOKEN.",
        ),
    ] = None,
    working_dir: Annotated[
        Path,
        Option(
            metavar="DIR",
            help=(
                "Folder whose files the job gets: in a checkout of git those that git"
                " does not ignore, elsewhere all but results stores."
            ),
        ),
    ] = Path("."),
    exclude: Annotated[
        list[str] | None,
        Option(
            metavar="PATTERN",
            help="Leave these files out, too, e.g. 'data/*'; may be repeated.",
        ),
    ] = None,
    env: Annotated[
        list[str] | None,
        Option(
            metavar="NAME[=VALUE]",
            help=(
                "Set an environment variable of the job, without a value as it is"
                " here; may be repeated. The dashboard shows it."
            ),
        ),
    ] = None,
    pip: Annotated[
        list[str] | None,
        Option(
            metavar="REQUIREMENT",
            help="Install a package on the nodes for this job; may be repeated.",
        ),
    ] = None,
    no_wait: Annotated[
        bool,
        Option("--no-wait", help="Submit the job and return, without its log."),
    ] = False,
) -> None:
    """Run a command on a Ray cluster as a job: pack the folder, submit it, follow it.

    The exit code is that of the command. Ctrl-C ends the following, not the job.
    """
    _check_command(context, command)
    environment = _environment(env or [])
    _use_token(token_path)
    from orca_ray.sweep.executors import job as jobs
    from orca_ray.sweep.executors.ray_private import max_package_bytes

    if not working_dir.is_dir():
        raise UserError(f"--working-dir {working_dir}: there is no such folder")
    files = jobs.list_files(working_dir, exclude or [])
    check_size(working_dir, files, max_package_bytes())
    client = jobs.connect(address)
    request = jobs.JobRequest(
        entrypoint=shlex.join(["orca-sweep", *command]),
        directory=working_dir,
        files=files,
        environment=environment,
        packages=pip or [],
    )
    name = jobs.submit(client, request, address)
    _say_how_to_go_on(name, command, address)
    if no_wait:
        return
    try:
        details = jobs.JobLog(client, name, _write).follow()
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"interrupted: the job goes on; ray job stop {name} ends it"
        ) from None
    _end(name, details)


def _check_command(context: Context, command: Sequence[str]) -> None:
    """Raise UserError if ``command`` does not start with a command of orca-sweep."""
    parent: Any = context.find_root().command
    names = [name for name in parent.list_commands(context) if name != "submit"]
    if command[0] not in names:
        raise unknown_name(
            "command",
            command[0],
            names,
            "After -- stands a command of orca-sweep, e.g. submit -- benchmark pocket",
        )


def _environment(options: Sequence[str]) -> dict[str, str]:
    """Return the job's environment variables, from the values of ``--env``.

    `RESULTS_VARIABLE` is added if it is set here. Raises UserError for a variable that
    is given without a value and not set here.
    """
    environment = {}
    if os.environ.get(RESULTS_VARIABLE):
        environment[RESULTS_VARIABLE] = os.environ[RESULTS_VARIABLE]
    for option in options:
        name, equals, value = option.partition("=")
        if not equals:
            if name not in os.environ:
                raise UserError(
                    f"--env {option}: the variable is not set here; give {name}=VALUE"
                )
            value = os.environ[name]
        environment[name] = value
    return environment


def _use_token(path: Path | None) -> None:
    """Let Ray read the cluster's token from a file; UserError if there is none."""
    if path is None:
        return
    if not path.is_file():
        raise UserError(f"--token-path {path}: there is no such file")
    os.environ["RAY_AUTH_MODE"] = "token"
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(path.absolute())
    # Ray prefers this variable to the file.
    os.environ.pop("RAY_AUTH_TOKEN", None)


def check_size(directory: Path, files: Sequence[Path], limit: int) -> None:
    """Check the total size of ``files``, whose paths are relative to ``directory``.

    Print a warning if it exceeds `WARN_BYTES`; raise UserError if it is ``limit`` bytes
    or more.
    """
    sizes = {file: (directory / file).stat().st_size for file in files}
    total = sum(sizes.values())
    by_size = sorted(files, key=lambda file: -sizes[file])
    largest = ", ".join(f"{file} ({size(sizes[file])})" for file in by_size[:3])
    if total >= limit:
        raise UserError(
            f"the files of {directory.absolute()} have {size(total)}, and Ray takes"
            f" less than {size(limit)}. The largest: {largest}. Leave files out with"
            " --exclude, or put data into the store or the cache"
        )
    if total > WARN_BYTES:
        note(f"warning: every node downloads {size(total)}; the largest: {largest}")


def _say_how_to_go_on(name: str, command: Sequence[str], address: str | None) -> None:
    """Print the command that the job ``name`` runs, and how to follow and to end it."""
    public_words = [public_uri(word) if "://" in word else word for word in command]
    option = "" if address is None else f" --address {shlex.quote(address)}"
    say(f"job {name}: {shlex.join(['orca-sweep', *public_words])}")
    say(f"follow it: ray job logs{option} --follow {name}")
    say(f"end it: ray job stop{option} {name}")


def _write(text: str) -> None:
    """Print a part of the job's log, which may end within a line."""
    sys.stdout.write(printable(text, keep="\n\t"))
    sys.stdout.flush()


def _end(name: str, details: "JobDetails") -> None:
    """Print how the job has ended, and exit with the exit code of its command."""
    from ray.job_submission import JobStatus

    if details.status == JobStatus.SUCCEEDED:
        say(f"job {name} has succeeded")
        return
    if details.status == JobStatus.STOPPED:
        note(f"job {name} was stopped; the same command continues the sweep")
        raise Exit(INTERRUPTED)
    # Ray repeats the end of the log after the reason.
    reason = (details.message or "").partition(", last available logs")[0]
    note(f"error: job {name} has failed: {reason}")
    code = details.driver_exit_code
    # Only these numbers are exit codes of a command that failed.
    is_of_command = code is not None and 0 < code < 256
    raise Exit(code if is_of_command else 1)
