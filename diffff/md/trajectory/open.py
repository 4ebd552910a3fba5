"""`open_trajectory`: the writer for a file name, behind checks that all formats share."""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from openmm import app

from diffff.errors import InputError
from diffff.md.trajectory.dcd import DCD
from diffff.md.trajectory.extxyz import ExtendedXYZ
from diffff.md.trajectory.frame import Frame, Writer, writing
from diffff.md.trajectory.hdf5 import HDF5
from diffff.neighbors import checked

NO_ELEMENT = ("", "X", "VS")  # how virtual sites are written
SUFFIXES = (".dcd", ".xyz", ".extxyz", ".h5", ".hdf5")


class Trajectory:
    """A trajectory file that frames are written to; made by `open_trajectory`.

    It is a context manager, which closes the file.

    Attributes:
        last_step: step of the last frame; -1 if there is none.
    """

    def __init__(self, path: Path, writer: Writer, n_atoms: int, after: int) -> None:
        self._path, self._writer, self._n_atoms = path, writer, n_atoms
        self.last_step = writer.last_step
        self._after = after

    def write(self, frame: Frame) -> None:
        """Add a frame.

        Raises:
            InputError: it is not of a later step than the last one, its arrays have other shapes or are not finite, the
                format cannot hold it, or the file cannot be written.
        """
        where = f"{self._path}, frame of step {frame.step}"
        if not isinstance(frame.step, int | np.integer) or frame.step < 0:
            raise InputError(f"{where}: the step must be a whole number, 0 or more.")
        if frame.step <= max(self.last_step, self._after):
            raise InputError(f"{where}: the file is at step {max(self.last_step, self._after)} already.")
        arrays = {"positions": frame.positions, "velocities": frame.velocities, "forces": frame.forces}
        arrays = {name: np.asarray(values, np.float64) for name, values in arrays.items() if values is not None}
        for name, values in arrays.items():
            if values.shape != (self._n_atoms, 3) or not np.isfinite(values).all():
                raise InputError(
                    f"{where}: {name} of shape {values.shape} given, "
                    f"finite numbers of shape ({self._n_atoms}, 3) wanted."
                )
        for name in ("time", "potential_energy", "kinetic_energy", "temperature"):
            value = getattr(frame, name)
            if value is not None and not np.isfinite(value):
                raise InputError(f"{where}: {name} is {value}; give a finite number.")
        _, box = checked(arrays["positions"], frame.box)
        box = None if box is None else np.asarray(box, np.float64)
        self._writer.write(frame._replace(step=int(frame.step), box=box, **arrays))
        self.last_step = int(frame.step)

    def flush(self) -> None:
        """Have all frames on disk; to be called before a checkpoint is written that continues from here.

        Raises:
            InputError: the file cannot be written.
        """
        self._writer.flush()

    def close(self) -> None:
        """Flush, and close the file."""
        self._writer.close()

    def __enter__(self) -> "Trajectory":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def open_trajectory(
    path: str | Path, atoms: app.Topology | Sequence[str], *, append_at_step: int | None = None
) -> Trajectory:
    """Open a trajectory for writing; the name tells the format.

    | suffix        | format          | holds                                                  | units        |
    |---------------|-----------------|--------------------------------------------------------|--------------|
    | .dcd          | DCD of CHARMM   | positions, box; equally spaced frames, single precision| Å, AKMA time |
    | .xyz, .extxyz | extended XYZ    | all of `Frame`                                         | Å, eV, ps    |
    | .h5, .hdf5    | HDF5 of MDTraj  | all of `Frame` and the topology, single precision      | nm, kJ/mol, ps |

    A run that was killed has written frames, and perhaps a part of one, after its last checkpoint. With
    ``append_at_step`` these are removed first, so that the file becomes that of a run without interruption.

    Args:
        path: of the file; an existing one is replaced unless ``append_at_step`` is given.
        atoms: the topology, or only the symbol of each atom's element ("X" for a virtual site).
        append_at_step: the step of the checkpoint from which the run continues; None begins a new file.

    Raises:
        InputError: the suffix is unknown, a symbol is no element's, or the file cannot be written or continued.
    """
    if not isinstance(path, str | Path):
        raise InputError(f"the path of a trajectory is {path!r}; give the name of a file.")
    if not isinstance(atoms, app.Topology | Sequence) or isinstance(atoms, str):
        raise InputError(f'{path}: atoms are {atoms!r}; give a topology, or a list of symbols such as ["O", "H"].')
    path = Path(path)
    topology = atoms if isinstance(atoms, app.Topology) else _topology(atoms)
    if append_at_step is not None and append_at_step < 0:
        raise InputError(f"{path}: append_at_step is {append_at_step}; give the step of the checkpoint, 0 or more.")
    if append_at_step is None:
        with writing(path):
            path.parent.mkdir(parents=True, exist_ok=True)
    match path.suffix.lower():
        case ".dcd":
            writer: Writer = DCD(path, topology.getNumAtoms(), append_at_step)
        case ".xyz" | ".extxyz":
            symbols = ["X" if atom.element is None else atom.element.symbol for atom in topology.atoms()]
            writer = ExtendedXYZ(path, symbols, append_at_step)
        case ".h5" | ".hdf5":
            writer = HDF5(path, topology, append_at_step)
        case suffix:
            raise InputError(
                f'{path}: "{suffix}" is no trajectory format of diffff. Give a name that ends in .dcd (CHARMM and '
                "OpenMM), .xyz or .extxyz (extended XYZ), .h5 or .hdf5 (MDTraj)."
            )
    return Trajectory(path, writer, topology.getNumAtoms(), -1 if append_at_step is None else append_at_step)


def _topology(symbols: Sequence[str]) -> app.Topology:
    """A topology of one residue, for atoms of which only the element is known."""
    topology = app.Topology()
    residue = topology.addResidue("MOL", topology.addChain())
    for index, symbol in enumerate(symbols):
        try:
            element = None if symbol in NO_ELEMENT else app.Element.getBySymbol(symbol)
        except KeyError:
            raise InputError(
                f'atoms: atom {index} (from 0) is "{symbol}", which is no chemical element. '
                'Give symbols such as "O", and "X" for a virtual site.'
            ) from None
        topology.addAtom(symbol, element, residue)
    return topology
