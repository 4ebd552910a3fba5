"""`report`: the page of a run, from what it left in its directory."""

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from diffff import __version__
from diffff.errors import InputError
from diffff.files import replacing
from diffff.fit import parity, record
from diffff.fit.number_record import read_rows
from diffff.fit.problem import UNITS
from diffff.fit.provenance import sha256_of
from diffff.report import figures, fit
from diffff.report.page import Column, Html, Rows, Section, facts, grid, join, number, page, table, tag
from diffff.train.lcurve import read_lcurve
from diffff.train.outputs import last_checkpoint, parity_of_sum
from diffff.train.plot import CURVES
from diffff.train.start import has_network

_FIT_CURVES = {
    "rmse": ("Root mean square of residuals", "in units of the sigmas"),
    **{f"rmse_{target}": (f"{target.capitalize()} RMSE", unit) for target, unit in UNITS.items()},
}
_OF_VALIDATION = {"E": "Energy", "F": "Force", "S": "Stress", "V": "Virial"}
Curve = dict[str, np.ndarray]


def report(folder: str | Path, output: str | Path | None = None) -> Path:
    """Write the page of a run of `dff train`.

    Args:
        folder: where it ran.
        output: the file; None: ``report.html`` in the folder.

    Returns:
        The file.

    Raises:
        InputError: the directory holds no run, a file in it is damaged, or matplotlib is not installed.
    """
    folder = Path(folder)
    output = folder / "report.html" if output is None else Path(output)
    if not folder.is_dir():
        raise InputError(f"{folder}: there is no such directory. Give the one in which `dff train` ran.")
    if output.is_dir():
        raise InputError(f"{output}: is a directory. Give the name of a file for the page.")
    parts = _of_fit(folder) if _is_of_fit(folder) else _of_training(folder)
    name = folder.resolve().name
    note = f"Report of a run of dff train, made on {datetime.now(UTC):%Y-%m-%d} with diffff {__version__}."
    with replacing(output) as path:
        path.write_text(page(name, note, parts, "This page needs no other file and no network."), encoding="utf-8")
    return output


def _of_fit(folder: Path) -> list[Section]:
    found = record.read_record(folder)
    curve = {name: np.array([np.nan if x is None else x for x in column]) for name, column in found["curve"].items()}
    summary, *others = fit.sections(found, parity.read_parity(folder / parity.FILE))
    learning = [Section("curve", "Learning curve", grid(_curves(curve, _FIT_CURVES)))] if curve else []
    return [summary, *learning, *others, _provenance(found["provenance"])]


def _is_of_fit(folder: Path) -> bool:
    """Whether the last run there was a fit: it left a record, and no training of a network has begun since."""
    completed = folder / "out.json"
    if not (folder / record.FILE).is_file():
        return False
    return not (completed.is_file() and has_network(_json(completed)))


def _of_training(folder: Path) -> list[Section]:
    """The sections of a Deep Potential."""
    completed = folder / "out.json"
    given = _json(completed) if completed.is_file() else {}
    training, validating = (given.get(key) or {} for key in ("training", "validating"))
    disp_file = folder / training.get("disp_file", "lcurve.out")
    if not disp_file.is_file():
        raise InputError(
            f"{folder}: holds no run of `dff train`, for there is neither {record.FILE} nor {disp_file.name}. Give the "
            "directory in which it ran."
        )
    curve, val_log = read_lcurve(disp_file), folder / validating.get("full_val_file", "val.log")
    parts = [
        Section("summary", "Summary", _training_summary(curve)),
        Section("curve", "Learning curve", grid(_curves(curve, CURVES))),
    ]
    files = [completed, disp_file]
    if val_log.is_file():
        parts.append(Section("validation", "All validation frames", _validation(read_lcurve(val_log))))
        files.append(val_log)
    xml_dir = folder / training.get("xml_dir", "fitted")
    checkpoint = folder / last_checkpoint(training.get("save_dir"), training.get("save_ckpt", "model.ckpt"))
    of_sum = parity_of_sum(checkpoint)
    if rows := read_rows(xml_dir):
        parts += fit.of_sum(rows, parity.read_parity(xml_dir / parity.FILE))
    elif of_sum.is_file():
        parts += fit.of_sum(None, parity.read_parity(of_sum))
    origin: dict[str, Any] = {"input": given, "versions": {}}
    if checkpoint.is_file():
        files.append(checkpoint)
        origin["versions"] = _versions(checkpoint)
    origin["files"] = [{"path": file.name, "sha256": sha256_of(file)} for file in files if file.is_file()]
    return [*parts, _provenance(origin)]


