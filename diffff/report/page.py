"""HTML: text that is safe to show, tables, sections, and the page that holds them."""

import html
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_STYLE = Path(__file__).with_name("style.css")


class Html(str):
    """Text that is HTML already; all other text is escaped."""


class Column(NamedTuple):
    """A column of a table.

    Attributes:
        title: above it.
        style: "n" for numbers, "s" for what stays on one line, "any" for long words that may be broken, "mono" for
            hashes.
    """

    title: str
    style: str = ""


class Rows(NamedTuple):
    """Some rows of a table with a heading of their own.

    Attributes:
        title: the heading, none if empty.
        note: behind it, quieter.
        cells: of each row.
        total: the last row, in bold.
    """

    title: str
    note: str
    cells: Sequence[Sequence[object]]
    total: Sequence[object] | None = None


class Section(NamedTuple):
    """A part of the page.

    Attributes:
        name: of its place in the page.
        title: its heading.
        content: what is below.
    """

    name: str
    title: str
    content: Html


def text(value: object) -> Html:
    """A value as HTML."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def tag(name: str, *content: object, **attributes: str) -> Html:
    """An element; ``class_`` is the attribute class.

    Example:
        >>> tag("p", "a < b", class_="quiet")
        '<p class="quiet">a &lt; b</p>'
    """
    given = "".join(f' {key.rstrip("_")}="{html.escape(value)}"' for key, value in attributes.items())
    return Html(f"<{name}{given}>{''.join(map(text, content))}</{name}>")


def join(parts: Iterable[object]) -> Html:
    """Parts one below the other."""
    return Html("\n".join(map(text, parts)))


def table(columns: Sequence[Column], groups: Iterable[Rows]) -> Html:
    """A table with headings between groups of rows."""
    styles = [{"class_": column.style} if column.style else {} for column in columns]
    head = tag("tr", *(tag("th", column.title, **style) for column, style in zip(columns, styles, strict=True)))

    def row(cells: Sequence[object], **attributes: str) -> Html:
        return tag("tr", *(tag("td", cell, **style) for cell, style in zip(cells, styles, strict=True)), **attributes)

    bodies = []
    for group in groups:
        lines = [row(cells) for cells in group.cells]
        if group.title:
            note = tag("span", f" {group.note}") if group.note else ""
            lines.insert(0, tag("tr", tag("th", group.title, note, colspan=str(len(columns))), class_="group"))
        if group.total is not None:
            lines.append(row(group.total, class_="sum"))
        bodies.append(tag("tbody", join(lines)))
    return tag("div", tag("table", tag("thead", head), *bodies), class_="scroll")


def facts(given: Mapping[str, tuple[str, str]]) -> Html:
    """A few numbers to see first: by title, each with a note below it."""
    each = (
        tag("div", tag("dt", title), tag("dd", value, tag("small", note))) for title, (value, note) in given.items()
    )
    return tag("dl", *each, class_="facts")


def grid(parts: Iterable[Html], kind: str = "") -> Html:
    """Figures beside each other where there is room; on paper the kind "tables" stands one below the other."""
    return tag("div", join(parts), class_=f"grid {kind}".rstrip())


def page(title: str, note: str, sections: Sequence[Section], footer: str) -> str:
    """The whole page; the first section has no heading of its own."""
    first, *others = sections
    links = tag("nav", *(tag("a", one.title, href=f"#{one.name}") for one in others))
    header = tag("header", tag("h1", title), tag("p", note, class_="quiet"), first.content, links)
    parts = [tag("section", tag("h2", one.title), one.content, id=one.name) for one in others]
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            tag("title", title),
            f"<style>\n{_STYLE.read_text(encoding='utf-8')}</style>",
            "</head>",
            "<body>",
            header,
            tag("main", join(parts)),
            tag("footer", footer, class_="quiet"),
            "</body>",
            "</html>\n",
        ]
    )


def number(value: float | None, digits: int = 3) -> str:
    """A number in words of a table: ``digits`` of it, without an exponent where that is legible.

    Example:
        >>> number(512.345), number(-0.012345), number(1.2e-7), number(12345.6), number(None)
        ('512', '−0.0123', '1.20e−7', '12346', '–')
    """
    if value is None or not math.isfinite(value):
        return "–"
    size = abs(value)
    if value == 0.0 or 1e-4 <= size < 1e7:
        decimals = max(digits - 1 - int(f"{size:.{digits - 1}e}".partition("e")[2]), 0) if value else 0
        shown = f"{value:.{decimals}f}"
    else:
        mantissa, _, exponent = f"{value:.{digits - 1}e}".partition("e")
        shown = f"{mantissa}e{int(exponent)}"
    return shown.replace("-", "−")
