"""Molecules of a frame by themselves: their atoms, and topologies of nothing else."""

from typing import Any

import numpy as np

from diffff.errors import InputError


def fragment_atoms(topology: Any, numbers: np.ndarray, real: np.ndarray, where: str) -> list[np.ndarray]:
    """The atoms of each fragment, virtual sites included.

    Args:
        topology: ``openmm.app.Topology``.
        numbers: shape ``(n_real,)``, which fragment each atom that is no virtual site belongs to.
        real: shape ``(n_real,)``, the places of these atoms in the topology.
        where: what messages call the file.

    Raises:
        InputError: there is one fragment only, a bond joins two, or the site of a residue could be in either.
    """
    if len(np.unique(numbers)) < 2:
        raise InputError(f"{where}: all atoms are in one fragment; an interaction is between two or more.")
    of_atom = dict(zip(real.tolist(), numbers.tolist(), strict=True))
    for atom in topology.atoms():
        if atom.index not in of_atom:
            near = {of_atom[other.index] for other in atom.residue.atoms() if other.index in of_atom}
            if len(near) != 1:
                raise InputError(
                    f"{where}: the virtual site {atom.index} (from 0) is in residue {atom.residue.name}, whose atoms "
                    f"are in {len(near)} fragments, so it is unclear where it belongs."
                )
            of_atom[atom.index] = near.pop()
    for one, other in topology.bonds():
        if of_atom[one.index] != of_atom[other.index]:
            raise InputError(
                f"{where}: atoms {one.index} and {other.index} (from 0) are bonded, but in different fragments; "
                "a fragment is one or more whole molecules."
            )
    return [
        np.array([atom.index for atom in topology.atoms() if of_atom[atom.index] == number], int)
        for number in np.unique(numbers)
    ]


def sub_topology(topology: Any, atoms: np.ndarray) -> Any:
    """``openmm.app.Topology`` of some of its atoms in the same order, with their bonds and the same box."""
    import openmm.app

    chosen, part, copies = set(atoms.tolist()), openmm.app.Topology(), {}
    part.setPeriodicBoxVectors(topology.getPeriodicBoxVectors())
    for chain in topology.chains():
        new_chain = None
        for residue in chain.residues():
            kept = [atom for atom in residue.atoms() if atom.index in chosen]
            if not kept:
                continue
            new_chain = new_chain or part.addChain(chain.id)
            new_residue = part.addResidue(residue.name, new_chain, residue.id, residue.insertionCode)
            for atom in kept:
                copies[atom.index] = part.addAtom(atom.name, atom.element, new_residue, atom.id)
    for bond in topology.bonds():
        if bond[0].index in copies and bond[1].index in copies:
            part.addBond(copies[bond[0].index], copies[bond[1].index], bond.type, bond.order)
    return part
