"""The pictures of a report, as SVG inside the page."""

import io
import re
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from diffff.errors import InputError
from diffff.report.page import Html, number, tag, text

if TYPE_CHECKING:
    from matplotlib.axes import Axes

BEFORE, AFTER, VALID, BAD, INK, QUIET = "#c9a27e", "#2a6f97", "#e07a1f", "#b23a48", "#1f2933", "#9aa5b1"
MAX_POINTS = 4000  # drawn in one parity panel
_STYLE = {
    "font.size": 10,
    "axes.titlesize": 10.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#7b8794",
    "axes.labelcolor": INK,
    "text.color": INK,
    "xtick.color": "#52606d",
    "ytick.color": "#52606d",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e8ebee",
    "legend.frameon": False,
    "legend.fontsize": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "diffff",  # the same picture gives the same file
    "savefig.dpi": 220,  # of clouds of points
}


class Move(NamedTuple):
    """How far a number has gone.

    Attributes:
        label: its name.
        move: from the start, in units of its prior's sigma or its scale.
        error: standard error in these units; None if it is not determined.
    """

    label: str
    move: float
    error: float | None


def curve(name: str, title: str, unit: str, lines: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Html:
    """One or two quantities over the steps, on a logarithmic axis; lines by their label."""
    colours = {"training": QUIET, "validation": AFTER}

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        for label, (steps, values) in lines.items():
            shown = np.where(values > 0.0, values, np.nan)
            marker = "o" if np.isfinite(shown).sum() <= 30 else None
            ax.plot(
                steps, shown, color=colours.get(label, AFTER), label=label, linewidth=1.6, marker=marker, markersize=3
            )
        ax.set(xlabel="step", ylabel=_literal(unit), yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        _plain_logarithms(ax)
        ax.margins(x=0.02)
        if len(lines) > 1:
            ax.legend()

    return _figure(name, title, paint, 4.6, 3.0)


def parity(
    name: str,
    title: str,
    unit: str,
    reference: np.ndarray,
    before: np.ndarray,
    after: np.ndarray,
    what: str = "force field",
) -> Html:
    """Predictions of what is named over labels, all flat, before and after."""
    good = np.flatnonzero(np.isfinite(reference) & np.isfinite(before) & np.isfinite(after))
    chosen, caption = good, ""
    if good.size < reference.size:
        caption = f"{reference.size - good.size} of {reference.size} values are not finite and left out. "
    if good.size > MAX_POINTS:
        chosen = np.sort(np.random.default_rng(0).choice(good, MAX_POINTS, replace=False))
        caption += f"{MAX_POINTS} of {good.size} values are drawn; the errors are those of all."
    errors = [float(np.sqrt(np.sum((one - reference)[good] ** 2) / max(good.size, 1))) for one in (before, after)]

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        shown = np.concatenate([one[chosen] for one in (reference, before, after)])
        low, high = _robust_range(shown)
        ax.plot((low, high), (low, high), color=QUIET, linewidth=0.9, zorder=1)
        size = 4.0 if len(chosen) < 500 else 2.6
        for label, values, error, colour in (("before", before, errors[0], BEFORE), ("after", after, errors[1], AFTER)):
            points = {"linestyle": "", "marker": "o", "markersize": size, "markeredgewidth": 0, "alpha": 0.6}
            named = f"{label}: RMSE {number(error)}"
            ax.plot(reference[chosen], values[chosen], color=colour, label=named, rasterized=True, **points)
        ax.set(xlabel=f"reference ({unit})", ylabel=f"{what} ({unit})", aspect="equal")
        ax.set(xlim=(low, high), ylim=(low, high))
        ax.xaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_major_locator(MaxNLocator(5))
        legend = ax.legend(loc="upper left", markerscale=2.0, handletextpad=0.1, borderaxespad=0.2)
        for handle in legend.legend_handles:
            if handle is not None:
                handle.set_alpha(1.0)

    return _figure(name, title, paint, 4.6, 4.4, caption)


def residuals(name: str, title: str, splits: Mapping[str, np.ndarray]) -> Html:
    """How residuals in units of their sigma are distributed, beside a normal distribution; at the end of the fit."""
    splits = {label: values[np.isfinite(values)] for label, values in splits.items()}
    everything = np.abs(np.concatenate([np.zeros(1), *splits.values()]))
    reach = max(4.0, float(np.quantile(everything, 0.995)))
    outside = float(np.mean(everything > reach))
    caption = f"{number(100 * outside, 2)} % lie outside of what is drawn." if outside else ""

    def paint(ax: "Axes") -> None:
        fewest = min(values.size for values in splits.values())
        edges = np.linspace(-reach, reach, 1 + min(max(3 * round(fewest ** (1 / 3)), 8), 60))
        for label, values in splits.items():
            density = np.histogram(values, edges)[0] / (max(values.size, 1) * (edges[1] - edges[0]))
            if label == "training":
                ax.stairs(density, edges, fill=True, color=QUIET, alpha=0.45, label=label)
            else:
                ax.stairs(density, edges, color=AFTER, linewidth=1.5, label=label)
        x = np.linspace(-reach, reach, 401)
        normal = np.exp(-0.5 * x**2) / np.sqrt(2.0 * np.pi)
        ax.plot(x, normal, color=INK, linewidth=1.1, linestyle=(0, (4, 2)), label="normal")
        ax.set(xlabel="residual / sigma", ylabel="density", xlim=(-reach, reach))
        ax.legend()

    return _figure(name, title, paint, 4.6, 3.2, caption)


def moves(name: str, title: str, unit: str, rows: Sequence[Move], n_more: int) -> Html:
    """How far some numbers of an array have gone in some unit, each with its error."""
    caption = f"{n_more} more, which moved less, are in the table below." if n_more else ""

    def paint(ax: "Axes") -> None:
        places = np.arange(len(rows))[::-1]
        reach = 1.15 * max([abs(row.move) + min(row.error or 0.0, 2.0 * abs(row.move) + 0.2) for row in rows] + [0.1])
        ax.axvline(0.0, color=QUIET, linewidth=0.9, zorder=1)
        for place, row in zip(places, rows, strict=True):
            known = row.error is not None
            ax.hlines(place, 0.0, row.move, color="#d5dbe1", linewidth=3.5, zorder=1)
            if known:
                ax.errorbar(row.move, place, xerr=row.error, color=AFTER, elinewidth=1.2, capsize=2.5, zorder=2)
            ax.plot(row.move, place, "o", markersize=5, color=AFTER if known else BAD, mfc=AFTER if known else "white")
        ax.set(xlim=(-reach, reach), ylim=(-0.7, len(rows) - 0.3), xlabel=f"move / {unit}")
        ax.set_yticks(places, [_shortened(row.label) for row in rows])
        ax.tick_params(axis="y", length=0)
        ax.grid(visible=False, axis="y")

    return _figure(name, title, paint, 4.6, 1.05 + 0.21 * len(rows), caption)


def spectrum(name: str, title: str, relative: Sequence[float], tolerance: float) -> Html:
    """Eigenvalues from the stiffest to the loosest, relative to the largest."""
    values = np.sort(np.asarray(relative, float))[::-1]
    floor = 1e-3 * tolerance
    lost = values <= tolerance

    def paint(ax: "Axes") -> None:
        from matplotlib.ticker import MaxNLocator

        order = np.arange(1, len(values) + 1)
        shown = np.maximum(values, floor)
        for which, colour, label in ((~lost, AFTER, "determined"), (lost, BAD, "not determined by the data")):
            if which.any():
                ax.plot(order[which], shown[which], "o", color=colour, markersize=4.5, label=label)
        ax.set(xlabel="combination, from the stiffest", ylabel="eigenvalue / largest", yscale="log")
        ax.xaxis.set_major_locator(MaxNLocator(8, integer=True))
        ax.set_ylim(min(shown.min() / 5.0, 0.1), 5.0)
        _plain_logarithms(ax)
        if lost.any():
            ax.legend(loc="upper right")

    return _figure(name, title, paint, 4.6, 3.4)


def _figure(
    name: str, title: str, paint: Callable[["Axes"], None], width: float, height: float, caption: str = ""
) -> Html:
    """A figure of the page.

    Args:
        name: no other figure has it.
        title: for those who cannot see it.
        paint: fills its axes.
        width: inches.
        height: inches.
        caption: below it.
    """
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("a report needs matplotlib. Run: pip install 'diffff[plot]'") from None
    content = io.StringIO()
    with rc_context({**_STYLE}):  # pyright: ignore[reportArgumentType]
        figure = Figure(figsize=(width, height), layout="constrained")
        ax = figure.add_subplot()
        ax.set_title(_literal(title))
        paint(ax)
        figure.savefig(content, format="svg", metadata=dict.fromkeys(("Date", "Creator", "Format", "Type")))
    svg = _inline(content.getvalue(), name, title)
    return tag("figure", svg, tag("figcaption", caption) if caption else "")


def _inline(svg: str, name: str, title: str) -> Html:
    """An SVG file as part of a page: no prologue, nothing that names an address, identifiers of its own."""
    name, svg = re.sub(r"[^\w-]", "-", name), svg[svg.index("<svg") :]
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'\sxmlns(:\w+)?="[^"]*"', "", svg)
    svg = svg.replace("xlink:href=", "href=")
    svg = re.sub(r'\bid="([^"]+)"', rf'id="{name}-\1"', svg)
    svg = re.sub(r'(href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r'<svg [^>]*?(viewBox="[^"]*")[^>]*>', r"<svg \1>", svg, count=1)
    return Html(svg.replace("<svg ", f'<svg role="img" aria-label="{text(title)}" ', 1).strip())


def _plain_logarithms(ax: "Axes") -> None:
    """Powers of ten as they are read, and more ticks where there are hardly two of them."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator

    bottom, top = ax.get_ylim()
    if top < 5.0 * bottom:
        ax.yaxis.set_major_locator(MaxNLocator(5))
        ax.yaxis.set_minor_locator(NullLocator())
    elif top < 30.0 * bottom:
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: _tick(value)))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _tick(value: float) -> str:
    if 1e-2 <= value < 1e5:
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"10{raised}" if mantissa == "1" else f"{mantissa}·10{raised}"


def _robust_range(values: np.ndarray) -> tuple[float, float]:
    low, high = (float(values.min()), float(values.max())) if values.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin


def _literal(words: str) -> str:
    """Text that is no formula to matplotlib."""
    return words.replace("$", r"\$")


def _shortened(label: str, most: int = 34) -> str:
    return _literal(label if len(label) <= most else f"{label[: most - 1]}…")
