"""Small systems of charged Lennard-Jones particles, for diffff and for OpenMM's Reference platform."""

from dataclasses import dataclass, field, replace

import jax
import jax.numpy as jnp
import numpy as np
import openmm

from diffff.neighbors import neighbor_list
from diffff.potentials.nonbonded import Nonbonded
from diffff.potentials.nonbonded_setup import nonbonded

CUBIC = np.diag([2.3, 2.5, 2.4])
TRICLINIC = np.array([[2.6, 0.0, 0.0], [0.5, 2.5, 0.0], [-0.6, 0.4, 2.4]])


@dataclass(frozen=True)
class System:
    """Molecules of four atoms in a chain: the next two are excluded, the third is a 1-4 pair."""

    positions: np.ndarray
    box: np.ndarray | None
    params: dict
    options: dict = field(default_factory=dict)
    exceptions: tuple = ()

    @property
    def n_atoms(self) -> int:
        return len(self.positions)

    @property
    def charge_rows(self) -> np.ndarray:
        return np.arange(self.n_atoms) % 4

    @property
    def lj_rows(self) -> np.ndarray:
        return np.arange(self.n_atoms) % 4 % 3

    def chain(self, step: int) -> list[tuple[int, int]]:
        return [(a, a + step) for a in range(self.n_atoms - step) if a // 4 == (a + step) // 4]

    def term(self, **changes) -> Nonbonded:
        return nonbonded(
            self.charge_rows,
            self.lj_rows,
            excluded=self.chain(1) + self.chain(2),
            pairs14=[p for p in self.chain(3) if p not in self.exceptions],
            exceptions=self.exceptions,
            box=self.box,
            **{**self.options, **changes},
        )

    def energy_and_forces(self, dtype=jnp.float64, **changes) -> tuple[float, np.ndarray]:
        term = self.term(**changes)
        box = None if self.box is None or term.method in ("NoCutoff", "CutoffNonPeriodic") else self.box
        listed = neighbor_list(self.positions, box, 1.1 * term.cutoff)
        arrays = jax.tree.map(lambda a: jnp.asarray(a, dtype), (self.params, self.positions, box))
        energy, gradient = jax.jit(jax.value_and_grad(Nonbonded.energy, 2))(term, *arrays, listed)
        return energy, -gradient

    def reference(self, *, forces: bool = True) -> tuple[float, np.ndarray]:
        """Energy and forces of OpenMM."""
        term, p = self.term(), self.params
        force = openmm.NonbondedForce()
        system = openmm.System()
        if self.box is not None:
            system.setDefaultPeriodicBoxVectors(*self.box.tolist())
        for q, lj in zip(self.charge_rows, self.lj_rows, strict=True):
            system.addParticle(1.0)
            force.addParticle(float(p["charge"][q]), float(p["sigma"][lj]), float(p["epsilon"][lj]))
        for a, b in np.asarray(term.excluded).tolist():
            force.addException(a, b, 0.0, 1.0, 0.0)
        for a, b in np.asarray(term.pairs14).tolist():
            q, s, e = (np.asarray(p[k])[r] for k, r in self._columns())
            product = p["coulomb14scale"] * q[a] * q[b]
            epsilon = p["lj14scale"] * np.sqrt(e[a] * e[b])
            force.addException(a, b, float(product), float((s[a] + s[b]) / 2), float(epsilon), True)
        for row, (a, b) in enumerate(self.exceptions):
            columns = (p[c][row] for c in ("chargeprod", "exception_sigma", "exception_epsilon"))
            force.addException(a, b, *map(float, columns), True)
        force.setNonbondedMethod(getattr(openmm.NonbondedForce, term.method))
        force.setUseDispersionCorrection(term.dispersion_correction)
        force.setExceptionsUsePeriodicBoundaryConditions(term.periodic_exceptions)
        force.setReactionFieldDielectric(term.dielectric)
        force.setEwaldErrorTolerance(self.options.get("ewald_error_tolerance", 5e-4))
        if term.cutoff:
            force.setCutoffDistance(term.cutoff)
        if term.switch_distance is not None:
            force.setUseSwitchingFunction(True)
            force.setSwitchingDistance(term.switch_distance)
        system.addForce(force)
        context = openmm.Context(system, openmm.VerletIntegrator(0.001), openmm.Platform.getPlatformByName("Reference"))
        context.setPositions(self.positions)
        state = context.getState(getEnergy=True, getForces=forces)
        found = state.getForces(asNumpy=True)._value if forces else np.zeros(0)
        return state.getPotentialEnergy()._value, np.array(found)

    def _columns(self):
        return (("charge", self.charge_rows), ("sigma", self.lj_rows), ("epsilon", self.lj_rows))

    def with_params(self, **columns) -> "System":
        return replace(self, params={**self.params, **columns})


PARAMS = {
    "charge": np.array([0.45, -0.8, 0.1, 0.37]),
    "sigma": np.array([0.26, 0.31, 0.2]),
    "epsilon": np.array([0.4, 0.65, 0.0]),
    "coulomb14scale": np.array(1 / 1.2),
    "lj14scale": np.array(0.5),
}


def molecules(n: int, box: np.ndarray | None, seed: int = 0, **options) -> System:
    """``n`` chains on a jittered lattice; whole molecules that reach over the edges of the box."""
    rng = np.random.default_rng(seed)
    side = int(np.ceil(n ** (1 / 3)))
    sites = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)[:n]
    cell = np.diag([0.5 * side] * 3) if box is None else box
    centers = (sites + rng.uniform(-0.1, 0.1, sites.shape)) / side @ cell
    chain = np.array([[0.0, 0.0, 0.0], [0.11, 0.0, 0.0], [0.15, 0.11, 0.0], [0.25, 0.12, 0.05]])
    turns = np.linalg.qr(rng.normal(size=(n, 3, 3)))[0]
    positions = (centers[:, None] + chain @ turns).reshape(-1, 3) + rng.normal(scale=0.005, size=(4 * n, 3))
    return System(positions=positions, box=box, params=PARAMS, options=options)


def assert_same(system: System, relative: float) -> None:
    """Energy and forces agree with OpenMM's."""
    energy, forces = system.energy_and_forces()
    expected, expected_forces = system.reference()
    np.testing.assert_allclose(energy, expected, rtol=relative)
    np.testing.assert_allclose(forces, expected_forces, rtol=0, atol=relative * np.abs(expected_forces).max())
