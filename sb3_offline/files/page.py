"""
The pages that the library draws are one family: one look, one file each, nothing from the network, readable on a phone and on
paper.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from sb3_offline.files.atomic import write_atomically

STYLE = """
:root { --ink: #1f2933; --quiet: #5b6770; --line: #d9dee3; --ground: #f5f7f9; --blue: #33669a; --orange: #b86b00; }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; color: var(--ink); background: #fff;
  max-width: 62rem; margin: 0 auto; padding: 1.5rem 1rem 3rem; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.25; margin: 0 0 .5rem; }
h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p, ul { margin: .5rem 0; }
code { background: var(--ground); padding: 0 .25rem; overflow-wrap: anywhere; }
.quiet, figcaption { color: var(--quiet); font-size: .875rem; }
.length { font-size: 1.2rem; }
.fine, .danger, .warning, .error {
  border-left: 4px solid #d98e00; background: #fff6e5; padding: .5rem .9rem; margin: .5rem 0; }
.fine { background: #eef7ee; border-color: #3a9d3a; }
.error { background: #fbe9ea; border-color: #b02a37; }
ul.danger { padding-left: 2rem; }
.scroll { overflow-x: auto; }
@media screen {  /* a shadow at the side where a table goes on */
  .scroll { background: linear-gradient(to right, #fff 50%, #fff0) 0 0, linear-gradient(to left, #fff 50%, #fff0) 100% 0,
      linear-gradient(to right, #1f293340, #1f293300) 0 0, linear-gradient(to left, #1f293340, #1f293300) 100% 0;
    background-repeat: no-repeat; background-size: 2rem 100%, 2rem 100%, .6rem 100%, .6rem 100%;
    background-attachment: local, local, scroll, scroll; }
}
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; text-align: right; border-top: 1px solid var(--line); vertical-align: top; }
th { border-top: 0; color: var(--quiet); font-weight: 600; font-size: .875rem; }
th:first-child, td:first-child, .words, .facts td { text-align: left; }
.scroll td + td { white-space: nowrap; }
.facts td:first-child { color: var(--quiet); width: 17rem; }
figure { margin: 0; }
img, svg { max-width: 100%; height: auto; }
svg { background: var(--ground); }
svg text { fill: var(--quiet); font-size: 11px; }
.plots { display: flex; flex-wrap: wrap; gap: 1rem; }
.pictures { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); gap: 1.5rem 1rem; }
.pictures img { width: 100%; max-width: 36rem; }
@media screen and (max-width: 30rem) {
  body { padding: 1rem .75rem 2rem; }
  th, td { padding-right: .6rem; }
  .facts td { display: block; padding-right: 0; }
  .facts td:first-child { width: auto; }
  .facts td + td { border-top: 0; padding-top: 0; }
  .plots > *, .plots svg { width: 100%; }
}
@media print {
  body { max-width: none; padding: 0; font-size: 10pt; }
  .scroll { overflow: visible; }
  h2 { break-after: avoid; }
  tr, figure, .fine, .danger, .warning, .error { break-inside: avoid; }
  * { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
}
"""


def page(title: str, body: str, extra_style: str = "") -> str:
    """
    A whole HTML page.

    :param title: text; also the heading
    :param body: HTML
    :param extra_style: of what only this page has
    """
    name = escape(title)
    head = (
        '<meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<link rel="icon" href="data:,"><title>{name}</title><style>{STYLE}{extra_style}</style>'
    )
    return f'<!doctype html>\n<html lang="en"><head>{head}</head><body>\n<h1>{name}</h1>\n{body}\n</body></html>\n'


def write_page(path: str | Path, text: str) -> None:
    """Write it, whole or not at all."""
    write_atomically(path, lambda file: file.write(text.encode()))


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    """Two columns of text: what was asked, and the answer."""
    cells = "".join(f"<tr><td>{escape(question)}</td><td>{escape(answer)}</td></tr>" for question, answer in rows)
    return f'<table class="facts">{cells}</table>'


def figures_table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table of text and numbers, which scrolls sideways where it is too wide; words stand at the left."""
    table = [[*row] for row in rows]
    kinds = [' class="words"' if all(map(_is_text, column)) else "" for column in zip(*table, strict=True)] or [""] * len(head)
    top = "".join(f"<th{kind}>{escape(name)}</th>" for name, kind in zip(head, kinds, strict=True))
    cells = ("".join(f"<td{kind}>{escape(cell)}</td>" for cell, kind in zip(row, kinds, strict=True)) for row in table)
    body = "".join(f"<tr>{row}</tr>" for row in cells)
    return f'<div class="scroll"><table><tr>{top}</tr>{body}</table></div>'


def _is_text(cell: str) -> bool:
    return not cell.lstrip("-+~<>")[:1].isdigit() and cell not in ("", "-", "nan", "inf", "-inf")


def pictures(images: Iterable[tuple[bytes, str]]) -> str:
    """PNG images, each with its caption, within the page: side by side where there is room."""
    shown = "".join(
        f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{base64.b64encode(png).decode()}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
        for png, caption in images
    )
    return f'<div class="pictures">{shown}</div>'


def verdict(sentences: Sequence[str], fine: str) -> str:
    """What speaks against it, as a list; or that nothing does."""
    if not sentences:
        return f'<p class="fine">{escape(fine)}</p>'
    return '<ul class="danger">' + "".join(f"<li>{escape(sentence)}</li>" for sentence in sentences) + "</ul>"
