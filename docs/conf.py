"""Sphinx configuration."""

import re
import shutil
import sys
from importlib.util import find_spec
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

project = "sb3_offline"
author = "The sb3_offline developers"
copyright = "2026, the sb3_offline developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "sb3_offline"
exclude_patterns = ["_build", "_generated"]
# formulas without a network: MathJax comes with the pages, from the package django-static-mathjax
mathjax_path = "mathjax/tex-chtml.js"
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["myst.xref_missing"]


def escape_bars(_app, _what, _name, _object, _options, lines):
    """In docstrings |x| is an absolute value or a size, never a substitution."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(p if p.startswith("``") else re.sub(r"(?<!\\)\|", r"\\|", p) for p in parts)


def copy_mathjax(app, _exception=None):
    """MathJax and its fonts beside the pages."""
    source = Path(find_spec("mathjax").origin).parent / "static" / "mathjax" / "es5"
    target = Path(app.outdir) / "_static" / "mathjax"
    fonts = Path("output") / "chtml" / "fonts" / "woff-v2"
    (target / fonts).mkdir(parents=True, exist_ok=True)
    shutil.copy(source / "tex-chtml.js", target)
    for font in (source / fonts).glob("*.woff"):
        shutil.copy(font, target / fonts)


def write_algorithms(app):
    """The table of algorithms, as the registry has them: ``_generated/algorithms.md``, which pages include."""
    from gymnasium import spaces

    from sb3_offline import registry

    rows = ["| name in the shell | class | actions | learns a model | images and dicts |", "|---|---|---|---|---|"]
    for name, cls in registry.algorithms().items():
        discrete = issubclass(spaces.Discrete, cls.supported_spaces["action"])
        model = "dynamics" if hasattr(cls, "fit_dynamics") else "-"
        beyond = "-" if cls.vectors_only else "yes"
        rows.append(f"| `{name}` | `{cls.__name__}` | {'discrete' if discrete else 'continuous'} | {model} | {beyond} |")
    folder = Path(app.srcdir) / "_generated"
    folder.mkdir(exist_ok=True)
    (folder / "algorithms.md").write_text("\n".join(rows) + "\n", encoding="utf-8")


def setup(app):
    app.connect("builder-inited", write_algorithms)
    app.connect("build-finished", copy_mathjax)
    app.connect("autodoc-process-docstring", escape_bars)
