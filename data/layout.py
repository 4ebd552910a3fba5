"""Files of the data sets: DeePMD-kit's layout of frames, and PDB for topologies (shared by the scripts beside it)."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np


def write_system(folder: Path, elements: Sequence[str], type_map: Sequence[str], **arrays: np.ndarray) -> None:
    """Write one system in DeePMD-kit's layout: `type.raw`, `type_map.raw`, `set.000/<name>.npy`.

    Args:
        folder: the system's directory, made if needed.
        elements: chemical symbol of each atom.
        type_map: chemical symbols; the number in `type.raw` is the place in this list.
        arrays: coord, force (n_frames, n_atoms, 3); energy (n_frames,); box, virial (n_frames, 3, 3). Without `box`
            the empty file `nopbc` says that there is none.
    """
    (folder / "set.000").mkdir(parents=True, exist_ok=True)
    (folder / "type.raw").write_text("".join(f"{list(type_map).index(e)}\n" for e in elements))
    (folder / "type_map.raw").write_text("".join(f"{name}\n" for name in type_map))
    if "box" not in arrays:
        (folder / "nopbc").touch()
    for name, values in arrays.items():
        flat = values if values.ndim == 1 else values.reshape(len(values), -1)
        np.save(folder / "set.000" / f"{name}.npy", flat.astype(np.float64))


def write_pdb(
    path: Path,
    elements: Sequence[str],
    names: Sequence[str],
    residues: Sequence[tuple[str, int]],
    positions: np.ndarray,
    bonds: Sequence[tuple[int, int]] = (),
) -> None:
    """Write one chain as PDB.

    Args:
        path: of the file; its folder is made if needed.
        elements: chemical symbol of each atom.
        names: of the atoms.
        residues: name and number of each atom's residue.
        positions: (n_atoms, 3) Å.
        bonds: pairs of atoms, from 0, for CONECT records. OpenMM knows the bonds of water and amino acids.
    """
    lines = []
    for i, (element, name, (residue, number), x) in enumerate(zip(elements, names, residues, positions, strict=True)):
        label = name if len(name) > 3 else f" {name:<3}"
        lines.append(
            f"HETATM{i + 1:5d} {label:4} {residue:3} A{number:4d}    {x[0]:8.3f}{x[1]:8.3f}{x[2]:8.3f}"
            f"  1.00  0.00          {element:>2}"
        )
    partners: Mapping[int, list[int]] = {i: [] for i in range(len(elements))}
    for i, j in bonds:
        partners[i].append(j)
        partners[j].append(i)
    for i, others in partners.items():
        if others:
            lines.append(f"CONECT{i + 1:5d}" + "".join(f"{j + 1:5d}" for j in sorted(others)))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([*lines, "END", ""]))
