"""Pictures of a training run: learning curves, and parity plots of a test."""

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from diffff.errors import InputError
from diffff.train.lcurve import read_lcurve

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Title and unit of each quantity; the keys are the names in lcurve.out and the endings of detail files.
CURVES = {
    "rmse_e": ("Energy RMSE", "eV/atom"),
    "rmse_f": ("Force RMSE", "eV/Å"),
    "rmse_v": ("Virial RMSE", "eV/atom"),
    "rmse_ae": ("Atomic energy RMSE", "eV"),
    "rmse_pf": ("Weighted force RMSE", "eV/Å"),
    "rmse_gf": ("Generalized force RMSE", "eV/Å"),
    "mae_e": ("Energy MAE", "eV/atom"),
    "mae_f": ("Force MAE", "eV/Å"),
    "mae_v": ("Virial MAE", "eV/atom"),
    "rmse": ("√loss", "weighted"),
    "lr": ("Learning rate", ""),
}
PARITIES = {
    "e": ("Energy", "eV"),
    "e_peratom": ("Energy", "eV/atom"),
    "ae": ("Atomic energy", "eV"),
    "f": ("Force components", "eV/Å"),
    "v": ("Virial components", "eV"),
    "v_peratom": ("Virial components", "eV/atom"),
}
COLOURS = ("#2a6f97", "#e07a1f", "#3a8f5c", "#b23a48", "#7b5ea7", "#6b7280")  # one for each file
MAX_POINTS = 20_000  # drawn in one parity panel; the errors are those of all


