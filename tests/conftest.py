"""Settings for the whole test run, chosen before JAX makes its first array: double precision on the CPU."""

import os
from tempfile import mkdtemp

# Most of the time goes into compiling programs that run once. LLVM's optimisations are a third of it; set XLA_FLAGS
# yourself to test with them.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
os.environ["XDG_CACHE_HOME"] = mkdtemp(prefix="diffff-tests-")  # nothing of an earlier run, nothing left to later ones

import jax

jax.config.update("jax_enable_x64", True)
