"""Two molecules of water, with and without virtual sites, and their fragments."""

import jax.numpy as jnp
import numpy as np
import openmm.app as app

from diffff import ForceField
from diffff.fit.fragments import fragment_atoms, sub_topology
from diffff.fit.targets import Fragment


def waters(names=("O", "H1", "H2", "M"), n=2) -> app.Topology:
    """Molecules of water; what is called M is a virtual site."""
    topology = app.Topology()
    chain = topology.addChain()
    for _ in range(n):
        residue = topology.addResidue("HOH", chain)
        elements = [None if name == "M" else app.Element.getBySymbol(name[0]) for name in names]
        atoms = [topology.addAtom(name, element, residue) for name, element in zip(names, elements, strict=True)]
        topology.addBond(atoms[0], atoms[1])
        topology.addBond(atoms[0], atoms[2])
    return topology


def frames_of(n_frames: int, n_sites=1, seed=0) -> np.ndarray:
    """Two molecules of water, around 0.3 nm apart; the sites are left at zero."""
    rng = np.random.default_rng(seed)
    one = np.array([[0.0, 0, 0], [0.0957, 0, 0], [-0.024, 0.0927, 0]])
    x = np.concatenate([one, np.zeros((n_sites, 3)), one + np.array([0.1, -0.28, 0.05]), np.zeros((n_sites, 3))])
    return x + rng.normal(scale=0.005, size=(n_frames, *x.shape)) * np.any(x != 0.0, axis=1)[:, None]


def fragments_of(field: ForceField, topology, numbers, real, **options) -> tuple[Fragment, ...]:
    """The fragments, each with a potential of the force field."""
    parts = fragment_atoms(topology, np.asarray(numbers), np.asarray(real), "here")
    return tuple(
        Fragment(atoms=jnp.asarray(part), potential=field.create_potential(sub_topology(topology, part), **options))
        for part in parts
    )
