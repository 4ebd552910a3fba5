"""Data in the wrong unit are noticed: bonds of impossible lengths, and labels unlike those of the force field.

Covalent radii tell bonds to a fifth or so, and a force field worth fitting has forces right to a factor of a few and
dipoles to a factor of two; most units in use differ by more. In frames that the reference has relaxed, its forces are
small and those of the force field are not; these do not point along each other, which tells them from forces in a
larger unit. Neither do the dipoles of charges that mean nothing yet point along those of the reference.
"""

import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.fit.problem import UNITS, FitSystem, Sigmas, predicted
from diffff.fit.targets import OFF_INTEGER, charges
from diffff.frontend.reference import symbols_of
from diffff.md.whole import bonded_pairs
from diffff.potentials.base import Params
from diffff.potentials.deep import DeepPot

_LENGTH = 1.5  # largest factor between bonds and covalent radii
_NEAR = 2.5  # largest factor between what is measured and a confusion of units
_FRAMES = 20  # that are looked at

_EV, _KCAL, _HARTREE = units.KJ_PER_MOL_PER_EV, units.KJ_PER_KCAL, units.KJ_PER_MOL_PER_HARTREE
_ANGSTROM, _BOHR = units.NM_PER_ANGSTROM, units.NM_PER_BOHR
_LENGTHS = {"Å": _ANGSTROM, "nm": 1.0, "bohr": _BOHR, "pm": 1e-3, "m": 1e9}  # in nm
_ENERGIES = {"eV": _EV, "kJ/mol": 1.0, "kcal/mol": _KCAL, "Hartree": _HARTREE, "Rydberg": _HARTREE / 2.0}  # in kJ/mol
_FORCES = {
    f"{energy}/{length}": _ENERGIES[energy] / _LENGTHS[length]
    for energy, length in (
        ("eV", "Å"),
        ("kJ/mol", "nm"),
        ("kJ/mol", "Å"),
        ("kcal/mol", "Å"),
        ("Hartree", "bohr"),
        ("Hartree", "Å"),
        ("Rydberg", "bohr"),
        ("eV", "nm"),
        ("eV", "bohr"),
    )
}
_DIPOLES = {"e Å": _ANGSTROM, "e nm": 1.0, "e bohr": _BOHR, "Debye": units.E_NM_PER_DEBYE, "C m": units.E_NM_PER_C_M}
_POTENTIALS = {"V": _EV, "kJ/mol/e": 1.0, "kcal/mol/e": _KCAL, "Hartree/e": _HARTREE, "mV": 1e-3 * _EV}  # in kJ/mol/e


class _Check(NamedTuple):
    """How far labels may be from the force field at the start.

    Attributes:
        what: they are, in words.
        of_files: their unit in files of eV and Å, and in those of kJ/mol and nm.
        sizes: of units in use, in diffff's.
        factors: by which the root mean square of labels may be larger, and by which smaller.
        along: least cosine between both to be another unit, where labels are larger, and where they are smaller.
        without_mean: whether the mean over the frames means nothing.
    """

    what: str
    of_files: tuple[str, str]
    sizes: Mapping[str, float]
    factors: tuple[float, float] = (15.0, 15.0)
    along: tuple[float, float] = (-1.0, 0.3)
    without_mean: bool = False


_ASSUMED = ("eV/Angstrom", "kJ/mol/nm")
_CHECKS = {
    "force": _Check("forces", ("eV/Å", "kJ/mol/nm"), _FORCES),
    "energy": _Check("energies, without their mean,", ("eV", "kJ/mol"), _ENERGIES, (10.0, 15.0), without_mean=True),
    "virial": _Check("virials", ("eV", "kJ/mol"), _ENERGIES, along=(0.5, 0.5)),
    "interaction": _Check("interaction energies", ("eV", "kJ/mol"), _ENERGIES, (6.0, 15.0), (0.5, 0.5)),
    "dipole": _Check("dipoles", ("e Å", "e nm"), _DIPOLES, (3.0, 3.0), (0.5, 0.5)),
    "esp": _Check("electrostatic potentials", ("V", "kJ/mol/e"), _POTENTIALS, (5.0, 5.0), (0.5, 0.5)),
}
_OFF = "Convert them, or, if they are right, switch this check off by check_units."

# Covalent radii, pm: B. Cordero et al., Dalton Trans. 2008, 2832, doi:10.1039/b801115j; Mn, Fe, Co of low spin.
_RADII_PM = """
    H31 He28 Li128 Be96 B84 C76 N71 O66 F57 Ne58 Na166 Mg141 Al121 Si111 P107 S105 Cl102 Ar106 K203 Ca176 Sc170
    Ti160 V153 Cr139 Mn139 Fe132 Co126 Ni124 Cu132 Zn122 Ga122 Ge120 As119 Se120 Br120 Kr116 Rb220 Sr195 Y190
    Zr175 Nb164 Mo154 Tc147 Ru146 Rh142 Pd139 Ag145 Cd144 In142 Sn139 Sb139 Te138 I139 Xe140 Cs244 Ba215 La207
    Hf175 Ta170 W162 Re151 Os144 Ir141 Pt136 Au136 Hg132 Tl145 Pb146 Bi148
"""
_RADII = {symbol: int(pm) / 1000.0 for symbol, pm in re.findall(r"([A-Za-z]+)(\d+)", _RADII_PM)}  # nm