def plot(inputs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Draw learning curves and parity plots as panels of one picture.

    Args:
        inputs: Files `lcurve.out` and detail files of a test (PREFIX.e.out, PREFIX.f.out, …), or a PREFIX,
            which stands for its files, those of the energy and virial per atom where they exist. Several files
            of one kind are overlaid.
        output: The picture; its suffix (.png, .svg, .pdf) chooses the format. By default the first input, .png.

    Returns:
        The path of the picture.

    Raises:
        InputError: A file is missing or of neither kind, the suffix is unknown, or matplotlib is not installed.
    """
    files = [file for given in inputs for file in _expanded(Path(given))]
    curves = {file: read_lcurve(file) for file in files if _is_lcurve(file)}
    parities: dict[str, dict[Path, np.ndarray]] = {}
    for file in files:
        if file not in curves:
            kind = _parity_kind(file)
            parities.setdefault(kind, {})[file] = _read_detail(file)

    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError:
        raise InputError("plots need matplotlib. Run: pip install 'diffff[plot]'") from None
    first = Path(inputs[0])
    if output is None:
        output = first.with_suffix(".png") if first.is_file() else first.with_name(f"{first.name}.png")
    output = Path(output)
    names = _curve_names(curves.values())
    n_panels = len(names) + len(parities)
    if not n_panels:
        raise InputError(f"{', '.join(map(str, files))}: no row with a number yet, so there is nothing to draw")
    n_columns = n_panels if n_panels <= 3 else -(-n_panels // 2)
    n_rows = -(-n_panels // n_columns)
    colours = {file: COLOURS[index % len(COLOURS)] for index, file in enumerate(curves)}
    with rc_context(_style()):
        figure = Figure(figsize=(4.4 * n_columns, 3.9 * n_rows), layout="constrained")
        axes = figure.subplots(n_rows, n_columns, squeeze=False).ravel()
        for name, ax in zip(names, axes, strict=False):
            _draw_curves(ax, name, curves, colours)
        for kind, ax in zip(parities, axes[len(names) :], strict=False):
            _draw_parity(ax, kind, parities[kind])
        for ax in axes[n_panels:]:
            ax.set_axis_off()
        _save(figure, output)
    return output


def _expanded(path: Path) -> list[Path]:
    """The files a name stands for: itself, or as a prefix those of a test."""
    if path.is_file():
        return [path]
    found = {kind: path.with_name(f"{path.name}.{kind}.out") for kind in PARITIES}
    found = {kind: file for kind, file in found.items() if file.is_file()}
    if not found:
        raise InputError(f"{path}: there is no such file, and no {path.name}.e.out, {path.name}.f.out, … either")
    return [file for kind, file in found.items() if f"{kind}_peratom" not in found]


def _is_lcurve(path: Path) -> bool:
    with path.open(encoding="utf-8", errors="replace") as file:
        return file.readline().lstrip("#").split()[:1] == ["step"]


def _parity_kind(path: Path) -> str:
    kind = path.suffixes[-2].lstrip(".") if len(path.suffixes) >= 2 else ""
    if path.suffix != ".out" or kind not in PARITIES:
        raise InputError(
            f"{path}: neither a learning curve (its first line would begin with # step) nor a detail file of "
            f"`dff test -d PREFIX` (PREFIX.{{{','.join(PARITIES)}}}.out)"
        )
    return kind


def _read_detail(path: Path) -> np.ndarray:
    """Labels and predictions of a detail file, of shape (2, n_values); rows without a label (nan) are dropped."""
    try:
        table = np.loadtxt(path, ndmin=2)
    except ValueError as error:
        raise InputError(f"{path}: {error}") from None
    if table.size == 0 or table.shape[1] % 2:
        raise InputError(f"{path}: expected as many columns data_* as pred_*, found {table.shape[1]} in all")
    pairs = np.stack([half.ravel() for half in np.split(table, 2, axis=1)])
    return pairs[:, np.isfinite(pairs).all(axis=0)]


def _curve_names(curves: Iterable[dict[str, np.ndarray]]) -> list[str]:
    """The quantities that have a number in some file: errors in physical units first, the learning rate last."""
    present = {
        column.removesuffix("_val").removesuffix("_trn")
        for curve in curves
        for column, values in curve.items()
        if column != "step" and np.isfinite(values).any()
    }
    known = [name for name in CURVES if name in present]
    return known + sorted(present.difference(known))


def _draw_curves(ax: "Axes", name: str, curves: dict[Path, dict[str, np.ndarray]], colours: dict[Path, str]) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

    labels = _short_names(curves, ".out")
    for file, curve in curves.items():
        prefix = f"{labels[file]}, " if len(curves) > 1 else ""
        styles = {f"{name}_trn": ("training", 0.45, 1.0), f"{name}_val": ("validation", 1.0, 1.8), name: ("", 1.0, 1.8)}
        for column, (label, alpha, width) in styles.items():
            if column in curve:
                shown = np.where(curve[column] > 0, curve[column], np.nan)
                label = f"{prefix}{label}".removesuffix(", ")
                ax.plot(curve["step"], shown, color=colours[file], alpha=alpha, linewidth=width, label=label)
    title, unit = CURVES.get(name, (name, ""))
    ax.set(title=title, xlabel="step", ylabel=unit, yscale="log")
    ax.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
    bottom, top = ax.get_ylim()
    if top < 30 * bottom:  # hardly a power of ten in sight
        ax.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.5, 2.0, 3.0, 5.0, 7.0)))
    steps = np.concatenate([curve["step"] for curve in curves.values()])
    ax.set_xlim(0, max(steps.max(initial=0), 1))
    if any(text for text in ax.get_legend_handles_labels()[1]):
        ax.legend().set_in_layout(False)  # a long name must not squeeze the panel


def _draw_parity(ax: "Axes", kind: str, files: dict[Path, np.ndarray]) -> None:
    from matplotlib.ticker import MaxNLocator

    title, unit = PARITIES[kind]
    labels = _short_names(files, f".{kind}.out")
    values = np.concatenate([pairs.ravel() for pairs in files.values()])
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    margin = 0.04 * (high - low) or 1.0
    ends = (low - margin, high + margin)
    ax.plot(ends, ends, color="#9ca3af", linewidth=1.0, zorder=1)
    for index, (file, pairs) in enumerate(files.items()):
        label, predicted = pairs
        error = predicted - label
        scores = f"RMSE {np.sqrt(np.mean(error**2)):.3g} {unit}" if error.size else "no labels"
        ax.plot(
            *pairs[:, :: max(1, -(-label.size // MAX_POINTS))],
            linestyle="",
            marker="o",
            markersize=2.5,
            markeredgewidth=0,
            alpha=0.35,
            color=COLOURS[index % len(COLOURS)],
            label=f"{labels[file]}: {scores}" if len(files) > 1 else scores,
            rasterized=True,
        )
    ax.set(title=title, xlabel=f"label ({unit})", ylabel=f"model ({unit})", xlim=ends, ylim=ends, aspect="equal")
    ax.xaxis.set_major_locator(MaxNLocator(4))
    ax.yaxis.set_major_locator(MaxNLocator(4))
    ax.legend(loc="upper left", markerscale=2.5, handletextpad=0.2, borderaxespad=0.1).set_in_layout(False)


def _short_names(files: Iterable[Path], ending: str) -> dict[Path, str]:
    """A name for each file that tells it from the others: its path below the directory that holds all of them."""
    paths = {file: file.resolve() for file in files}
    above = os.path.commonpath([path.parent for path in paths.values()])
    return {file: str(path.relative_to(above)).removesuffix(ending) for file, path in paths.items()}


def _style() -> dict[Any, Any]:
    return {
        "font.size": 10,
        "axes.titlesize": 11,
        "axes.titleweight": "bold",
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "#e5e7eb",
        "legend.edgecolor": "none",
        "legend.fontsize": 8.5,
        "svg.hashsalt": "diffff",  # the same picture gives the same file
        "savefig.dpi": 160,
    }


def _save(figure: "Figure", output: Path) -> None:
    output.parent.mkdir(parents=True, exist_ok=True)
    supported = figure.canvas.get_supported_filetypes()
    if output.suffix.lstrip(".").lower() not in supported:
        raise InputError(f"{output}: cannot write this format; choose one of {', '.join(sorted(supported))}")
    figure.savefig(output)
