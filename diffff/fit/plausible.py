"""Labels unlike those of the force field are noticed: in another unit, of the other sign, or total energies.

A force field worth fitting has forces right to a factor of a few and dipoles to a factor of two; most units in use
differ by more. In frames that the reference has relaxed, its forces are small and those of the force field are not;
these do not point along each other, which tells them from forces in a larger unit. Neither do the dipoles of charges
that mean nothing yet point along those of the reference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffff.errors import InputError
from diffff.fit.bonds import require_bonds
from diffff.fit.known_units import DIPOLES, ENERGIES, FORCES, POTENTIALS, nearest
from diffff.fit.points import require_points
from diffff.fit.problem import UNITS, FitSystem, Sigmas, predicted
from diffff.fit.targets import OFF_INTEGER, charges
from diffff.frontend.reference import symbols_of
from diffff.potentials.base import Params
from diffff.potentials.deep import DeepPot

_FRAMES = 20  # that are looked at
_FEW = 30  # values, that point anywhere by chance
_OFFSET = (1000.0, 30.0)  # kJ/mol, and spreads, that the mean of absolute energies may be off by


class _Check(NamedTuple):
    """How far labels may be from the force field at the start.

    Attributes:
        what: they are, in words.
        of_files: their unit in files of eV and Å, and in those of kJ/mol and nm.
        sizes: of units in use, in diffff's.
        factors: by which the root mean square of labels may be larger, and by which smaller.
        along: least cosine between both to be another unit, where labels are larger, and where they are smaller.
        opposite: what to ask of labels that point against those of the force field; None: they may.
        size: smallest ratio of root mean squares at which their sign means anything.
    """

    what: str
    of_files: tuple[str, str]
    sizes: Mapping[str, float]
    factors: tuple[float, float] = (15.0, 15.0)
    along: tuple[float, float] = (-1.0, 0.3)
    opposite: str | None = None
    size: float = 0.0


_ALONG = 0.7  # cosine between labels and a force field that is all of them but for its errors, or more
_AGAINST = -0.5  # cosine between labels and force field, below which the sign is the other one
_ASSUMED = ("eV/Angstrom", "kJ/mol/nm")
_CHECKS = {
    "force": _Check("forces", ("eV/Å", "kJ/mol/nm"), FORCES, opposite="are they gradients? Forces are -dE/dx"),
    "energy": _Check("energies, without their mean,", ("eV", "kJ/mol"), ENERGIES, (10.0, 15.0)),
    "virial": _Check(
        *("virials", ("eV", "kJ/mol"), ENERGIES),
        along=(0.5, 0.5),
        opposite="are they stresses of the other sign? Virials are -dE/d(strain)",
        size=1.0 / 3.0,  # those of a cell at rest are small, of any sign
    ),
    "interaction": _Check("interaction energies", ("eV", "kJ/mol"), ENERGIES, (6.0, 15.0), (0.5, 0.5)),
    "dipole": _Check(
        *("dipoles", ("e Å", "e nm"), DIPOLES, (3.0, 3.0), (0.5, 0.5)),
        opposite="do they point from the positive to the negative charge? They are sums of q x",
    ),
    "esp": _Check(
        *("electrostatic potentials", ("V", "kJ/mol/e"), POTENTIALS, (5.0, 5.0), (0.5, 0.5)),
        opposite="are they energies of an electron? They are those of a positive charge",
    ),
}
_OFF = "Convert them, or, if they are right, switch this check off by check_units."


def require_plausible(
    system: FitSystem,
    params: Params,
    topology: Any,
    assumed: str,
    targets: Sequence[str] = tuple(UNITS),
    *,
    relative: bool = True,
    whole: bool = True,
) -> None:
    """Refuse frames that must be in another unit, of another sign, or in another order than they are said to be.

    Bonds come first, then each target is compared with the potential at the start. A potential of nothing but Deep
    Potentials, which may be untrained, is not compared, nor are fewer than three relative energies.

    Args:
        system: the frames, in nm and kJ/mol.
        params: parameters at the start.
        topology: ``openmm.app.Topology``.
        assumed: the unit of the files, "eV/Angstrom" or "kJ/mol/nm".
        targets: what matters.
        relative: whether energies are up to a constant.
        whole: whether the labels should be those of the potential, and not of more, as beneath a network.

    Raises:
        InputError: see `require_bonds`; labels point against those of the potential; dipoles are off by a factor of
            more than 3, electrostatic potentials by more than 5, or other labels by what `_CHECKS` says; or absolute
            energies are far from those of the potential.
    """
    files = _ASSUMED.index(assumed)
    lengths = ("Å", "nm")[files]
    require_bonds(system.name, system.potential, topology, np.asarray(system.positions), lengths)
    if all(isinstance(term, DeepPot) for term in system.potential.terms):
        return
    if "esp" in targets and _has_charges(system, params):
        require_points(system.take(sampled(len(system.positions))), params, symbols_of(topology), lengths)
    for target, (given, said) in _sample(system, params, targets).items():
        check = _CHECKS[target]
        if target == "energy":
            if not relative:
                _check_offset(system.name, given, said)
            if len(given) < 3:
                continue
            said, given = said - said.mean(), given - given.mean()
        labels, field = (float(np.sqrt(np.mean(values**2))) for values in (given, said))
        if not (np.isfinite([labels, field]).all() and labels > 0.0 and field > 0.0):
            continue
        ratio, along = labels / field, float(np.mean(given * said)) / (labels * field)
        told = f"(root mean squares {labels:.4g} and {field:.4g} {UNITS[target]})"
        surely = ratio > 1.0 / check.factors[1] or given.size > _FEW
        if check.opposite and along < _AGAINST and ratio > check.size and surely:
            raise InputError(
                f"{system.name}: the {check.what} of the labels point against those of the force field at the start, "
                f"with a cosine of {along:.2f} {told}; {check.opposite}. Change their sign, or, if they are right, "
                "switch this check off by check_units."
            )
        is_off = (ratio / check.factors[0], 1.0 / (ratio * check.factors[1]))
        least = check.along if whole else (_ALONG, check.along[1])
        if any(off > 1.0 and along > one for off, one in zip(is_off, least, strict=True)):
            raise InputError(
                f"{system.name}: the {check.what} of the labels are {ratio:.3g} times those of the force field at the "
                f"start {told}. {nearest(ratio, check.of_files[files], check.sizes)} {_OFF}"
            )


def _check_offset(name: str, given: np.ndarray, said: np.ndarray) -> None:
    """Refuse absolute energies that are those of another zero, such as that of nuclei and electrons apart."""
    apart, spread = float(given.mean() - said.mean()), float(max(given.std(), said.std()))
    if abs(apart) > max(_OFFSET[0], _OFFSET[1] * spread):
        raise InputError(
            f"{name}: the energies of the labels are {given.mean():.5g} kJ/mol on the average, and those of the force "
            f"field at the start {said.mean():.5g}, though they spread by {spread:.3g}. Are they total energies of a "
            "quantum-chemical method? A force field has these up to a constant only: leave loss.relative true, or, if "
            "they are right, switch this check off by check_units."
        )


def _sample(system: FitSystem, params: Params, targets: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of some frames, of the targets that can be predicted and mean something."""
    n_frames = len(system.positions)
    wanted = [name for name in _CHECKS if name in targets and name in system.labels]
    left_out = {"interaction"} if n_frames < 3 or not system.fragments else set[str]()
    left_out |= set[str]() if _has_charges(system, params) else {"dipole", "esp"}
    if not (wanted := [name for name in wanted if name not in left_out]):
        return {}
    some = system.take(sampled(n_frames))
    said = predicted(some, params, Sigmas.model_validate(dict.fromkeys(wanted, 1.0)))
    return {name: (np.asarray(some.labels[name]), said[name]) for name in wanted}


def sampled(n_frames: int) -> np.ndarray:
    """The frames that are compared, of so many."""
    return np.unique(np.linspace(0, n_frames - 1, min(_FRAMES, n_frames)).round().astype(int))


def _has_charges(system: FitSystem, params: Params) -> bool:
    """Whether dipoles and potentials can be compared: one term has charges, of neutral frames in vacuum."""
    if not {"dipole", "esp"} & system.labels.keys() or system.boxes is not None:
        return False
    try:
        return bool(abs(np.sum(np.asarray(charges(system.potential, params)))) < OFF_INTEGER)
    except InputError:  # which is said where a target is asked for
        return False
