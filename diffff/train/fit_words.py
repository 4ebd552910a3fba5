"""What a fit tells at its end: how it ended, what the numbers are, and the errors before and after."""

from collections.abc import Mapping, Sequence
from typing import Any

from diffff.fit.information import Known
from diffff.fit.problem import UNITS
from diffff.fit.record import pooled
from diffff.fit.solve import Fit
from diffff.train.columns import aligned

OF_ERRORS = {"rmse": "sigma", **{f"rmse_{target}": unit for target, unit in UNITS.items()}}
"""Units of the errors in the learning curve of a fit, by name."""
_SPLITS = {"train": "training", "valid": "validation"}


def ending(done: Fit, max_steps: int) -> str:
    """How the fit ended; a warning where there is no minimum and might be one."""
    steps = f"{done.n_steps} step{'' if done.n_steps == 1 else 's'}"
    if done.converged is None:
        return (
            f"{steps} of descent, to the end of its learning rate: whether this is a minimum, the curve shows. To go "
            "further, begin with these numbers by --init-model (with --restart and a larger numb_steps the rate would "
            "rise again), or let LeastSquares end it"
        )
    if done.converged:
        return f"minimum after {steps}"
    if done.n_steps >= max_steps:
        return f"no minimum yet after {steps}; raise numb_steps and go on with --restart"
    return f"no minimum: after {steps} the optimizer found no way down; try another optimizer, scales or bounds"


def scatter(done: Fit) -> str:
    """The objective, and the scatter that the error bars rest on."""
    return (
        f"objective {done.start:.6g} -> {done.end:.6g}; the residuals scatter by {done.known.scatter:.3g} times their "
        "sigmas, which the error bars below allow for"
    )


def combinations(known: Known, labels: Sequence[str]) -> list[str]:
    """What the data determine best and least, a line each."""
    each = (("best", known.stiff(list(labels))), ("least", known.sloppy(list(labels))))
    return [f"determined {how} by the data: {'; '.join(one.words for one in some)}" for how, some in each if some]


def errors(entries: Sequence[Mapping[str, Any]]) -> list[str]:
    """A table of root mean square errors before and after, by target, over all systems.

    Args:
        entries: the part "errors" of a record.
    """
    rows = [("root mean square errors", "unit", "before", "after")]
    targets = dict.fromkeys(one["target"] for one in entries)
    for split, title in _SPLITS.items():
        for target in targets:
            some = [one for one in entries if (one["split"], one["target"]) == (split, target)]
            if some:
                before, after = pooled(some)
                rows.append((f"{title}, {target}", some[0]["unit"], f"{before:.4g}", f"{after:.4g}"))
    return aligned(rows)


def left_out(system: str, without: Mapping[str, float], fitted: Mapping[str, float]) -> str:
    """How well a system is predicted by a fit to the others, beside the fit to all."""
    each = (
        f"{name} = {value:.4g} {OF_ERRORS[name]} ({fitted[name]:.4g} in the fit to all)"
        for name, value in without.items()
    )
    return f"without {system}: its {', '.join(each)}"