def require_plausible(
    system: FitSystem, params: Params, topology: Any, assumed: str, targets: Sequence[str] = tuple(UNITS)
) -> None:
    """Refuse frames that must be in another unit than the files are said to be in.

    Bonds come first, then each target is compared with the potential at the start. A potential of nothing but Deep
    Potentials, which may be untrained, is not compared, nor are fewer than three energies.

    Args:
        system: the frames, in nm and kJ/mol.
        params: parameters at the start.
        topology: ``openmm.app.Topology``.
        assumed: the unit of the files, "eV/Angstrom" or "kJ/mol/nm".
        targets: what matters.

    Raises:
        InputError: bonds are off by more than a factor of 1.5, dipoles by more than 3, electrostatic potentials by more
            than 5, or other labels by what `_CHECKS` says.
    """
    files = _ASSUMED.index(assumed)
    _check_bonds(system, topology, ("Å", "nm")[files])
    if all(isinstance(term, DeepPot) for term in system.potential.terms):
        return
    for target, (given, said) in _sample(system, params, targets).items():
        check = _CHECKS[target]
        if check.without_mean:
            said, given = said - said.mean(), given - given.mean()
        labels, field = (float(np.sqrt(np.mean(values**2))) for values in (given, said))
        if not (np.isfinite([labels, field]).all() and labels > 0.0 and field > 0.0):
            continue
        ratio, along = labels / field, float(np.mean(given * said)) / (labels * field)
        is_off = (ratio / check.factors[0], 1.0 / (ratio * check.factors[1]))
        if any(off > 1.0 and along > least for off, least in zip(is_off, check.along, strict=True)):
            raise InputError(
                f"{system.name}: the {check.what} of the labels are {ratio:.3g} times those of the force field at the "
                f"start (root mean squares {labels:.4g} and {field:.4g} {UNITS[target]}). "
                f"{_nearest(ratio, check.of_files[files], check.sizes)} {_OFF}"
            )


def _sample(system: FitSystem, params: Params, targets: Sequence[str]) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Labels and predictions of some frames, of the targets that can be predicted and mean something."""
    n_frames = len(system.positions)
    wanted = [name for name in _CHECKS if name in targets and name in system.labels]
    left_out = {"energy", "interaction"} if n_frames < 3 else set[str]()
    left_out |= set[str]() if system.fragments else {"interaction"}
    left_out |= set[str]() if _has_charges(system, params) else {"dipole", "esp"}
    if not (wanted := [name for name in wanted if name not in left_out]):
        return {}
    frames = np.unique(np.linspace(0, n_frames - 1, min(_FRAMES, n_frames)).round().astype(int))
    some = system.take(frames)
    said = predicted(some, params, Sigmas.model_validate(dict.fromkeys(wanted, 1.0)))
    return {name: (np.asarray(some.labels[name]), said[name]) for name in wanted}


def _has_charges(system: FitSystem, params: Params) -> bool:
    """Whether dipoles and potentials can be compared: one term has charges, of neutral frames in vacuum."""
    if not {"dipole", "esp"} & system.labels.keys() or system.boxes is not None:
        return False
    try:
        return bool(abs(np.sum(np.asarray(charges(system.potential, params)))) < OFF_INTEGER)
    except InputError:  # which is said where a target is asked for
        return False


def _check_bonds(system: FitSystem, topology: Any, assumed: str) -> None:
    symbols = symbols_of(topology)
    pairs = np.array([(one.index, other.index) for one, other in topology.bonds()], int).reshape(-1, 2)
    pairs = pairs if len(pairs) else bonded_pairs(system.potential)
    radii = np.array([_RADII.get(symbol or "", np.nan) for symbol in symbols])[pairs].sum(axis=1)
    pairs, radii = pairs[np.isfinite(radii)], radii[np.isfinite(radii)]
    if not len(pairs):
        return
    x = np.asarray(system.positions)
    apart = np.linalg.norm(x[:, pairs[:, 1]] - x[:, pairs[:, 0]], axis=2)
    mean, ratio = float(apart.mean()), float((apart / radii).mean())
    if 1.0 / _LENGTH < ratio < _LENGTH:
        return
    raise InputError(
        f"{system.name}: bonded atoms are {mean:.3g} nm apart on the average, {ratio:.3g} times the sum of "
        f"their covalent radii. {_nearest(ratio, assumed, _LENGTHS)} {_OFF}"
    )


def _nearest(ratio: float, assumed: str, sizes: Mapping[str, float]) -> str:
    """The unit whose confusion with the assumed one comes nearest to a ratio, in words."""
    expected = {name: sizes[assumed] / size for name, size in sizes.items() if name != assumed}
    name = min(expected, key=lambda one: abs(np.log(ratio / expected[one])))
    factor = expected[name]
    if not 1.0 / _NEAR < ratio / factor < _NEAR:
        return "No unit in use explains this factor."
    shown = f"{factor:.5g}" if factor >= 1.0 else f"1/{1.0 / factor:.5g}"
    return f"The nearest known factor is {shown}, that of {name} read as {assumed}."
