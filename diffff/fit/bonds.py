"""Bonds of a topology have the lengths of bonds, or else the frames are in another unit, or atoms in another order.

Covalent radii tell bonds to a fifth or so, and most units in use differ by more. An atom in the place of another is
two bonds or more away from those that it should be bonded to, in all frames.
"""

import re
from typing import Any

import numpy as np

from diffff.errors import InputError
from diffff.fit.known_units import LENGTHS, nearest
from diffff.frontend.reference import symbols_of
from diffff.md.whole import bonded_pairs
from diffff.potentials.base import Potential

_LENGTH = 1.5  # largest factor between bonds and covalent radii

# Covalent radii, pm: B. Cordero et al., Dalton Trans. 2008, 2832, doi:10.1039/b801115j; Mn, Fe, Co of low spin.
_RADII_PM = """
    H31 He28 Li128 Be96 B84 C76 N71 O66 F57 Ne58 Na166 Mg141 Al121 Si111 P107 S105 Cl102 Ar106 K203 Ca176 Sc170
    Ti160 V153 Cr139 Mn139 Fe132 Co126 Ni124 Cu132 Zn122 Ga122 Ge120 As119 Se120 Br120 Kr116 Rb220 Sr195 Y190
    Zr175 Nb164 Mo154 Tc147 Ru146 Rh142 Pd139 Ag145 Cd144 In142 Sn139 Sb139 Te138 I139 Xe140 Cs244 Ba215 La207
    Hf175 Ta170 W162 Re151 Os144 Ir141 Pt136 Au136 Hg132 Tl145 Pb146 Bi148
"""
RADII = {symbol: int(pm) / 1000.0 for symbol, pm in re.findall(r"([A-Za-z]+)(\d+)", _RADII_PM)}  # nm


def require_bonds(name: str, potential: Potential, topology: Any, positions: np.ndarray, assumed: str) -> None:
    """Refuse frames in which bonded atoms are too far apart or too close for their elements.

    Args:
        name: of the system, for messages.
        potential: for the topology; its bonds are those that count where the topology has none.
        topology: ``openmm.app.Topology``.
        positions: shape ``(n_frames, n_atoms, 3)``, nm.
        assumed: the unit of lengths in the files, "Å" or "nm".

    Raises:
        InputError: the bonds are off by more than a factor of 1.5 on the average, or one of them is in every frame.
    """
    symbols = symbols_of(topology)
    own = np.array([(one.index, other.index) for one, other in topology.bonds()], int).reshape(-1, 2)
    pairs = own if len(own) else bonded_pairs(potential)
    radii = np.array([RADII.get(symbol or "", np.nan) for symbol in symbols])[pairs].sum(axis=1)
    known = np.isfinite(radii)
    if not known.any():
        return
    pairs, radii = pairs[known], radii[known]
    apart = np.linalg.norm(positions[:, pairs[:, 1]] - positions[:, pairs[:, 0]], axis=2)
    mean, ratios = float(apart.mean()), apart / radii
    each, ratio = ratios.mean(axis=0), float(ratios.mean())
    if len(own) and each.max() > _LENGTH * each.min():  # another unit changes all alike
        _check_each(name, symbols, pairs, apart, ratios)
    if not 1.0 / _LENGTH < ratio < _LENGTH:
        raise InputError(
            f"{name}: bonded atoms are {mean:.3g} nm apart on the average, {ratio:.3g} times the sum of their covalent "
            f"radii. {nearest(ratio, assumed, LENGTHS)} Convert them, or, if they are right, switch this check off by "
            "check_units."
        )


def _check_each(name: str, symbols: Any, pairs: np.ndarray, apart: np.ndarray, ratios: np.ndarray) -> None:
    """Refuse a bond that no frame has; the one that is off most is named.

    The frame that has it most counts, so that scans of a bond that breaks pass.
    """
    off = np.maximum(ratios.min(axis=0), 1.0 / ratios.max(axis=0))
    n_bonds = np.bincount(pairs.ravel(), minlength=len(symbols))
    hydrogens = np.array([all(symbols[atom] == "H" for atom in pair) for pair in pairs])
    off[hydrogens & (n_bonds[pairs].max(axis=1) > 1)] = 1.0  # some files so hold water rigid
    worst = int(np.argmax(off))
    if off[worst] <= _LENGTH:
        return
    (i, j), length = pairs[worst], float(apart[:, worst].mean())
    raise InputError(
        f"{name}: atoms {i} ({symbols[i]}) and {j} ({symbols[j]}) are bonded in the topology (counted from 0), but "
        f"{length:.3g} nm apart on the average, and in each frame off by a factor of {off[worst]:.3g} or more from the "
        "sum of their covalent radii. Are the atoms in the order of the topology? Bring both into one, or, if they are "
        "right, switch this check off by check_units."
    )
