"""The sections of a report that a fit of a force field fills."""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from diffff.fit.information import RANK_TOLERANCE
from diffff.fit.notes import with_error
from diffff.fit.parity import Parity
from diffff.fit.record import errors_of, pooled
from diffff.fit.standing import UNKNOWN
from diffff.report import figures
from diffff.report.page import Column, Html, Rows, Section, facts, grid, join, number, table, tag

SPLITS = {"train": "training", "valid": "validation"}
_BEFORE_AND_AFTER = "Root mean square errors before and after the fit."
_IN_SIGMAS = (
    "Deviations after the fit in units of the sigmas that were assumed. Sigmas of the right size give the normal "
    "distribution. All error bars are for a scatter of {}, as the residuals show it."
)
_OF_SUM = (
    "Before: the other parts of the sum, as the files had them; after: the sum with the network at the end. Energies "
    "are relative to their mean over the frames of a system. Of large data some frames are looked at."
)
_AS_IT_IS = "Errors take the network as it is: what it could take over from a number is not in them."
_MOST_ROWS = 12  # of an array in a figure
_MOST_ARRAYS = 16  # with a figure
_MOST_NUMBERS = 2000  # in the table of all numbers


def sections(record: dict[str, Any], parities: Sequence[Parity]) -> list[Section]:
    """What a fit's record tells; the first section is the summary."""
    in_sigmas = _IN_SIGMAS.format(number(record["objective"]["scatter"]))
    parts = [
        Section("summary", "Summary", _summary(record)),
        Section("parity", "Predictions and reference", _parity(parities)),
        Section(
            "errors", "Errors by system", join([*_errors(record["errors"], _BEFORE_AND_AFTER), *_left_out(record)])
        ),
        Section("residuals", "Residuals", _residuals(parities, in_sigmas)),
        Section("moves", "How far the numbers moved", _moves(record["numbers"])),
        Section("directions", "What the data determine", _directions(record)),
        Section("numbers", "All numbers", _numbers(record["numbers"])),
    ]
    return [part for part in parts if part.content]


def of_sum(rows: dict[str, Any] | None, parities: Sequence[Parity]) -> list[Section]:
    """What a network says together with the other parts of its sum, and what has become of numbers of these, if any."""
    words, quiet = tag("p", _OF_SUM, class_="quiet"), tag("p", _AS_IT_IS, class_="quiet")
    wide = "Deviations of the sum in units of their root mean square over the training frames."
    parts = [
        Section("parity", "Predictions and reference", join([words, _parity(parities, "model")])),
        Section("errors", "Errors by system", join(_errors([errors_of(one) for one in parities], _OF_SUM))),
        Section("residuals", "Residuals", _residuals(parities, wide)),
    ]
    if rows is not None:
        parts += [
            Section("moves", "How far the numbers of the force field moved", _moves(rows["numbers"])),
            Section("directions", "What the data determine, the network being as it is", _directions(rows)),
            Section("numbers", "Numbers of the force field", join([quiet, _numbers(rows["numbers"])])),
        ]
    return [part for part in parts if part.content]


def _summary(record: dict[str, Any]) -> Html:
    objective, numbers = record["objective"], record["numbers"]
    n_frames = {split: _n_frames(record["errors"], split) for split in SPLITS}
    n_systems = len({one["system"] for one in record["errors"] if one["split"] == "train"})
    loose = sum(_standing(one) == UNKNOWN for one in numbers)
    arrays = {one["array"] for one in numbers}
    how = {True: "reached a minimum after", False: "had not reached a minimum after"}
    words = (
        f"The fit to {_several(n_frames['train'], 'frame')} of {_several(n_systems, 'system')} moved "
        f"{_several(len(numbers), 'number')} of {_several(len(arrays), 'array')} and "
        f"{how.get(objective['converged'], 'went down to the end of its learning rate in')} "
        f"{_several(objective['steps'], 'step')}. The objective went from {number(objective['start'], 4)} to "
        f"{number(objective['end'], 4)}."
    )
    forces = {
        split: [one for one in record["errors"] if (one["split"], one["target"]) == (split, "force")]
        for split in ("valid", "train")
    }
    split, some = next(((split, some) for split, some in forces.items() if some), ("", []))
    shown = {
        "Objective": (
            f"{number(objective['start'])} → {number(objective['end'])}",
            "half the sum of squared residuals",
        ),
        "Frames": (str(n_frames["train"]), f"and {n_frames['valid']} for validation"),
        "Numbers": (str(len(numbers)), f"{loose} not determined by the data" if loose else "all determined"),
        "Scatter": (number(objective["scatter"]), "residuals in units of the sigmas; 1 if these are right"),
    }
    if some:
        (before, after), unit = pooled(some), some[0]["unit"]
        words += f" The force error on {SPLITS[split]} frames went from {number(before)} to {number(after)} {unit}."
        shown["Force error"] = (f"{number(before)} → {number(after)}", f"{unit}, {SPLITS[split]}")
    return join([tag("p", words, class_="lead"), facts(shown)])


