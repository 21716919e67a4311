"""Configuration of Sphinx: ``make docs`` writes the site to build/docs, offline."""

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).resolve().parent
sys.path[:0] = [str(DOCS), str(DOCS.parent)]  # this checkout, whatever is installed

from orca_ray import __version__  # noqa: E402

project = "orca-ray"
author = "the orca-ray authors"
copyright = f"2026, {author}"
release = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_pages",
]
exclude_patterns = ["stores"]

# Markdown as GitHub reads it: a heading is linked by the words in it.
myst_heading_anchors = 6
myst_enable_extensions = ["colon_fence", "deflist"]

# A word in single backticks is a name of Python, and a link where this site has it.
default_role = "py:obj"
nitpicky = True
nitpick_ignore_regex = [
    (
        "py:.*",
        r"(?!orca_ray\.).*",
    ),  # other libraries' sites need a network; names without a module may be options
]
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = f"orca-ray {release}"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
pygments_style = "default"
pygments_dark_style = "github-dark"


def setup(app: Any) -> None:
    """Leave out scikit-learn's ``set_…_request``: their texts link to its pages."""

    def skipped(app: object, what: str, name: str, *_: object) -> bool | None:
        return True if name.startswith("set_") and name.endswith("_request") else None

    app.connect("autodoc-skip-member", skipped)
