"""Make data/dialanine: alanine dipeptide (ACE-ALA-NME) in vacuum with GFN2-xTB (about 5 minutes on two cores).

    pip install "diffff[data,ase]"
    python data/make_dialanine.py

`thermal`: Langevin dynamics at 500 K as in make_ethanol.py, from each of five basins of the backbone's dihedrals phi
and psi; 0.5 ps of equilibration, then 12 frames 100 fs apart. `map`: phi and psi held at -150, -90, … 150 degrees, all
else relaxed (largest force 0.005 eV/Å but for that along the two), from a relaxed geometry that is turned. Seeds are
fixed.
"""

from multiprocessing import Pool
from pathlib import Path

import numpy as np
from geometry import centred, place, turned
from langevin import MASSES, trajectory
from layout import write_pdb, write_system
from relax import relaxed
from xtb import GFN2

HERE = Path(__file__).parent / "dialanine"
RESIDUES = {
    "ACE": ["H1", "CH3", "H2", "H3", "C", "O"],
    "ALA": ["N", "H", "CA", "HA", "CB", "HB1", "HB2", "HB3", "C", "O"],
    "NME": ["N", "H", "C", "H1", "H2", "H3"],
}
ATOMS = [(residue, name) for residue, names in RESIDUES.items() for name in names]
ELEMENTS = [name[0] for _, name in ATOMS]
TYPE_MAP = ["C", "H", "N", "O"]
INDEX = {f"{residue}.{name}": i for i, (residue, name) in enumerate(ATOMS)}
PHI = tuple(INDEX[a] for a in ("ACE.C", "ALA.N", "ALA.CA", "ALA.C"))
PSI = tuple(INDEX[a] for a in ("ALA.N", "ALA.CA", "ALA.C", "NME.N"))
BEYOND_PHI = [i for i, (residue, name) in enumerate(ATOMS) if residue != "ACE" and name not in ("N", "H", "CA")]
BEYOND_PHI += [INDEX[f"NME.{name}"] for name in ("N", "H")]
BEYOND_PSI = [INDEX["ALA.O"], *(i for i, (residue, _) in enumerate(ATOMS) if residue == "NME")]

# Each atom by three before it, in this order: distance to the third (Å), angle and dihedral (degrees).
PLACES = {
    "ACE.O": ("ALA.N", "ACE.CH3", "ACE.C", 1.23, 121.0, 180.0),
    "ALA.CA": ("ACE.CH3", "ACE.C", "ALA.N", 1.45, 122.0, 180.0),
    "ALA.H": ("ACE.CH3", "ACE.C", "ALA.N", 1.01, 119.0, 0.0),
    "ALA.C": ("ACE.C", "ALA.N", "ALA.CA", 1.52, 110.0, 180.0),
    "NME.N": ("ALA.N", "ALA.CA", "ALA.C", 1.34, 116.0, 180.0),
    "ALA.O": ("NME.N", "ALA.CA", "ALA.C", 1.23, 121.0, 180.0),
    "ALA.CB": ("ALA.N", "ALA.C", "ALA.CA", 1.53, 110.0, 122.0),  # L
    "ALA.HA": ("ALA.N", "ALA.C", "ALA.CA", 1.09, 108.0, -120.0),
    "NME.C": ("ALA.CA", "ALA.C", "NME.N", 1.45, 122.0, 180.0),
    "NME.H": ("ALA.CA", "ALA.C", "NME.N", 1.01, 119.0, 0.0),
    **{f"ACE.H{k}": ("ALA.N", "ACE.C", "ACE.CH3", 1.09, 109.5, 120.0 * k + 60.0) for k in (1, 2, 3)},
    **{f"ALA.HB{k}": ("ALA.N", "ALA.CA", "ALA.CB", 1.09, 109.5, 120.0 * k + 60.0) for k in (1, 2, 3)},
    **{f"NME.H{k}": ("ALA.C", "NME.N", "NME.C", 1.09, 109.5, 120.0 * k + 60.0) for k in (1, 2, 3)},
}

TEMPERATURE = 500.0  # K
BASINS = {
    "C7eq": (-80.0, 80.0),
    "C5": (-155.0, 160.0),
    "beta2": (-130.0, 30.0),
    "alphaL": (60.0, 40.0),
    "C7ax": (75.0, -60.0),
}
FRAMES = 12  # of each basin
MAP = np.arange(-150.0, 180.0, 60.0)  # degrees


def extended() -> np.ndarray:
    """The idealised molecule (22, 3), Å, phi and psi at 180 degrees."""
    bend = np.deg2rad(116.0)
    found = {"ACE.CH3": np.array([-1.51, 0.0, 0.0]), "ACE.C": np.zeros(3)}
    found["ALA.N"] = 1.34 * np.array([-np.cos(bend), np.sin(bend), 0.0])
    for name, (a, b, c, length, angle, torsion) in PLACES.items():
        found[name] = place(found[a], found[b], found[c], length, torsion, angle)
    return np.array([found[name] for name in INDEX])


def bent(positions: np.ndarray, phi: float, psi: float) -> np.ndarray:
    """The same with other dihedrals."""
    return turned(turned(positions, PHI, BEYOND_PHI, phi), PSI, BEYOND_PSI, psi)


def at(start: np.ndarray, phi: float, psi: float) -> np.ndarray:
    """Relaxed with these dihedrals."""
    return relaxed(ELEMENTS, bent(start, phi, psi), {PHI: phi, PSI: psi})


def thermal(start: np.ndarray, basin: str, seed: int) -> dict[str, np.ndarray]:
    """The frames of one trajectory."""
    return trajectory(
        ELEMENTS,
        at(start, *BASINS[basin]),
        TEMPERATURE,
        seed,
        n_frames=FRAMES,
        equilibration_steps=1000,
        steps_between_frames=200,
        labels=("energy", "force", "dipole"),
    )


def labelled(coord: np.ndarray) -> dict[str, np.ndarray]:
    """Arrays of frames, from their positions (n_frames, n_atoms, 3)."""
    arrays: dict[str, list] = {"coord": list(coord), "energy": [], "force": [], "dipole": []}
    for x in coord:
        gfn2 = GFN2(ELEMENTS, x)
        energy, force, _ = gfn2(x)
        for name, value in (("energy", energy), ("force", force), ("dipole", gfn2.dipole())):
            arrays[name].append(value)
    return {name: np.array(values) for name, values in arrays.items()}


def main() -> None:
    start = relaxed(ELEMENTS, extended())
    with Pool() as pool:
        points = pool.starmap_async(at, [(start, phi, psi) for phi in MAP for psi in MAP], chunksize=1)
        runs = pool.starmap(thermal, [(start, basin, seed) for seed, basin in enumerate(BASINS)], chunksize=1)
        masses = np.array([MASSES[e] for e in ELEMENTS])[:, None]
        relief = labelled(np.array([centred(x, masses) for x in points.get()]))
    write_system(HERE / "map", ELEMENTS, TYPE_MAP, **relief)
    arrays = {name: np.concatenate([run[name] for run in runs]) for name in runs[0]}
    write_system(HERE / "thermal", ELEMENTS, TYPE_MAP, **arrays)
    numbers = {residue: i + 1 for i, residue in enumerate(RESIDUES)}
    residues = [(residue, numbers[residue]) for residue, _ in ATOMS]
    write_pdb(HERE / "dialanine.pdb", ELEMENTS, [name for _, name in ATOMS], residues, arrays["coord"][0])


if __name__ == "__main__":
    main()