def _parity(parities: Sequence[Parity], what: str = "force field") -> Html:
    panels = []
    for split, target in _pairs([{"split": one.split, "target": one.target} for one in parities]):
        some = [one for one in parities if (one.split, one.target) == (split, target)]
        reference = np.concatenate([one.reference.ravel() for one in some])
        before = np.concatenate([one.before.ravel() for one in some])
        after = np.concatenate([one.after.ravel() for one in some])
        title = f"{target.capitalize()}, {SPLITS[split]}"
        panels.append(figures.parity(f"parity-{split}-{target}", title, some[0].unit, reference, before, after, what))
    return grid(panels) if panels else Html("")


def _errors(errors: Sequence[dict[str, Any]], words: str) -> Iterable[Html]:
    titles = ("frames", "before", "after", "after / before")
    columns = [Column("System", "any"), *(Column(title, "n") for title in titles)]
    groups: dict[str, list[Rows]] = {}
    for split, target in _pairs(errors):
        some = [one for one in errors if (one["split"], one["target"]) == (split, target)]
        rows = [(one["system"], one["n_frames"], *_ratio(one["before"], one["after"])) for one in some]
        total = None
        if len(some) > 1:
            total = ("all", sum(one["n_frames"] for one in some), *_ratio(*pooled(some)))
        note = f"{some[0]['unit']}, sigma {_plain(some[0]['sigma'])}"
        groups.setdefault(split, []).append(Rows(f"{target.capitalize()}, {SPLITS[split]}", note, rows, total))
    if groups:
        yield tag("p", words, class_="quiet")
        yield grid([table(columns, some) for some in groups.values()], "tables")


def _left_out(record: dict[str, Any]) -> Iterable[Html]:
    """Errors of each system in a fit to the others."""
    rows = []
    for one in record.get("left_out", []):
        fitted = {e["target"]: e for e in record["errors"] if (e["split"], e["system"]) == ("train", one["system"])}
        for target, entry in fitted.items():
            value = one["errors"].get(f"rmse_{target}")
            if value is not None:
                rows.append((one["system"], f"{target}, {entry['unit']}", *_ratio(entry["after"], value)))
    if rows:
        titles = ("fitted", "left out", "left out / fitted")
        columns = [Column("System", "any"), Column("Target"), *(Column(title, "n") for title in titles)]
        yield tag("h3", "Each system predicted by a fit to the others")
        yield table(columns, [Rows("", "", rows)])


def _residuals(parities: Sequence[Parity], words: str) -> Html:
    panels = []
    for target in dict.fromkeys(one.target for one in parities):
        found = {}
        for split, name in SPLITS.items():
            some = [one for one in parities if (one.split, one.target) == (split, target)]
            if some:
                found[name] = np.concatenate([(one.after - one.reference).ravel() / one.sigma for one in some])
        panels.append(figures.residuals(f"residuals-{target}", target.capitalize(), found))
    if not panels:
        return Html("")
    return join([tag("p", words, class_="quiet"), grid(panels)])


def _moves(numbers: Sequence[dict[str, Any]]) -> Html:
    panels, by_array = [], _by_array(numbers)
    moved = {array: sorted(map(_move, some), key=lambda one: -abs(one.move)) for array, some in by_array.items()}
    order = sorted(moved, key=lambda array: -abs(moved[array][0].move))
    for k, array in enumerate(order[:_MOST_ARRAYS]):
        units = {"scale" if one["prior"] is None else "prior sigma" for one in by_array[array]}
        rows, unit = moved[array], " or ".join(sorted(units))
        panels.append(figures.moves(f"moves-{k}", array, unit, rows[:_MOST_ROWS], max(len(rows) - _MOST_ROWS, 0)))
    words = (
        "From the start, in units of what each number was expected to change: the sigma of its prior, or its scale. "
        "Bars are standard errors; hollow red points are not determined by the data."
    )
    more = len(order) - _MOST_ARRAYS
    if more > 0:
        words += f" {_several(more, 'array')} with smaller moves {'is' if more == 1 else 'are'} left out."
    return join([tag("p", words, class_="quiet"), grid(panels)])


