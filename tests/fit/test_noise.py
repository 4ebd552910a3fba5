"""Weights and constants of the residuals of a fit, in the order of these."""

from dataclasses import replace

import jax.numpy as jnp
import numpy as np

from diffff.fit.noise import noise_of
from diffff.fit.problem import Boltzmann, FitSystem, Sigmas, energy_weights, merged
from diffff.potentials.base import Potential

E = np.array([0.0, 3.0, 8.0])
X = jnp.zeros((3, 2, 3))
ONE = FitSystem(potential=Potential(terms=()), positions=X, energy=jnp.asarray(E), forces=X)


def test_each_system_has_a_constant_of_its_relative_energies():
    together = merged([ONE, ONE, replace(ONE, forces=None)])
    noise = noise_of(together, Sigmas(energy=1.0, force=2.0))
    np.testing.assert_array_equal(noise.weights, 1.0)
    assert (len(noise.weights), noise.constants) == (3 * 3 + 2 * 18, 3.0)
    assert noise_of(together, Sigmas(energy=1.0, relative=False)).constants == 0.0
    assert noise_of(together, Sigmas(force=1.0)).constants == 0.0


def test_weights_are_those_of_the_energies():
    """They come before those of the forces; a system of which one frame counts has nothing but its constant."""
    sigmas = Sigmas(energy=1.0, force=2.0, weights=Boltzmann(temperature=300.0))
    noise = noise_of([ONE], sigmas)
    w = np.asarray(energy_weights(ONE, sigmas))
    np.testing.assert_allclose(noise.weights, [*w, *np.ones(18)])
    np.testing.assert_allclose(noise.constants, np.sum(w**2) / np.sum(w))
    cold = noise_of([ONE], Sigmas(energy=1.0, weights=Boltzmann(temperature=1.0)))
    np.testing.assert_allclose(cold.weights.sum() - cold.constants, 0.0, atol=1e-12)
