"""Sphinx configuration."""

import re

project = "sb3_offline"
author = "The sb3_offline developers"
copyright = "2026, the sb3_offline developers"
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = "sb3_offline"
exclude_patterns = ["_build"]
autodoc_typehints = "description"
autodoc_member_order = "bysource"
nitpicky = False
suppress_warnings = ["myst.xref_missing"]


def escape_bars(_app, _what, _name, _object, _options, lines):
    """In docstrings |x| is an absolute value or a size, never a substitution."""
    for number, line in enumerate(lines):
        parts = re.split(r"(``.*?``)", line)
        lines[number] = "".join(p if p.startswith("``") else re.sub(r"(?<!\\)\|", r"\\|", p) for p in parts)


def setup(app):
    app.connect("autodoc-process-docstring", escape_bars)
