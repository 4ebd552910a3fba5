"""How much memory there is, and how much a step takes: told before the run, and refused where it cannot be."""

import logging
import os
from collections.abc import Callable
from pathlib import Path

import jax

from diffff.errors import InputError

logger = logging.getLogger(__name__)


def free_on_device() -> float | None:
    """Bytes that are free where JAX puts arrays; None: it does not tell."""
    stats = jax.local_devices()[0].memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    return free_on_host() if jax.local_devices()[0].platform == "cpu" else None


def free_on_host() -> float | None:
    """Bytes that a rank can have without swapping, of the machine or of the container; None: neither tells."""
    found = []
    for line in _text("/proc/meminfo").splitlines():
        if line.startswith("MemAvailable:"):
            found.append(1024.0 * float(line.split()[1]))
    limit, used = _text("/sys/fs/cgroup/memory.max").strip(), _text("/sys/fs/cgroup/memory.current").strip()
    if limit.isdecimal() and used.isdecimal():
        cached = dict(line.split() for line in _text("/sys/fs/cgroup/memory.stat").splitlines())
        files = sum(float(cached.get(name, 0)) for name in ("inactive_file", "active_file"))
        found.append(float(limit) - float(used) + files)
    return min(found) / _ranks_here() if found else None


def _ranks_here() -> int:
    """Processes of this run on this machine, which share its memory, as the launcher tells."""
    told = (os.environ.get(name, "") for name in ("OMPI_COMM_WORLD_LOCAL_SIZE", "MPI_LOCALNRANKS"))
    return max([int(n) for n in told if n.isdecimal()] + [1])


def _text(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError:
        return ""


def bytes_of(compiled: jax.stages.Compiled) -> float:
    """Bytes that a program takes beside its arguments."""
    found = compiled.memory_analysis()
    if found is None:
        return 0.0
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def require_room(needs: Callable[[int], float], n_frames: int, what: str) -> None:
    """Tell what a step takes.

    Args:
        needs: bytes for a number of frames on each device.
        n_frames: those of a batch.
        what: a frame is, for messages.

    Raises:
        InputError: there is not so much; with the largest batch for which there is.
    """
    needed, free = needs(n_frames), free_on_device()
    if free is None:
        logger.info("memory: a step of %d %s takes %s", n_frames, what, readable(needed))
        return
    logger.info("memory: a step of %d %s takes %s; %s are free", n_frames, what, readable(needed), readable(free))
    if needed <= free:
        return
    largest = _largest(needs, n_frames, needed, free)
    advice = f"The largest batch that fits has {largest}: set batch_size to that" if largest else "Not even one fits"
    raise InputError(
        f"a step of {n_frames} {what} takes {readable(needed)} of memory, and {readable(free)} are free. {advice}; "
        "training.rematerialize takes a third of the memory of large batches, nets in float32 half of that in float64."
    )


def _largest(needs: Callable[[int], float], n: int, needed: float, free: float) -> int:
    """The largest number below n that fits, or a little less; 0: none. What is needed grows by the same for each."""
    if n == 1 or (for_one := needs(1)) > free:
        return 0
    each = (needed - for_one) / (n - 1)
    guess = max(1, min(n - 1, 1 + int((free - for_one) / each)))
    while guess > 1 and needs(guess) > free:
        guess -= max(1, guess // 16)
    return guess


def readable(n_bytes: float) -> str:
    """A number of bytes with three digits.

    Example:
        >>> readable(123), readable(45_600_000), readable(7.89e9)
        ('123 B', '45.6 MB', '7.89 GB')
    """
    for factor, unit in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if n_bytes >= factor:
            return f"{n_bytes / factor:.3g} {unit}"
    return f"{n_bytes:.3g} B"
