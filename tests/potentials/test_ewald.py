"""Ewald sums: Madelung constants, independence of the splitting, OpenMM."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffff.neighbors import neighbor_list
from diffff.potentials import ewald
from diffff.potentials.nonbonded_setup import nonbonded
from diffff.units import COULOMB_CONSTANT
from tests.check_term import check_term
from tests.potentials.charged_systems import CUBIC, TRICLINIC, assert_same, molecules

MADELUNG_NACL = 1.747564594633182  # doi:10.1103/PhysRevB.32.3887
CHARGES_ONLY = {"sigma": jnp.ones(1), "epsilon": jnp.zeros(1)}


def energy(term, params, positions, box):
    return term.energy(params, jnp.asarray(positions), jnp.asarray(box), neighbor_list(positions, box, term.cutoff))


@pytest.mark.parametrize(
    "options",
    [{"method": "Ewald", "grid": (12, 12, 12)}, {"method": "PME", "grid": (72, 72, 72)}],
    ids=["Ewald", "PME"],
)
def test_madelung_constant_of_rock_salt(options):
    """Eight ions at a distance of 0.3 nm, ``E = -4 K M / d``; the cutoff reaches beyond the cell."""
    sites = np.stack(np.meshgrid([0, 1], [0, 1], [0, 1], indexing="ij"), axis=-1).reshape(-1, 3)
    sign = sites.sum(axis=1) % 2
    term = nonbonded(sign, 0 * sign, cutoff=1.2, alpha=5.0, **options)
    found = energy(term, {"charge": jnp.array([1.0, -1.0]), **CHARGES_ONLY}, 0.3 * sites + 0.017, 0.6 * np.eye(3))
    tolerance = 1e-9 if options["method"] == "Ewald" else 1e-7
    np.testing.assert_allclose(found, -4 * COULOMB_CONSTANT * MADELUNG_NACL / 0.3, rtol=tolerance)


@pytest.mark.slow
def test_the_energy_does_not_depend_on_the_splitting():
    """A charged triclinic cell with molecules, cutoffs up to one and a half edges: only complete sums agree."""
    system = molecules(2, 0.4 * TRICLINIC, method="Ewald", periodic_exceptions=True, dispersion_correction=False)
    system = system.with_params(epsilon=np.zeros(3))
    found = [
        energy(system.term(cutoff=cutoff, alpha=alpha, grid=(n, n, n)), system.params, system.positions, system.box)
        for cutoff, alpha, n in [(0.9, 6.0, 16), (1.2, 4.5, 13), (1.5, 3.6, 11)]
    ]
    np.testing.assert_allclose(found[1:], found[0], rtol=1e-9)


@pytest.mark.parametrize("switch_distance", [None, 0.7])
def test_energy_and_forces_of_openmm(switch_distance):
    """The cell is charged; alpha and the wave vectors are chosen by the same rules."""
    system = molecules(27, CUBIC, method="Ewald", cutoff=0.9, switch_distance=switch_distance)
    assert abs(sum(system.params["charge"])) > 0.1
    assert_same(system, 1e-12)


def test_the_number_of_wave_vectors_follows_openmm():
    """Energies at other tolerances and shapes of the box hit OpenMM's only with its own numbers."""
    system = molecules(8, np.diag([1.9, 2.6, 3.9]), method="Ewald", cutoff=0.9)
    for tolerance in (1e-2, 1e-5):
        changed = replace(system, options={**system.options, "ewald_error_tolerance": tolerance})
        energy, _ = changed.energy_and_forces()
        np.testing.assert_allclose(energy, changed.reference(forces=False)[0], rtol=1e-12)


def test_contract():
    system = molecules(2, 0.55 * TRICLINIC, method="Ewald", cutoff=0.7, periodic_exceptions=True)
    system = system.with_params(epsilon=np.array([0.4, 0.65, 0.2]))
    check_term(system.term(), jax.tree.map(jnp.asarray, system.params), system.positions, system.box)


def test_erf_over_r_is_smooth_at_zero():
    function = jax.vmap(jax.value_and_grad(lambda s: ewald.erf_over_r(s, 3.0)))
    r = np.array([0.0, 1e-9, 0.0033333, 0.0033334, 0.1, 1.0])
    values, slopes = function(jnp.asarray(r**2))
    limit = 2 * 3.0 / np.sqrt(np.pi)
    np.testing.assert_allclose(values[:2], limit, rtol=1e-15)
    np.testing.assert_allclose(slopes[:2], -limit * 9.0 / 3.0, rtol=1e-12)
    np.testing.assert_allclose(values[2], values[3], rtol=1e-8)
    np.testing.assert_allclose(slopes[2], slopes[3], rtol=1e-6)
    np.testing.assert_allclose(values[5], 0.9999779095030014, rtol=1e-14)  # erf(3)


def test_cell_volume_and_reciprocal_vectors():
    box = jnp.asarray(TRICLINIC)
    np.testing.assert_allclose(ewald.reciprocal(box) @ box.T, np.eye(3), atol=1e-14)
    np.testing.assert_allclose(ewald.volume(box), np.linalg.det(TRICLINIC), rtol=1e-14)
