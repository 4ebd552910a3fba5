"""The kinds of atoms that OpenMM's Generalised Born models tell apart, and their numbers.

A script of an implicit-solvent file gives each atom a radius and more by its element, its neighbours and its residue.
We have OpenMM do so for a topology in which every kind occurs, and find out the numbers of all kinds.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np

_ELEMENTS = ("C", "N", "O", "F", "Si", "P", "S", "Cl", "Na")
_NAMES = {"Na": "other elements"}
_WITH_HYDROGEN = ("C", "N", "O", "S", "Na")
_NUCLEIC = " in a nucleic acid"
_NECK_RADII = (0.1, 0.2)  # nm, for which there are tables of necks; OpenMM refuses others


@dataclass(frozen=True, eq=False)
class Kinds:
    """All kinds of a model.

    Attributes:
        names: in words, for each kind.
        numbers: shape ``(n_kinds, 2 or 5)``: radius (nm), scale, and alpha, beta, gamma where the kinds differ in them.
        offset: what the model subtracts from radii, nm.
        neck_rows: shape ``(n_kinds,)``, row and column of each kind in the tables of necks.
        necks: the flat tables of a model with necks: depth (1/nm) and distance (nm); else empty.
        force: OpenMM's force with one atom of each kind.
    """

    names: tuple[str, ...]
    numbers: np.ndarray
    offset: float
    neck_rows: np.ndarray
    necks: dict[str, np.ndarray]
    force: Any

    def rows(self, reduced: np.ndarray) -> np.ndarray:
        """The kind of each atom, -1 if it is none.

        Args:
            reduced: shape ``(n_atoms, 2 or 5)``: radius less the offset, scale times that, and the other numbers.
        """
        known = self.numbers.copy()
        known[:, 0] -= self.offset
        known[:, 1] *= known[:, 0]
        apart = np.abs(reduced[:, None] - known).max(axis=2)
        return np.where(apart.min(axis=1) < 1e-9, apart.argmin(axis=1), -1).astype(np.int32)


@lru_cache(maxsize=8)
def kinds_of(model: str) -> Kinds:
    """Those of a class in ``openmm.app.internal.customgbforces``."""
    from openmm.app.internal import customgbforces

    force = getattr(customgbforces, model)(SA="ACE")
    topology, names = _every_kind()
    found: dict[tuple[float, ...], list[str]] = {}
    for name, numbers in zip(names, np.array(force.getStandardParameters(topology), float).tolist(), strict=True):
        if not model.startswith("GBSAGBn") or _NECK_RADII[0] <= numbers[0] <= _NECK_RADII[1]:
            found.setdefault(tuple(numbers), []).append(name)
    for numbers in found:
        force.addParticle([0.0, *numbers])
    force.finalize()
    numbers = range(force.getNumTabulatedFunctions())
    tables = {force.getTabulatedFunctionName(i): force.getTabulatedFunction(i) for i in numbers}
    return Kinds(
        names=tuple(_in_short(alike) for alike in found.values()),
        numbers=np.array(list(found)),
        offset=force.OFFSET,
        neck_rows=np.array([force.getParticleParameters(i)[-1] for i in range(len(found) if tables else 0)]),
        necks={name: np.array(table.getFunctionParameters()[2]) for name, table in tables.items()},
        force=force,
    )


def _in_short(names: list[str]) -> str:
    """Several names, without those of nucleic acids that are among the others anyway."""
    kept = [name for name in names if not (name.endswith(_NUCLEIC) and name.removesuffix(_NUCLEIC) in names)]
    return ", ".join(dict.fromkeys(kept))


def _every_kind() -> tuple[Any, list[str]]:
    """A topology, and its atoms in words. The molecules make no sense."""
    from openmm import app

    topology, names = app.Topology(), []
    chain = topology.addChain()

    def add(residue: Any, symbol: str, words: str, *partners: Any, name: str = "X") -> Any:
        atom = topology.addAtom(name, app.Element.getBySymbol(symbol), residue)
        names.append(words)
        for partner in partners:
            topology.addBond(atom, partner)
        return atom

    for residue_name, where in (("ALA", ""), ("DA", _NUCLEIC)):
        residue = topology.addResidue(residue_name, chain)
        for symbol in _ELEMENTS:
            words = _NAMES.get(symbol, symbol)
            heavy = add(residue, symbol, words + where)
            if symbol in _WITH_HYDROGEN:
                add(residue, "H", f"H on {words}{where}", heavy)
        carbon = add(residue, "C", f"C{where}")
        add(residue, "C", f"C{where}", carbon)
        for _ in range(2):
            add(residue, "O", f"O of a carboxylate{where}", carbon)
    arginine = topology.addResidue("ARG", chain)
    add(arginine, "H", "HE and HH of arginine", add(arginine, "N", "N"), name="HE")
    return topology, names
