"""Compiled programs are kept on disk, so that a second start reaches its first step in seconds.

JAX does it, in ``$XDG_CACHE_HOME/diffff/programs`` (``~/.cache/diffff/programs``), and finds them by a hash of all that
they depend on. Each kind of processor has a directory of its own, for a home that several machines share. Nothing is
lost when it is removed. ``JAX_COMPILATION_CACHE_DIR`` names another one, ``JAX_ENABLE_COMPILATION_CACHE=0`` does
without.
"""

import hashlib
import os
import platform
from contextlib import suppress
from pathlib import Path

import jax

MOST = 2**30  # bytes; the oldest files go first
_LONG = 0.05  # s; what takes longer to compile is kept


def keep_programs() -> Path | None:
    """Let JAX keep what it compiles from here on; where, or None if the user or the disk wants it otherwise."""
    if os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        return None
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    folder = Path(home) / "diffff" / "programs" / _processor()
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return None
    remove_oldest(folder, MOST)
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", _LONG)
    return folder


def remove_oldest(folder: Path, most: int) -> None:
    """Remove the oldest files of a directory until the rest takes no more than so many bytes."""
    found = []
    with suppress(OSError):  # others may remove them at the same time
        for path in folder.iterdir():
            info = path.stat()
            found.append((info.st_mtime, info.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found):
        if total <= most:
            return
        with suppress(OSError):
            path.unlink()
        total -= size


def _processor() -> str:
    """A short name for processors that understand the same programs."""
    lines = [platform.machine()]
    with suppress(OSError):
        cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        lines += [line for line in cpu if line.startswith(("model name", "flags", "Features"))][:2]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()[:12]
