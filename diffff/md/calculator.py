"""`Calculator`: positions in, energy, forces and virial out. All engines run a potential through it."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from diffff import units
from diffff.errors import InputError
from diffff.md.crowding import tell_of_crowding
from diffff.md.positions import check_skin, positions_and_box
from diffff.md.precision import cast_params, cast_potential, check_dtype
from diffff.md.verlet_list import VerletList, filled, sizes_for
from diffff.md.whole import bonded_pairs, require_whole
from diffff.neighbors import directed_pairs
from diffff.potentials.base import Params, Potential, energy_forces_virial, require_potential

_CLOSE = 0.06  # nm, below the shortest bonds there are


class Result(NamedTuple):
    """What a potential says about positions.

    Attributes:
        energy: kJ/mol.
        forces: shape ``(n_atoms, 3)``, kJ/mol/nm, float64; zero on virtual sites, whose forces are on their atoms.
        virial: shape ``(3, 3)``, kJ/mol, ``-dE/d(strain)``.
    """

    energy: float
    forces: np.ndarray
    virial: np.ndarray


class Calculator:
    """A potential with its parameters as a function on the host.

    It keeps a neighbour list with a skin, makes it anew when atoms or box have moved too far, and a larger one when
    pairs would not fit. Nothing is compiled again while the number of atoms stays the same and the density about so.

    Example:
        >>> import openmm.app as app
        >>> from diffff import ForceField
        >>> modeller = app.Modeller(app.Topology(), [])
        >>> modeller.addSolvent(app.ForceField("tip3p.xml"), numAdded=200)
        >>> ff = ForceField("tip3p.xml")
        >>> potential = ff.create_potential(modeller.topology, nonbonded_method="PME", nonbonded_cutoff=0.8)
        >>> calculator = Calculator(potential, ff.params(), dtype="float32")
        >>> x, box = (np.array(q._value) for q in (modeller.positions, modeller.topology.getPeriodicBoxVectors()))
        >>> calculator(x, box).forces.shape
        (600, 3)
    """

    def __init__(self, potential: Potential, params: Params, *, skin: float = 0.1, dtype: str = "float64") -> None:
        """Take the potential; it is compiled for the number of atoms at the first call.

        Args:
            potential: with its parameters as `params`.
            params: parameter tree.
            skin: nm, how much farther than the cutoff the neighbour list reaches.
            dtype: "float64" or "float32", in which energies are computed.

        Raises:
            InputError: float64 is wanted, but JAX is in 32-bit mode; or an option makes no sense.
        """
        check_dtype(dtype)
        check_skin(skin)
        require_potential(potential, params)
        self.potential, self.skin, self.dtype = potential, float(skin), np.dtype(dtype)
        self._arrays, structure = jax.tree.flatten(cast_potential(potential, self.dtype))
        self._params = cast_params(params, self.dtype)
        self._list: VerletList | None = None
        self._bonds = bonded_pairs(potential)

        def evaluate(
            arrays: list[jax.Array], params: Params, positions: jax.Array, box: jax.Array | None, pairs: VerletList
        ) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
            here: Potential = jax.tree.unflatten(structure, arrays)
            found = energy_forces_virial(here, params, positions, box, pairs.neighbors)
            return *found, pairs.serves(here.placed(params, positions), box)

        def placed(arrays: list[jax.Array], params: Params, positions: jax.Array) -> jax.Array:
            return jax.tree.unflatten(structure, arrays).placed(params, positions)

        def atomic(
            arrays: list[jax.Array], params: Params, positions: jax.Array, box: jax.Array | None, pairs: VerletList
        ) -> jax.Array:
            return jax.tree.unflatten(structure, arrays).atomic_energies(params, positions, box, pairs.neighbors)

        self._evaluate, self._placed, self._atomic = jax.jit(evaluate), jax.jit(placed), jax.jit(atomic)
        self._filled = jax.jit(filled, static_argnums=1)

    def __call__(self, positions: np.ndarray, box: np.ndarray | None = None) -> Result:
        """Energy, forces and virial.

        Args:
            positions: shape ``(n_atoms, 3)``, nm, or a Quantity; molecules with bonded terms are whole.
            box: shape ``(3, 3)``, nm, rows are the lattice vectors; None without periodicity.

        Raises:
            InputError: positions or box make no sense, a boundary has cut molecules, or the energy is not finite there.
        """
        x, cell = self._on_device(positions, box)
        pairs = self._pairs(x, cell)
        energy, forces, virial, serves = self._evaluate(self._arrays, self._params, x, cell, pairs)
        if not serves:
            pairs = self._new_pairs(x, cell)
            energy, forces, virial, _ = self._evaluate(self._arrays, self._params, x, cell, pairs)
        result = Result(float(energy), np.asarray(forces, np.float64), np.asarray(virial, np.float64))
        if not (np.isfinite(result.energy) and np.isfinite(result.forces).all()):
            raise InputError(self._trouble(x, cell, result.energy))
        return result

    def atomic_energies(self, positions: np.ndarray, box: np.ndarray | None = None) -> np.ndarray:
        """Energy of each atom, kJ/mol, shape ``(n_atoms,)``; their sum is the energy.

        Raises:
            InputError: a term has no atomic energies, or see `__call__`.
        """
        x, cell = self._on_device(positions, box)
        pairs = self._pairs(x, cell)
        if not pairs.serves(self._placed(self._arrays, self._params, x), cell):
            pairs = self._new_pairs(x, cell)
        energies = np.asarray(self._atomic(self._arrays, self._params, x, cell, pairs), np.float64)
        if not np.isfinite(energies).all():
            raise InputError(self._trouble(x, cell, float(energies.sum())))
        return energies

    # ------------------------------------------------------------------ neighbours
    def _pairs(self, x: jax.Array, box: jax.Array | None) -> VerletList:
        """The list there is; for another system, or the other kind of box, a new one."""
        old = self._list
        if old is None or old.positions.shape != x.shape or (old.box is None) != (box is None):
            self._list = None
            return self._new_pairs(x, box)
        return old

    def _new_pairs(self, x: jax.Array, box: jax.Array | None) -> VerletList:
        where = self._placed(self._arrays, self._params, x)
        cutoff, sizes = self.potential.cutoff, None if self._list is None else self._list.sizes
        new = None if sizes is None else self._filled(sizes, cutoff, where, box)
        if new is None or new.neighbors.overflow:
            sizes = sizes_for(np.asarray(where), None if box is None else np.asarray(box), cutoff, self.skin)
            new = self._filled(sizes, cutoff, where, box)
        if self._list is None:
            tell_of_crowding(self.potential, where, box, new.neighbors)
        self._list = new
        return new

    # ------------------------------------------------------------------ in and out
    def _on_device(self, positions: np.ndarray, box: np.ndarray | None) -> tuple[jax.Array, jax.Array | None]:
        positions, box = positions_and_box(positions, box, self.dtype)
        require_whole(self._bonds, positions, box)
        return jnp.asarray(positions, self.dtype), None if box is None else jnp.asarray(box, self.dtype)

    def _trouble(self, x: jax.Array, box: jax.Array | None, energy: float) -> str:
        """Why an energy may not be finite, in words."""
        for path, leaf in jax.tree.leaves_with_path(self._params):
            if not np.isfinite(np.asarray(leaf)).all():
                return f"the energy is not finite: the parameter {jax.tree_util.keystr(path)} is not."
        where = np.asarray(self._placed(self._arrays, self._params, x), np.float64)
        cell = None if box is None else np.asarray(box, np.float64)
        i, j, shift = directed_pairs(where, cell, 0.1)
        r = np.linalg.norm(where[j] - where[i] + (0.0 if cell is None else shift @ cell), axis=1)
        why = "Does the potential hold for these positions?"
        if len(r):
            k = int(np.argmin(r))
            why = f"The closest atoms are {i[k]} and {j[k]} (from 0), {r[k] * units.ANGSTROM_PER_NM:.3f} Å apart."
            why += " Are atoms on top of each other?" if r[k] < _CLOSE else ""
        return f"the energy or a force is not finite (energy {energy}). {why}"
