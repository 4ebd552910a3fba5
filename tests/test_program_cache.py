"""Compiled programs kept on disk: where, until when, and that they are used."""

import os
import subprocess
import sys

from diffff.program_cache import remove_oldest

PROGRAM = """
import diffff.cli, jax, jax.numpy as jnp
diffff.cli.start_jax()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)  # however fast the machine
seen = []
jax.monitoring.register_event_listener(lambda name, **about: seen.append(name))
jax.jit(lambda x: jnp.linalg.inv(x @ x.T + jnp.cos(x)))(jnp.ones((4, 4)))
print(jax.config.jax_compilation_cache_dir)
print(sum(name.endswith("cache_hits") for name in seen))
"""


def start(folder, **variables):
    env = {**os.environ, "XDG_CACHE_HOME": str(folder), **variables}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=env, capture_output=True, text=True, check=True)
    where, hits = done.stdout.split()
    return where, int(hits)


def test_the_second_start_finds_what_the_first_compiled(tmp_path):
    where, hits = start(tmp_path)
    assert where.startswith(str(tmp_path / "diffff" / "programs"))
    assert hits == 0
    assert start(tmp_path)[1] > 0


def test_the_user_chooses_another_place(tmp_path):
    other = str(tmp_path / "other")
    assert start(tmp_path / "home", JAX_COMPILATION_CACHE_DIR=other)[0] == other
    assert not (tmp_path / "home").exists()


def test_where_nothing_can_be_kept_nothing_is(tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert start(tmp_path / "file")[0] == "None"


def test_the_oldest_go_first(tmp_path):
    for age, name in enumerate(("new", "old", "oldest")):
        (tmp_path / name).write_bytes(bytes(100))
        os.utime(tmp_path / name, (1000 - age, 1000 - age))
    remove_oldest(tmp_path, 150)
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
