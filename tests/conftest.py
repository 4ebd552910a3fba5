"""Settings for the whole test run: double precision on the CPU, chosen before JAX makes its first array."""

import jax

jax.config.update("jax_enable_x64", True)
