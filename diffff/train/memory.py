"""How much memory there is, and how much a step takes: told before the run, and refused where it cannot be."""

import logging
from collections.abc import Callable, Iterator
from pathlib import Path

import jax

from diffff.errors import InputError
from diffff.train.devices import Devices

logger = logging.getLogger(__name__)


def free_on_device(devices: Devices) -> float | None:
    """Bytes that are free where JAX puts the arrays of one device; None: it does not tell."""
    first, *_ = own = jax.local_devices()
    stats = first.memory_stats()
    if stats and "bytes_limit" in stats:
        return stats["bytes_limit"] - stats.get("bytes_in_use", 0)
    free = free_on_host(devices) if first.platform == "cpu" else None
    return None if free is None else free / len(own)


def free_on_host(devices: Devices, root: Path = Path("/")) -> float | None:
    """Bytes that a rank can have without swapping, of the machine or of its share of it; None: neither tells.

    Args:
        devices: with the number of ranks that share the memory.
        root: of the file system.
    """
    available = (line.split() for line in _text(root / "proc/meminfo").splitlines())
    found = [1024.0 * float(words[1]) for words in available if words[0] == "MemAvailable:"]
    found += [free for group in _control_groups(root) if (free := _free_in(group)) is not None]
    return min(found) / devices.n_ranks_here if found else None


def _control_groups(root: Path) -> Iterator[Path]:
    """The directories that may limit this process: batch systems and containers do so at different depths."""
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, place = line.split(":", 2)
        if kinds and "memory" not in kinds.split(","):
            continue
        top = root / "sys/fs/cgroup" / ("memory" if kinds else "")  # version 1, or 2
        group = top / place.lstrip("/")
        yield from (group, *(above for above in group.parents if above.is_relative_to(top)))


def _free_in(group: Path) -> float | None:
    """What the limit of a control group leaves; files that the system only keeps in memory can go."""
    for limit, used, files in (
        ("memory.max", "memory.current", ("inactive_file", "active_file")),
        ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file")),
    ):
        most, now = _text(group / limit).strip(), _text(group / used).strip()
        if most.isdecimal() and now.isdecimal():
            kept = dict(line.split(maxsplit=1) for line in _text(group / "memory.stat").splitlines())
            return float(most) - float(now) + sum(float(kept.get(name, 0)) for name in files)
    return None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""


def bytes_of(compiled: jax.stages.Compiled) -> float:
    """Bytes that a program takes beside its arguments."""
    found = compiled.memory_analysis()
    if found is None:
        return 0.0
    return found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes


def require_room(needs: Callable[[int], float], n_frames: int, what: str, devices: Devices) -> None:
    """Tell what a batch takes.

    Args:
        needs: bytes for a number of frames on each device.
        n_frames: those of a batch.
        what: is computed, for messages, with ``{}`` for the number of frames.
        devices: of the run.

    Raises:
        InputError: there is not so much; with the largest batch for which there is.
    """
    needed, free = needs(n_frames), free_on_device(devices)
    told = what.format(n_frames)
    if free is None:
        logger.info("memory: %s takes %s", told, readable(needed))
        return
    logger.info("memory: %s takes %s; %s are free", told, readable(needed), readable(free))
    if needed <= free:
        return
    largest = _largest(needs, n_frames, needed, free)
    advice = f"The largest batch that fits has {largest}: set batch_size to that" if largest else "Not even one fits"
    raise InputError(
        f"{told} takes {readable(needed)} of memory, and {readable(free)} are free. {advice}; "
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
