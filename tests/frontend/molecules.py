"""Topologies made of residue templates, with positions that are not sensible but finite."""

import numpy as np
import openmm.app as app

from diffff.frontend.xml import Document


def chain(files, residues, links):
    """Residues of some files, bonded to each other.

    Args:
        files: paths of the XML.
        residues: names of templates.
        links: ``(i, name, j, name)``: bonds between residues.

    Returns:
        Topology and positions ``(n_atoms, 3)``, nm.
    """
    roots = [Document.read(file).root for file in files]
    templates = {r.attributes["name"]: r for x in roots for group in x.find_all("Residues") for r in group.children}
    types = {t.attributes["name"]: t for x in roots for group in x.find_all("AtomTypes") for t in group.children}
    topology, atoms = app.Topology(), []
    strand = topology.addChain()
    for name in residues:
        residue = topology.addResidue(name, strand)
        atoms.append({})
        for atom in templates[name].find_all("Atom"):
            symbol = types[atom.attributes["type"]].attributes.get("element")
            element = app.Element.getBySymbol(symbol) if symbol else None
            label = atom.attributes["name"]
            atoms[-1][label] = topology.addAtom(label, element, residue)
        for bond in templates[name].find_all("Bond"):
            topology.addBond(*(atoms[-1][bond.attributes[f"atomName{i}"]] for i in (1, 2)))
    for i, first, j, second in links:
        topology.addBond(atoms[i][first], atoms[j][second])
    return topology, spread(topology)


def spread(topology):
    """A random walk along the bonds with steps of 0.14 nm that keeps atoms 0.12 nm apart, or tries to."""
    rng = np.random.default_rng(7)
    near = {atom.index: [] for atom in topology.atoms()}
    for first, second in topology.bonds():
        near[first.index].append(second.index)
        near[second.index].append(first.index)
    placed = {}
    for start in near:
        if start in placed:
            continue
        placed[start] = rng.normal(size=3)
        waiting = [start]
        while waiting:
            at = waiting.pop()
            for other in (o for o in near[at] if o not in placed):
                steps = rng.normal(size=(40, 3))
                tried = placed[at] + 0.14 * steps / np.linalg.norm(steps, axis=1, keepdims=True)
                room = np.linalg.norm(tried[:, None] - np.array(list(placed.values())), axis=2).min(axis=1)
                placed[other] = tried[room.argmax()]
                waiting.append(other)
    return np.array([placed[i] for i in sorted(placed)])
