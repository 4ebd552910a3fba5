"""Settings for the whole test run, chosen before JAX makes its first array: double precision on the CPU."""

import gc
import os
from importlib.metadata import version
from pathlib import Path
from tempfile import mkdtemp

import pytest

# Most of the time goes into compiling programs that run once: half of it into loops that MLIR fuses, a third into
# LLVM's optimisations. XLA_FLAGS="" tests with both.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
    + (" --xla_cpu_use_fusion_emitters=false" if version("jaxlib").startswith("0.10.") else ""),  # gone in 0.11
)
os.environ["XDG_CACHE_HOME"] = mkdtemp(prefix="diffff-tests-")  # nothing of an earlier run, nothing left to later ones

import jax

jax.config.update("jax_enable_x64", True)

_MAPPINGS = Path("/proc/self/maps")
_MANY = 20_000  # of the 65 530 that Linux allows a process; compiled programs take several each, and beyond is a crash


@pytest.fixture(autouse=True, scope="module")
def few_programs():
    """Forget compiled programs before they are too many for one process."""
    yield
    if _MAPPINGS.is_file() and _MAPPINGS.read_bytes().count(b"\n") > _MANY:
        jax.clear_caches()
        gc.collect()