def _training_summary(curve: Curve) -> Html:
    if not len(curve["step"]):
        return tag("p", "The run has written no line of its learning curve yet.", class_="lead")
    step = int(curve["step"][-1])
    shown = {"Steps": (str(step), "in the learning curve")}
    for column, values in curve.items():
        name, _, split = column.rpartition("_")
        preferred = split == "val" or f"{name}_val" not in curve
        if name in ("rmse_e", "rmse_f", "rmse_v", "mae_e", "mae_f") and preferred and np.isfinite(values).any():
            title, unit = CURVES[name]
            which = "validation" if split == "val" else "training"
            shown[title] = (number(float(values[np.isfinite(values)][-1])), f"{unit}, last {which} batch shown")
    words = f"The training has come to step {step}."
    return join([tag("p", words, class_="lead"), facts(shown)])


def _curves(curve: Curve, titles: dict[str, tuple[str, str]]) -> list[Html]:
    """A panel for each quantity with a number above zero."""
    names = dict.fromkeys(column.removesuffix("_val").removesuffix("_trn") for column in curve if column != "step")
    order = sorted(names, key=lambda name: list(titles).index(name) if name in titles else len(titles))
    panels = []
    for name in order:
        columns = {"training": f"{name}_trn", "validation": f"{name}_val", "": name}
        lines = {label: (curve["step"], curve[column]) for label, column in columns.items() if column in curve}
        lines = {label: both for label, both in lines.items() if (both[1] > 0.0).any()}
        title, unit = titles.get(name, CURVES.get(name, (name, "")))
        if lines:
            panels.append(figures.curve(f"curve-{name}", title, unit, lines))
    return panels


def _validation(table_of: Curve) -> Html:
    """The columns of a val.log, whose names have their units: ``F_RMSE(meV/Å)``."""
    panels = []
    for column, values in table_of.items():
        name, _, unit = column.rstrip(")").partition("(")
        letter, _, kind = name.partition("_")
        if kind == "RMSE" and (values > 0.0).any():
            title = f"{_OF_VALIDATION.get(letter, letter)} RMSE"
            panels.append(figures.curve(f"all-{name}", title, unit, {"validation": (table_of["step"], values)}))
    return grid(panels)


def _provenance(origin: dict[str, Any]) -> Section:
    parts = []
    head = [(name, version) for name, version in origin.get("versions", {}).items()]
    if "date" in origin:
        head.insert(0, ("date", origin["date"]))
    if head:
        parts.append(table([Column("Made with"), Column("")], [Rows("", "", head)]))
    groups = [
        Rows(title, "", [(one["path"], one["sha256"]) for one in origin.get(key, [])])
        for key, title in (("files", "Files"), ("data", "Data"))
        if origin.get(key)
    ]
    if groups:
        parts.append(table([Column("Path", "any"), Column("SHA-256", "mono")], groups))
    if origin.get("data"):
        how = "find . -type f | LC_ALL=C sort | xargs sha256sum | sha256sum"
        parts.append(tag("p", "The hash of a directory is that of ", tag("code", how), " in it.", class_="quiet"))
    if origin.get("input"):
        parts.append(tag("h3", "Completed input"))
        parts.append(tag("pre", json.dumps(origin["input"], indent=2, ensure_ascii=False)))
    return Section("provenance", "Provenance", join(parts))


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({error}). It is the completed input that a run writes.") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: is no input of `dff train`: it should be a JSON object.")
    return content


def _versions(checkpoint: Path) -> dict[str, str]:
    """The program of a checkpoint, and its step."""
    try:
        with h5py.File(checkpoint) as file:
            header = json.loads(file["header"][()])  # pyright: ignore
            return {"diffff": str(header["version"]), "step of the checkpoint": str(header["step"])}
    except (OSError, KeyError, ValueError, TypeError):
        return {}  # the checkpoint of another program
