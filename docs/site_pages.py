"""Sphinx extension of the site: links as on GitHub, and tables of what the registries
hold.

The pages are those that GitHub shows. README.md, CONTRIBUTING.md and CHANGELOG.md are
outside of this directory, and a
page here includes each of them, so links to and in them are changed when a page is
read. A mark ``<!-- registry: tasks
-->`` stands for a table that is made then. A link to a module leads to a page with its
source.
"""

import os
import pkgutil
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from docutils import nodes
from pygments.lexers.special import TextLexer
from sphinx import addnodes

if TYPE_CHECKING:
    from orca_ray.tasks.task import Task

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
INCLUDED = {
    ROOT / "README.md": DOCS / "index.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.md",
    ROOT / "CHANGELOG.md": DOCS / "changes.md",
}
"""Files outside of this directory, and the pages that include them."""

LINK = re.compile(r"\]\((?![a-z]+:|#)([^)#\s]+)")
SHAPE = re.compile(r"(?<!`)\[[^\[\]`]*\*[^\[\]`]*\](?!`)")
MARK = re.compile(r"^<!-- registry: ([\w-]+) -->$", re.MULTILINE)


def relinked(text: str, base: Path, page: Path) -> str:
    """Return Markdown of the directory ``base`` with its relative links as the site's
    file ``page`` needs them."""

    def change(match: re.Match[str]) -> str:
        target = (base / match[1]).resolve()
        if not target.exists():
            return match[0]
        target = (
            target / "README.md" if target.is_dir() else INCLUDED.get(target, target)
        )
        return f"]({os.path.relpath(target, page.parent)}"

    return LINK.sub(change, text)


def table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> str:
    """Return a Markdown table."""
    columns = list(columns)
    cells = [
        [str(cell).replace("|", "\\|").replace("\n", " ") for cell in row]
        for row in rows
    ]
    return "\n".join(
        f"| {' | '.join(row)} |" for row in [columns, ["---"] * len(columns), *cells]
    )


def _output_shape(task: "Task") -> str:
    if not task.target.size:
        return "?"
    return "×".join(map(str, task.target.output_shape))


def tasks() -> str:
    """Return a section for each benchmark."""
    from orca_ray.tasks.registry import all_benchmarks, get_benchmark

    columns = ("task", "data", "input", "target", "metric", "body", "licence")
    sections = []
    for benchmark in all_benchmarks():
        rows = [
            (
                f"`{task.short_name}`",
                (
                    f"[{task.title}]({task.reference})"
                    if task.reference.startswith("http")
                    else task.title
                ),
                "×".join(map(str, task.input_shape or "?")),
                f"{task.target.kind} {_output_shape(task)}",
                *(f"`{name}`" for name in (task.metric, task.body)),
                task.licence,
            )
            for task in get_benchmark(benchmark)
        ]
        sections.append(f"### {benchmark}\n\n{table(columns, rows)}")
    return "\n\n".join(sections)


def methods() -> str:
    """Return the table of methods."""
    from orca_ray.methods.registry import all_methods

    rows = [
        (
            f"`{m.name}`",
            m.title,
            ", ".join(m.stage_names),
            "pretrained" if m.pretrained else "random",
            m.reference,
        )
        for m in all_methods().values()
    ]
    return table(("method", "title", "stages", "starts from", "reference"), rows)


def bodies() -> str:
    """Return the table of listed bodies."""
    from orca_ray.models.names import list_bodies

    rows = [
        (
            f"`{b.name}`",
            b.modality,
            b.layers,
            b.width,
            f"{b.parameters / 1e6:.1f} M",
            b.source,
            b.licence,
        )
        for b in list_bodies()
    ]
    return table(
        ("body", "modality", "layers", "width", "parameters", "from", "licence"), rows
    )


def families() -> str:
    """Return the table of body families."""
    from orca_ray.models.family import all_families

    rows = [
        (
            family.name,
            family.modality,
            family.library,
            ", ".join(f"`{name}`" for name in family.model_types),
        )
        for family in all_families().values()
    ]
    return table(("family", "modality", "library", "model types"), rows)


def distances() -> str:
    """Return the table of distances."""
    from orca_ray.alignment.registry import distance_names, get_distance

    found = [get_distance(name) for name in distance_names()]
    rows = [
        (f"`{d.name}`", summary(type(d)), "yes" if d.uses_labels else "no")
        for d in found
    ]
    return table(("distance", "definition", "uses labels"), rows)


def sources() -> str:
    """Return the table of alignment sources."""
    import importlib

    from orca_ray.alignment.registry import get_source, source_names

    rows = [
        (
            f"`{name}`",
            get_source(name).modality,
            summary(importlib.import_module(f"orca_ray.alignment.sources.{name}")),
        )
        for name in source_names()
    ]
    return table(("source", "modality", "samples"), rows)


def statistics() -> str:
    """Return the table of the statistics of a leaderboard."""
    from orca_ray.leaderboard.statistics import all_statistics

    rows = [
        (
            f"`{each.name}`",
            each.title,
            each.shape,
            each.better or "",
            each.definition.split("\n\n")[0],
        )
        for each in all_statistics().values()
    ]
    return table(("statistic", "title", "one value per", "better", "definition"), rows)


def metrics() -> str:
    """Return the tables of metrics and of losses."""
    from orca_ray.tasks.losses import all_losses
    from orca_ray.tasks.metrics import all_metrics

    rows = [
        (f"`{each.name}`", each.definition, each.source)
        for each in all_metrics().values()
    ]
    losses = [
        (f"`{each.name}`", each.definition, each.source)
        for each in all_losses().values()
    ]
    columns = ("definition", "source")
    return f"{table(('metric', *columns), rows)}\n\n{table(('loss', *columns), losses)}"


