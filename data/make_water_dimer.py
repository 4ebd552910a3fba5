"""Make data/water_dimer: two water molecules in six orientations, pulled apart, with GFN2-xTB (a few seconds).

    pip install "diffff[data,ase]"
    python data/make_water_dimer.py

Both molecules have the geometry of GFN2-xTB's minimum and stay rigid. In each orientation the second one is moved along
the line between the oxygens to ten places: the closest atoms are 0.65 to 2.6 times the sum of their radii apart. The
label `interaction` is E(dimer) - E(first) - E(second), the molecules alone in the geometry that they have in the dimer.
`fragment.raw` tells the molecules apart.
"""

from pathlib import Path

import numpy as np
from geometry import centred
from langevin import MASSES
from layout import write_pdb, write_system
from relax import relaxed
from scipy.spatial.transform import Rotation
from xtb import GFN2

HERE = Path(__file__).parent / "water_dimer"
ELEMENTS = ["O", "H", "H"] * 2
TYPE_MAP = ["O", "H"]

RADII = np.array([1.65, 1.05, 1.05])  # Å
CONTACTS = [0.65, 0.7, 0.75, 0.8, 0.87, 0.95, 1.1, 1.3, 1.6, 2.0]
# A molecule lies in the plane xz, its dipole along +z. Degrees turn it about z, then y, then x.
ORIENTATIONS = [  # of the first molecule, of the second, whose oxygen lies on +x of the first; factor of the contacts
    ((0.0, 37.5, 0.0), (90.0, 147.0, 0.0), 1.0),  # a hydrogen of the first points to the second oxygen: the minimum
    ((0.0, 90.0, 0.0), (90.0, 90.0, 0.0), 1.15),  # both dipoles along the line: two hydrogens to one oxygen
    ((0.0, 0.0, 0.0), (0.0, 180.0, 0.0), 1.05),  # in one plane, dipoles opposite and across the line
    ((90.0, 0.0, 0.0), (90.0, 180.0, 0.0), 1.15),  # face to face, dipoles opposite
    ((0.0, 90.0, 0.0), (90.0, -90.0, 0.0), 1.3),  # hydrogens to hydrogens
    ((0.0, -90.0, 0.0), (90.0, 90.0, 0.0), 1.15),  # oxygen to oxygen
]


def molecule() -> np.ndarray:
    """Water (3, 3) at its minimum, Å: the oxygen at the origin, the hydrogens in the plane xz towards +z."""
    x = relaxed(ELEMENTS[:3], np.array([[0.0, 0.0, 0.0], [0.76, 0.0, 0.59], [-0.76, 0.0, 0.59]]))
    bonds = x[1:] - x[0]
    lengths = np.linalg.norm(bonds, axis=1)
    half = 0.5 * np.arccos(bonds[0] @ bonds[1] / lengths.prod())
    h = lengths.mean() * np.array([np.sin(half), 0.0, np.cos(half)])
    return np.array([np.zeros(3), h, h * [-1.0, 1.0, 1.0]])


def apart(first: np.ndarray, second: np.ndarray, contact: float) -> np.ndarray:
    """Both molecules (6, 3), the second moved along +x until the smallest distance is `contact` radii' sums."""

    def smallest(shift: float) -> float:
        distances = np.linalg.norm(first[:, None] - second - [shift, 0.0, 0.0], axis=2)
        return float(np.min(distances / (RADII[:, None] + RADII)))

    near, far = 0.0, 20.0
    while far - near > 1e-12:
        middle = 0.5 * (near + far)
        near, far = (middle, far) if smallest(middle) < contact else (near, middle)
    return np.concatenate([first, second + np.array([far, 0.0, 0.0])])


def main() -> None:
    water = molecule()
    placed = []
    for *two, factor in ORIENTATIONS:
        first, second = (Rotation.from_euler("zyx", a, degrees=True).apply(water) for a in two)
        placed += [apart(first, second, factor * contact) for contact in CONTACTS]
    masses = np.array([MASSES[e] for e in ELEMENTS])[:, None]
    coord = np.array([centred(x, masses) for x in placed])
    whole = [GFN2(ELEMENTS, x)(x) for x in coord]
    energy, force = np.array([e for e, _, _ in whole]), np.array([f for _, f, _ in whole])
    parts = [[GFN2(ELEMENTS[:3], x[half])(x[half])[0] for half in (slice(3), slice(3, 6))] for x in coord]
    interaction = energy - np.sum(parts, axis=1)
    write_system(HERE, ELEMENTS, TYPE_MAP, coord=coord, energy=energy, force=force, interaction=interaction)
    (HERE / "fragment.raw").write_text("0\n" * 3 + "1\n" * 3)
    names = ["O", "H1", "H2"] * 2
    write_pdb(HERE / "water_dimer.pdb", ELEMENTS, names, [("HOH", 1)] * 3 + [("HOH", 2)] * 3, coord[3])


if __name__ == "__main__":
    main()
