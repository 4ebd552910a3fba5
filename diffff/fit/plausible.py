"""Data in the wrong unit are noticed: bonds of impossible lengths, forces and energies unlike those of the force field.

Covalent radii tell bonds to a fifth or so, and a force field worth fitting has forces right to a factor of a few; most
units in use differ by more. In frames that the reference has relaxed, its forces are small and those of the force field
are not; these do not point along each other, which tells them from forces in a larger unit.
"""

import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.fit.problem import UNITS, FitSystem, Sigmas, predicted
from diffff.frontend.reference import symbols_of
from diffff.md.whole import bonded_pairs
from diffff.potentials.base import Params
from diffff.potentials.deep import DeepPot

_LENGTH = 1.5  # largest factor between bonds and covalent radii
_SIZE = 15.0  # largest factor between labels and the force field
_ALONG = 0.3  # cosine between the forces of both, above which they are the same in another unit
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
_OF_FILES = {"eV/Angstrom": ("Å", "eV", "eV/Å"), "kJ/mol/nm": ("nm", "kJ/mol", "kJ/mol/nm")}
_OFF = "Convert them, or, if they are right, switch this check off by check_units."

# Covalent radii, pm: B. Cordero et al., Dalton Trans. 2008, 2832, doi:10.1039/b801115j; Mn, Fe, Co of low spin.
_RADII_PM = """
    H31 He28 Li128 Be96 B84 C76 N71 O66 F57 Ne58 Na166 Mg141 Al121 Si111 P107 S105 Cl102 Ar106 K203 Ca176 Sc170
    Ti160 V153 Cr139 Mn139 Fe132 Co126 Ni124 Cu132 Zn122 Ga122 Ge120 As119 Se120 Br120 Kr116 Rb220 Sr195 Y190
    Zr175 Nb164 Mo154 Tc147 Ru146 Rh142 Pd139 Ag145 Cd144 In142 Sn139 Sb139 Te138 I139 Xe140 Cs244 Ba215 La207
    Hf175 Ta170 W162 Re151 Os144 Ir141 Pt136 Au136 Hg132 Tl145 Pb146 Bi148
"""
_RADII = {symbol: int(pm) / 1000.0 for symbol, pm in re.findall(r"([A-Za-z]+)(\d+)", _RADII_PM)}  # nm


def require_plausible(system: FitSystem, params: Params, topology: Any, assumed: str) -> None:
    """Refuse frames that must be in another unit than the files are said to be in.

    Bonds come first. Forces are compared with those of the potential at the start; where there are none, the spread of
    energies is. A potential of nothing but Deep Potentials, which may be untrained, is not compared.

    Args:
        system: the frames, in nm and kJ/mol.
        params: parameters at the start.
        topology: ``openmm.app.Topology``.
        assumed: the unit of the files, "eV/Angstrom" or "kJ/mol/nm".

    Raises:
        InputError: the bonds are off by more than a factor of 1.5, or forces or energies by more than 15.
    """
    length, energy, force = _OF_FILES[assumed]
    _check_bonds(system, topology, length)
    if all(isinstance(term, DeepPot) for term in system.potential.terms):
        return
    target = "force" if system.forces is not None else "energy"
    if target not in system.labels or (target == "energy" and len(system.positions) < 3):
        return
    given, said = _sample(system, params, target)
    what, of_files, sizes = "forces", force, _FORCES
    if target == "energy":
        what, of_files, sizes = "energies, without their mean,", energy, _ENERGIES
        said, given = said - said.mean(), given - given.mean()
    labels, field = (float(np.sqrt(np.mean(values**2))) for values in (given, said))
    if not (np.isfinite([labels, field]).all() and labels > 0.0 and field > 0.0):
        return
    ratio, along = labels / field, float(np.mean(given * said)) / (labels * field)
    if ratio > _SIZE or (ratio < 1.0 / _SIZE and along > _ALONG):
        raise InputError(
            f"{system.name}: the {what} of the labels are {ratio:.3g} times those of the force field at the start "
            f"(root mean squares {labels:.4g} and {field:.4g} {UNITS[target]}). "
            f"{_nearest(ratio, of_files, sizes)} {_OFF}"
        )


def _sample(system: FitSystem, params: Params, target: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels and predictions of some frames."""
    n_frames = len(system.positions)
    frames = np.unique(np.linspace(0, n_frames - 1, min(_FRAMES, n_frames)).round().astype(int))
    some = system.take(frames)
    return np.asarray(some.labels[target]), predicted(some, params, Sigmas.model_validate({target: 1.0}))[target]


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