BOARDS = {
    "trained": (
        "cabinet",
        "trained",
        "thirteen methods on 41 data sets after 2,400 steps, 423 trials",
    ),
    "cabinet": (
        "cabinet",
        "cabinet",
        "fifteen methods on 41 data sets after six epochs, 1,515 trials",
    ),
    "pocket": ("pocket", "pocket", "sixteen methods on eight data sets, 896 trials"),
    "aligning": (
        "aligning",
        "aligning",
        "which parts of aligning help: a factorial study of 600 trials",
    ),
    "pocket-quick": ("pocket", "pocket-quick", "four methods with the budget quick"),
    "openml": ("openml", "openml", "the paper's tables from OpenML"),
}
"""Pages of boards: by the name of the page, the benchmark or sweep, its store in
docs/stores, and what it shows."""


def boards() -> str:
    """Return the list of the pages that `write_boards` writes, and the first of
    them."""
    listed = (
        f'- <a href="boards/{page}.html">{page}</a>: {about}'
        for page, (_, _, about) in BOARDS.items()
    )
    frame = (
        f'<iframe class="board" src="boards/{next(iter(BOARDS))}.html" title="A board"'
        ' loading="lazy"></iframe>'
    )
    return "\n".join([*listed, "", frame])


def write_boards(app: Any, error: Exception | None) -> None:
    """Write the interactive page of each board beside the pages of the site."""
    from orca_ray.cli.app import run

    if error is None and app.builder.format == "html":
        (folder := Path(app.outdir) / "boards").mkdir(exist_ok=True)
        for page, (name, store, _) in BOARDS.items():
            given = [
                "leaderboard",
                name,
                "--results",
                str(DOCS / "stores" / store),
                "--out",
                f"{folder}/{page}.html",
            ]
            if run(given):
                raise RuntimeError(f"no board: orca-sweep {' '.join(given)}")


def summary(documented: object) -> str:
    """Return the first paragraph of a docstring, with code as in Markdown."""
    return (documented.__doc__ or "").split("\n\n")[0].replace("``", "`").strip()


REGISTRIES: Mapping[str, Callable[[], str]] = {
    each.__name__: cache(each)
    for each in (
        tasks,
        methods,
        bodies,
        families,
        distances,
        sources,
        statistics,
        metrics,
        boards,
    )
}


def read_source(app: Any, name: str, source: list[str]) -> None:
    """Change the text of a page of this directory."""
    page = Path(app.env.doc2path(name))
    if page.suffix == ".md":
        text = relinked(source[0], page.parent, page)
        source[0] = MARK.sub(lambda match: REGISTRIES[match[1]](), text)


def read_include(app: Any, path: Path, parent: str, text: list[str]) -> None:
    """Change the text of a file that a page at the top of this directory includes."""
    file = (DOCS / path).resolve()
    text[0] = relinked(text[0], file.parent, DOCS / f"{parent}.md")


def link_modules(app: Any, doctree: nodes.document) -> None:
    """Let links to modules, which MyST makes downloads, lead to the pages of
    `module_pages`."""
    for link in list(doctree.findall(addnodes.download_reference)):
        if link["reftarget"].endswith(".py"):
            place = Path(app.env.doc2path(link["refdoc"])).parent
            module = (place / link["reftarget"]).resolve().relative_to(ROOT)
            uri = os.path.relpath(DOCS / "files" / f"{module}.html", place)
            link.replace_self(
                nodes.reference("", "", *link.children, refuri=uri, internal=True)
            )


def module_pages(app: Any) -> Iterator[tuple[str, dict[str, Any], str]]:
    """Yield name, context and template of a page with the source of each module that a
    page of this site links."""
    links = {
        (page.parent / link).resolve()
        for page in DOCS.rglob("*.md")
        for link in LINK.findall(page.read_text())
    }
    for module in sorted(
        link for link in links if link.suffix == ".py" and link.is_file()
    ):
        name = str(module.relative_to(ROOT))
        source = app.builder.highlighter.highlight_block(module.read_text(), "python")
        yield (
            f"files/{name}",
            {"parents": [], "title": name, "body": f"<h1>{name}</h1>{source}"},
            "page.html",
        )


def read_docstring(
    app: Any, kind: str, name: str, thing: object, options: object, lines: list[str]
) -> None:
    """Make shapes such as [N, *shape] code, since the star would begin an emphasis.

    The empty comment keeps Napoleon from reading the start of an attribute's docstring,
    up to a colon, as its type.
    """
    first = ["..", ""] if kind in ("attribute", "data", "property") and lines else []
    lines[:] = [*first, *(SHAPE.sub(r"``\g<0>``", line) for line in lines)]


def found_outside(app: Any, env: Any, node: Any, content: Any) -> Any:
    """Leave a reference to an object of this package that has no page as code; Sphinx
    warns of one that is nowhere."""
    target = node.get("reftarget", "")
    if node.get("refdomain") != "py" or not target.startswith("orca_ray."):
        return None
    try:
        pkgutil.resolve_name(target)
    except (ImportError, AttributeError):
        return None
    return content


def setup(app: Any) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.add_lexer("csv", TextLexer)  # GitHub colours it, Pygments does not know it
    app.connect("source-read", read_source)
    app.connect("include-read", read_include)
    app.connect(
        "doctree-read", link_modules, priority=400
    )  # before Sphinx copies the files of downloads
    app.connect("html-collect-pages", module_pages)
    app.connect("build-finished", write_boards)
    app.connect(
        "autodoc-process-docstring", read_docstring, priority=400
    )  # before Napoleon
    app.connect("missing-reference", found_outside)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
