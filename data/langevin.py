"""Langevin dynamics on the GFN2-xTB surface (shared by the scripts beside it).

BAOAB: B. Leimkuhler, C. Matthews, Appl. Math. Res. Express 2013, 34, doi:10.1093/amrx/abs010.
"""

from collections.abc import Sequence

import numpy as np
from geometry import centred
from xtb import GFN2

MASSES = {"H": 1.008, "C": 12.011, "N": 14.007, "O": 15.999}  # amu
TIME_STEP = 0.5  # fs
FRICTION = 0.005  # 1/fs
BOLTZMANN = 8.617333262e-5  # eV/K
FORCE_TO_ACCELERATION = 9.648533212e-3  # (eV/Å)/amu in Å/fs^2


def trajectory(
    elements: Sequence[str],
    positions: np.ndarray,
    temperature: float,
    seed: int,
    *,
    n_frames: int,
    equilibration_steps: int = 4000,
    steps_between_frames: int = 400,
    labels: Sequence[str] = ("energy", "force"),
) -> dict[str, np.ndarray]:
    """Snapshots of one trajectory.

    Args:
        elements: chemical symbol of each atom.
        positions: (n_atoms, 3) Å at the start.
        temperature: K.
        seed: of the velocities and the thermostat.
        n_frames: snapshots.
        equilibration_steps: before the first interval.
        steps_between_frames: steps of each interval; it ends with a snapshot.
        labels: names of the arrays to keep besides coord, of energy, force and dipole.

    Returns:
        coord (n_frames, n_atoms, 3) Å about the centre of mass, energy (n_frames,) eV, force (n_frames, n_atoms, 3)
        eV/Å, dipole (n_frames, 3) e Å.
    """
    masses = np.array([MASSES[e] for e in elements])[:, None]
    random = np.random.default_rng(seed)
    gfn2 = GFN2(elements, positions)
    thermal = np.sqrt(BOLTZMANN * temperature * FORCE_TO_ACCELERATION / masses)  # Å/fs
    velocities = thermal * random.normal(size=positions.shape)
    memory = np.exp(-FRICTION * TIME_STEP)
    energy, forces, _ = gfn2(positions)
    frames: dict[str, list] = {name: [] for name in ("coord", *labels)}
    for step in range(1, equilibration_steps + n_frames * steps_between_frames + 1):
        velocities += 0.5 * TIME_STEP * FORCE_TO_ACCELERATION * forces / masses
        positions = positions + 0.5 * TIME_STEP * velocities
        velocities = memory * velocities + np.sqrt(1.0 - memory**2) * thermal * random.normal(size=positions.shape)
        positions = positions + 0.5 * TIME_STEP * velocities
        energy, forces, _ = gfn2(positions)
        velocities += 0.5 * TIME_STEP * FORCE_TO_ACCELERATION * forces / masses
        if step > equilibration_steps and (step - equilibration_steps) % steps_between_frames == 0:
            now = {"coord": centred(positions, masses), "energy": energy, "force": forces, "dipole": gfn2.dipole()}
            for name in frames:
                frames[name].append(now[name])
    return {name: np.array(values) for name, values in frames.items()}