def _directions(record: dict[str, Any]) -> Html:
    columns = [Column("Eigenvalue", "n"), Column("Combination", "any")]

    def listed(name: str) -> list[tuple[str, str]]:
        return [(number(max(one["relative"], 0.0), 2), one["words"]) for one in record["combinations"][name]]

    words = (
        "Eigenvalues of JᵀJ relative to the largest, in units of the scales of the numbers: how strongly a combination "
        "of numbers changes the residuals."
    )
    loose = [one["label"] for one in record["numbers"] if _standing(one) == UNKNOWN]
    told = "None: data or priors hold every number."
    if loose:
        more = f" and {len(loose) - 200} more" if len(loose) > 200 else ""
        told = (
            f"{', '.join(loose[:200])}{more}. Neither data nor priors hold what stands here; its values mean nothing."
        )
    picture = figures.spectrum("spectrum", "Spectrum", record["spectrum"], RANK_TOLERANCE)
    lists = [
        part
        for title, rows in (("Determined best", listed("stiff")), ("Determined least", listed("sloppy")))
        if rows
        for part in (tag("h3", title), table(columns, [Rows("", "", rows)]))
    ]
    left = tag("div", picture, tag("h3", "Not determined"), tag("p", told))
    return join([tag("p", words, class_="quiet"), grid([left, tag("div", *lists)])])


def _numbers(numbers: Sequence[dict[str, Any]]) -> Html:
    titles = ("start", "value", "± error", "from data", "prior σ", "bounds")
    columns = [Column("Number", "s"), *(Column(title, "n") for title in titles), Column("place", "s")]
    groups, left = [], _MOST_NUMBERS
    for array, some in _by_array(numbers).items():
        if left > 0:
            unit = (some[0]["unit"] or "").replace("^2", "²").replace("^3", "³")
            groups.append(Rows(array, unit, [_row(one) for one in some[:left]]))
        left -= len(some)
    parts = [table(columns, groups)]
    if left < 0:
        parts.append(tag("p", f"{-left} more are in fit.json.", class_="quiet"))
    return join(parts)


def _row(one: dict[str, Any]) -> tuple[object, ...]:
    value, error = _plain(one["value"]), _standing(one)
    if not error:
        value, error = (text.replace("-", "−") for text in with_error(one["value"], one["error"]))
    place = "" if one["file"] is None else f"{one['file']}:{one['line']}, {one['attribute']}"
    prior = "" if one["prior"] is None else _plain(one["prior"]["sigma"])
    share = "–" if _standing(one) else f"{one['from_data']:.0%}"
    return one["label"], _plain(one["start"]), value, error, share, prior, _range(one["bounds"]), place


def _standing(one: dict[str, Any]) -> str:
    """What is told in the place of an error, or nothing."""
    return one.get("standing") or (UNKNOWN if one["error"] is None else "")  # older records have none


def _plain(value: float) -> str:
    return f"{value:.7g}".replace("-", "−")


def _range(bounds: Sequence[float | None] | None) -> str:
    low, high = bounds or (None, None)
    if low is not None and high is not None:
        return f"{_plain(low)} … {_plain(high)}"
    if low is not None:
        return f"≥ {_plain(low)}"
    return "" if high is None else f"≤ {_plain(high)}"


def _move(one: dict[str, Any]) -> figures.Move:
    unit = one["scale"] if one["prior"] is None else one["prior"]["sigma"]
    error = None if _standing(one) == UNKNOWN else (one["error"] or 0.0) / unit
    return figures.Move(one["label"], (one["value"] - one["start"]) / unit, error)


def _by_array(numbers: Sequence[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    found: dict[str, list[dict[str, Any]]] = {}
    for one in numbers:
        found.setdefault(one["array"], []).append(one)
    return found


def _pairs(errors: Iterable[dict[str, Any]]) -> list[tuple[str, str]]:
    """Split and target, targets in their order, training first."""
    there = dict.fromkeys((one["split"], one["target"]) for one in errors)
    targets = dict.fromkeys(target for _, target in there)
    return [(split, target) for target in targets for split in SPLITS if (split, target) in there]


def _n_frames(errors: Sequence[dict[str, Any]], split: str) -> int:
    """Frames of a split; a system has as many as the target with most of them."""
    of_system: dict[str, int] = {}
    for one in errors:
        if one["split"] == split:
            of_system[one["system"]] = max(of_system.get(one["system"], 0), one["n_frames"])
    return sum(of_system.values())


def _ratio(first: float | None, second: float | None) -> tuple[str, str, str]:
    known = first and second and math.isfinite(first) and math.isfinite(second)
    return number(first), number(second), number(second / first, 2) if known else "–"  # pyright: ignore


def _several(count: int, noun: str) -> str:
    return f"{count} {noun}" + ("" if count == 1 else "s")
