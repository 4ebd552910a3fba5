"""Molecules for comparing force fields: one for each residue template of a file, with coordinates from its bonds alone.

No structure files are needed. Coordinates are not those of a relaxed molecule: bonds and angles are near what they
should be and no two atoms overlap, which is what a comparison of energies and forces needs.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from openmm import app
from scipy.optimize import minimize
from scipy.sparse import csr_array
from scipy.sparse.csgraph import shortest_path

from diffff.frontend.files import read_files

# Covalent radii, nm (doi:10.1039/b801115j); others count as 0.13.
RADII = {"H": 0.031, "C": 0.076, "N": 0.071, "O": 0.066, "F": 0.057, "P": 0.107, "S": 0.105, "Cl": 0.102, "Br": 0.120}
OTHER_RADIUS = 0.13
GAP = 0.35  # between molecules, nm


@dataclass(frozen=True)
class Molecules:
    """Separate residues, side by side.

    Attributes:
        topology: of openmm.app.
        positions: shape ``(n_atoms, 3)``, nm.
        templates: the template of each residue.
    """

    topology: Any
    positions: np.ndarray
    templates: dict[Any, str]


def templates_in(files: Sequence[str | Path]) -> list[str]:
    """Names of the residue templates that stand in these files, and in those they include, smallest first."""
    found = {}
    for document in read_files(files):
        for section in document.root.find_all("Residues"):
            for residue in section.find_all("Residue"):
                found[residue.attributes["name"]] = len(list(residue.find_all("Atom")))
    return sorted(found, key=found.__getitem__)


def batches(field: app.ForceField, names: Iterable[str], n_atoms: int) -> Iterable[list[str]]:
    """Templates in lots of at most so many atoms, or of one template."""
    lot, size = [], 0
    for name in names:
        more = len(field._templates[name].atoms)
        if lot and size + more > n_atoms:
            yield lot
            lot, size = [], 0
        lot.append(name)
        size += more
    if lot:
        yield lot


def molecules(field: app.ForceField, names: Sequence[str], cache: Path | None = None) -> Molecules:
    """One residue of each of these templates; layouts are kept in the directory `cache`."""
    topology = app.Topology()
    chain = topology.addChain()
    parts, templates = [], {}
    for name in names:
        residue = topology.addResidue(name[:4], chain)
        templates[residue] = name
        parts.append(_residue(field, field._templates[name], topology, residue, cache))
    return Molecules(topology, _side_by_side(parts), templates)


def _residue(field: app.ForceField, template: Any, topology: Any, residue: Any, cache: Path | None) -> np.ndarray:
    """Add the atoms and bonds of a template to a topology; gives their positions."""
    elements = [field._atomTypes[atom.type].element for atom in template.atoms]
    atoms = [topology.addAtom(a.name, e, residue) for a, e in zip(template.atoms, elements, strict=True)]
    for i, j in template.bonds:
        topology.addBond(atoms[i], atoms[j])
    sites = {site.index: site.atoms[0] for site in template.virtualSites}
    real = [i for i in range(len(atoms)) if i not in sites and elements[i] is not None]
    number = {atom: i for i, atom in enumerate(real)}
    bonds = [(number[i], number[j]) for i, j in template.bonds if i in number and j in number]
    positions = np.zeros((len(atoms), 3))
    positions[real] = _kept_layout([elements[i].symbol for i in real], bonds, cache)
    for site, parent in sites.items():  # the potential moves it to its place
        positions[site] = positions[parent]
    return positions


def _kept_layout(elements: Sequence[str], bonds: Sequence[tuple[int, int]], cache: Path | None) -> np.ndarray:
    if cache is None:
        return layout(elements, bonds)
    file = cache / f"{hashlib.sha256(repr((elements, bonds)).encode()).hexdigest()[:24]}.npy"
    if not file.exists():
        cache.mkdir(parents=True, exist_ok=True)
        np.save(file, layout(elements, bonds))
    return np.load(file)


def layout(elements: Sequence[str], bonds: Sequence[tuple[int, int]], seed: int = 0) -> np.ndarray:
    """Coordinates ``(n_atoms, 3)``, nm: bonds and angles near their usual values, all other atoms apart."""
    n, rng = len(elements), np.random.default_rng(seed)
    if n == 1 or not bonds:
        return np.arange(n)[:, None] * np.array([0.4, 0.0, 0.0])
    radii = np.array([RADII.get(symbol, OTHER_RADIUS) for symbol in elements])
    i, j = np.array(bonds).T
    length = 0.97 * (radii[i] + radii[j])
    graph = csr_array((np.ones(len(i)), (i, j)), shape=(n, n))
    steps = shortest_path(graph, directed=False, unweighted=True)
    paths = shortest_path(csr_array((length, (i, j)), shape=(n, n)), directed=False)
    paths = np.where(np.isfinite(paths), paths, 1.0)
    pairs = np.triu_indices(n, 1)
    apart, way = steps[pairs], paths[pairs]
    target = np.select([apart == 1, apart == 2, apart == 3], [way, 0.83 * way, 0.25], 0.33)
    target = np.where((apart == 3) & (np.minimum(radii[pairs[0]], radii[pairs[1]]) < 0.04), 0.23, target)
    stiff, exact = np.select([apart == 1, apart == 2], [100.0, 30.0], 10.0), apart <= 2

    def energy(flat: np.ndarray) -> tuple[float, np.ndarray]:
        x = flat.reshape(n, -1)
        vector = x[pairs[0]] - x[pairs[1]]
        r = np.sqrt((vector**2).sum(1) + 1e-12)
        over = np.where(exact | (r < target), r - target, 0.0)
        slope = (2 * stiff * over / r)[:, None] * vector
        gradient = np.zeros_like(x)
        np.add.at(gradient, pairs[0], slope)
        np.add.at(gradient, pairs[1], -slope)
        return float((stiff * over**2).sum() + 2.0 * (x[:, 3:] ** 2).sum()), _flat(gradient, x)

    start = _scaling(paths**0.8 * 0.5) + 0.03 * rng.normal(size=(n, 4))
    x = minimize(energy, start.ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 150}).x.reshape(n, 4)
    x = minimize(energy, x[:, :3].ravel(), jac=True, method="L-BFGS-B", options={"maxiter": 300}).x.reshape(n, 3)
    return x + 0.003 * rng.normal(size=x.shape)


def _flat(gradient: np.ndarray, x: np.ndarray) -> np.ndarray:
    """With the slope of the spring that draws a fourth coordinate to zero."""
    gradient[:, 3:] += 4.0 * x[:, 3:]
    return gradient.ravel()


def _scaling(distances: np.ndarray) -> np.ndarray:
    """Points ``(n, 4)`` at about these distances (classical scaling)."""
    n = len(distances)
    center = np.eye(n) - 1.0 / n
    values, vectors = np.linalg.eigh(-0.5 * center @ distances**2 @ center)
    found = np.zeros((n, 4))
    kept = min(4, n)
    found[:, :kept] = (vectors * np.sqrt(np.maximum(values, 0.0)))[:, ::-1][:, :kept]
    return found


def _side_by_side(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Molecules on a cubic grid, with a gap between them."""
    centered = [part - (part.min(0) + part.max(0)) / 2 for part in parts]
    edge = max(float(np.ptp(part, axis=0).max()) for part in parts) + GAP
    n = int(np.ceil(len(parts) ** (1 / 3)))
    return np.concatenate([part + edge * np.array(np.unravel_index(k, (n, n, n))) for k, part in enumerate(centered)])
