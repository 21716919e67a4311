"""``orca-sweep submit``: run a command on a Ray cluster as a job, with the files that git tracks here."""

import os
import shlex
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Annotated

from typer import Argument, Option

from orca_ray.cli.output import note, say, size
from orca_ray.errors import UserError
from orca_ray.paths import public_uri

WARN_BYTES = 50 * 2**20
"""Total size of a job's files above which a warning is printed, because every node downloads the files."""


def submit(
    command: Annotated[list[str], Argument(metavar="COMMAND...", help="Command of orca-sweep, e.g. benchmark pocket.")],
    address: Annotated[
        str | None,
        Option(
            envvar="RAY_API_SERVER_ADDRESS",
            help="Address of the cluster's dashboard, e.g. http://10.0.0.1:8265. Default: a cluster on this machine.",
        ),
    ] = None,
    token: Annotated[
        Path | None,
        Option(
            "--token-path", metavar="FILE", help="File with the cluster's token. Default: as for Ray, RAY_AUTH_TOKEN."
        ),
    ] = None,
) -> None:
    """Run a command of orca-sweep on a Ray cluster as a job, e.g. ``submit -- benchmark pocket --results s3://…``.

    The job gets the files of the working directory that git tracks, as they are now.
    """
    if token is not None:
        if not token.is_file():
            raise UserError(f"--token-path {token}: there is no such file")
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN_PATH=str(token.absolute()))
    from orca_ray.sweep.executors.ray_private import max_package_bytes

    files = tracked_files(Path.cwd())
    check_size(files, max_package_bytes())
    job = _submitted(shlex.join(["orca-sweep", *command]), files, address)
    option = f" --address {shlex.quote(address)}" if address else ""
    say(f"job {job}: {shlex.join(['orca-sweep', *map(_shown, command)])}")
    say(f"follow it: ray job logs{option} --follow {job}")
    say(f"end it: ray job stop{option} {job}")


def _submitted(command: str, files: list[Path], address: str | None) -> str:
    """Submit a command with copies of files of the working directory; return the name of the job."""
    from ray.job_submission import JobSubmissionClient

    with tempfile.TemporaryDirectory(prefix="orca-ray-job-") as package:
        for file in files:
            target = Path(package, file)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(file, target)
        try:
            client = JobSubmissionClient(address)
            return str(client.submit_job(entrypoint=command, runtime_env={"working_dir": package}))
        except (ConnectionError, RuntimeError, ValueError) as error:
            where = address or "this machine"
            raise UserError(
                f"cannot submit a job to the Ray cluster at {where}: {error}. Give the address of its dashboard with "
                "--address, and its token with --token-path, if it needs one."
            ) from error


def _shown(argument: str) -> str:
    return public_uri(argument) if "://" in argument else argument


def tracked_files(directory: Path) -> list[Path]:
    """Return the paths of existing files that git tracks, relative to ``directory``; UserError outside a checkout."""
    command = ["git", "-C", str(directory), "ls-files", "-z"]
    try:
        done = subprocess.run(command, capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise UserError(
            f"{directory} is not in a git checkout, so there is no list of the files that a job needs: change to one, "
            "or use 'ray job submit --working-dir DIR -- orca-sweep ...'"
        ) from error
    names = (Path(os.fsdecode(name)) for name in done.stdout.split(b"\0") if name)
    return [name for name in names if (directory / name).is_file()]  # submodules and deleted files are not


def check_size(files: list[Path], limit: int) -> None:
    """Print a warning if ``files`` have more than `WARN_BYTES` together; UserError from ``limit`` bytes on."""
    sizes = {file: file.stat().st_size for file in files}
    total = sum(sizes.values())
    largest = ", ".join(f"{file} ({size(sizes[file])})" for file in sorted(sizes, key=lambda f: -sizes[f])[:3])
    if total >= limit:
        raise UserError(
            f"the files that git tracks here have {size(total)}, more than the {size(limit)} that Ray takes. The "
            f"largest: {largest}. Submit from a smaller directory, or put data into the store or the cache."
        )
    if total > WARN_BYTES:
        note(f"warning: every node downloads {size(total)}; the largest files are {largest}")
