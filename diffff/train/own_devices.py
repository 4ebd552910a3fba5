"""Which GPUs belong to which rank, from what launchers leave in the environment."""

from collections import Counter
from collections.abc import Mapping, Sequence

_VISIBLE = ("CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES")


def visible_gpus(environment: Mapping[str, str]) -> tuple[str, ...] | None:
    """The GPUs that a process sees; None: the environment does not tell."""
    found = next((environment[name] for name in _VISIBLE if name in environment), None)
    return None if found is None else tuple(one for one in found.split(",") if one.strip())


def own_devices(environment: Mapping[str, str], others: Sequence[tuple[str, ...] | None] = ()) -> list[int] | None:
    """The GPUs of a rank, as numbers among those that it sees; None: that with its number on the host.

    Where a launcher has divided the GPUs among the ranks of a host, each takes all that it sees.

    Args:
        environment: of the rank.
        others: what other ranks on its host see, as far as that is known.

    Example:
        >>> own_devices({"CUDA_VISIBLE_DEVICES": "0,1"}, [("0", "1")])
        >>> own_devices({"CUDA_VISIBLE_DEVICES": "2,3"}, [("0", "1")])
        [0, 1]
        >>> own_devices({"CUDA_VISIBLE_DEVICES": "0", "SLURM_GPUS_PER_TASK": "1"})
        [0]
    """
    mine = visible_gpus(environment)
    if mine is None:
        return None
    divided = len(mine) == 1 or "SLURM_GPUS_PER_TASK" in environment or any(mine != other for other in others)
    return list(range(len(mine))) if divided else None


def overview(devices: Sequence[tuple[int, str]]) -> str:
    """The ranks and their devices in a line.

    Args:
        devices: rank and kind of each.

    Example:
        >>> overview([(0, "H100"), (1, "H100"), (2, "H100"), (2, "H100")])
        '3 ranks: 2 with 1 × H100, 1 with 2 × H100'
    """
    kinds = dict(devices)
    each = Counter((sum(of == rank for of, _ in devices), kind) for rank, kind in kinds.items())
    return f"{len(kinds)} ranks: " + ", ".join(
        f"{count} with {n} × {kind}" for (n, kind), count in sorted(each.items())
    )
