"""GBSAOBCForce and LCPOForce against OpenMM's Reference platform."""

import jax
import jax.numpy as jnp
import numpy as np
import openmm
import pytest

from diffff.errors import InputError
from diffff.potentials.gbsa import gbsa_obc
from diffff.potentials.lcpo import LCPO
from tests.check_term import check_term
from tests.potentials.solvent_systems import BOX, CUTOFF, METHODS, apart, compare

N_ATOMS = 14


def parameters() -> dict[str, np.ndarray]:
    """Rows of which the last is of an atom with others deep inside."""
    rng = np.random.default_rng(4)
    radius, scale = np.array([0.12, 0.15, 0.17, 0.155, 0.3]), np.array([0.85, 0.85, 0.72, 0.79, 1.2])
    return {"charge": rng.normal(size=5), "radius": radius, "scale": scale}


def openmm_gbsa(params: dict, rows: np.ndarray, method: str) -> openmm.GBSAOBCForce:
    force = openmm.GBSAOBCForce()
    for row in rows:
        force.addParticle(*(float(params[name][row]) for name in ("charge", "radius", "scale")))
    force.setNonbondedMethod(METHODS.index(method))
    force.setCutoffDistance(CUTOFF)
    force.setSoluteDielectric(1.7)
    force.setSolventDielectric(60.0)
    force.setSurfaceAreaEnergy(3.1)
    return force


@pytest.mark.parametrize("method", METHODS)
def test_obc_is_the_force_of_openmm(method):
    rows = np.arange(N_ATOMS) % 5
    options = {"solute_dielectric": 1.7, "solvent_dielectric": 60.0, "surface_energy": 3.1}
    term = gbsa_obc(rows, method=method, cutoff=CUTOFF, **options)
    box = BOX if method == "CutoffPeriodic" else None
    compare(term, parameters(), apart(N_ATOMS), box, lambda changed: openmm_gbsa(changed, rows, method))


def test_a_buried_atom_counts_in_full():
    """The nearer atom is inside of the scaled sphere of the other one, where a term of its own counts."""
    x, rows = np.array([[0.0, 0, 0], [0.1, 0, 0], [0.3, 0.1, 0]]), np.array([0, 4, 1])
    term = gbsa_obc(rows, solute_dielectric=1.7, solvent_dielectric=60.0, surface_energy=3.1)
    assert 1.2 * (0.3 - 0.009) - 0.1 > 0.12 - 0.009
    compare(term, parameters(), x, None, lambda changed: openmm_gbsa(changed, rows, "NoCutoff"))


def test_an_ion_has_the_energy_of_born():
    term = gbsa_obc(np.zeros(1, int), surface_energy=0.0)
    energy = term.energy({"charge": [2.0], "radius": [0.209], "scale": [1.0]}, jnp.zeros((1, 3)), None, None)
    np.testing.assert_allclose(energy, -0.5 * 138.93545764 * (1 - 1 / 78.3) * 4 / 0.2, rtol=1e-9)


def test_obc_keeps_the_contract_of_terms():
    term = gbsa_obc(np.arange(9) % 4)
    check_term(term, jax.tree.map(jnp.asarray, parameters()), apart(9), None, alike=[(0, 4, 8), (1, 5)])


def test_impossible_dielectrics():
    with pytest.raises(InputError, match="solvent_dielectric is 0"):
        gbsa_obc(np.zeros(3, int), solvent_dielectric=0.0)
    with pytest.raises(InputError, match="positive"):
        gbsa_obc(np.zeros(3, int), method="CutoffPeriodic")


# ------------------------------------------------------------------ LCPO
SPHERES = np.array([0.31, 0.305, 0.28, 0.3])


def lcpo_parameters() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    return {"radius": SPHERES, **{f"p{i}": rng.normal(size=4) for i in range(1, 5)}, "surface_tension": np.array(2.1)}


def openmm_lcpo(params: dict, rows: np.ndarray, periodic: bool) -> openmm.LCPOForce:
    force = openmm.LCPOForce()
    force.setSurfaceTension(float(params["surface_tension"]))
    for row in rows:
        force.addParticle(*(float(params[n][row]) if row >= 0 else 0.0 for n in ("radius", "p1", "p2", "p3", "p4")))
    force.setUsesPeriodicBoundaryConditions(periodic)
    return force


@pytest.mark.parametrize("periodic", [False, True])
def test_lcpo_is_the_force_of_openmm(periodic):
    rows = np.append(np.arange(N_ATOMS - 2) % 4, [-1, -1])
    x, box = apart(N_ATOMS), BOX if periodic else None
    term = LCPO(atoms=jnp.arange(N_ATOMS - 2), rows=jnp.asarray(rows[:-2]), periodic=periodic)
    compare(term, lcpo_parameters(), x, box, lambda changed: openmm_lcpo(changed, rows, periodic))
    if periodic:
        check_term(term, jax.tree.map(jnp.asarray, lcpo_parameters()), x, box, alike=[(0, 4, 8), (12, 13)])


def test_the_area_of_one_sphere():
    term = LCPO(atoms=jnp.array([1]), rows=jnp.array([0]))
    params = lcpo_parameters() | {"p1": np.ones(4), "surface_tension": 1.0}
    area = term.energy(params, jnp.zeros((3, 3)), None, None)
    np.testing.assert_allclose(area, 4 * np.pi * 0.31**2, rtol=1e-14)
