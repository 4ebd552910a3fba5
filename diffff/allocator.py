"""The C library's memory allocator, set for a program that needs the same large buffers in every step.

By default glibc hands buffers of 32 MB and more back to the system when they are freed, which clears each of their
pages when it gives them out again. Steps that are compiled once and run often allocate the same buffers each time: on
two cores a training step of four frames of water spent a fifth of its time in that.
"""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_MAX, _ARENA_MAX = -1, -4, -8  # as in malloc.h


def keep_freed_memory() -> bool:
    """Have freed memory stay with the process, for its next buffers. To be called before threads are started.

    Returns:
        Whether it could be done: with glibc, that is, on most Linux systems.
    """
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries lack it, or it does nothing there
    if mallopt is None:
        return False
    settings = {_TRIM_THRESHOLD: -1, _MMAP_MAX: 0, _ARENA_MAX: 1}
    return all(mallopt(option, value) == 1 for option, value in settings.items())
