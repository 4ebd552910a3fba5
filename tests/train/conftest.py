"""Programs that were compiled once in this test run are not compiled again, however often a training is started."""

import atexit
import os
import shutil
import tempfile

import jax

CACHE = tempfile.mkdtemp(prefix="diffff-tests-")
atexit.register(shutil.rmtree, CACHE, ignore_errors=True)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # what XLA has to say about its own programs is long and harmless
jax.config.update("jax_compilation_cache_dir", CACHE)
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
