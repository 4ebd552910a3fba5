"""Settings for the whole test run: double precision on the CPU, chosen before JAX makes its first array."""

import os
from tempfile import mkdtemp

import jax

jax.config.update("jax_enable_x64", True)
os.environ["XDG_CACHE_HOME"] = mkdtemp(prefix="diffff-tests-")  # nothing of an earlier run, nothing left to later ones
