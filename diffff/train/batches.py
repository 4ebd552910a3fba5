"""How many frames of each system make a batch, and how often each system is drawn: DeePMD-kit's rules."""

import logging
from collections.abc import Sequence
from math import ceil

import numpy as np
from numpy.typing import NDArray

from diffff.data.systems import System
from diffff.errors import InputError
from diffff.train.config_data import batch_rule, prob_blocks

logger = logging.getLogger(__name__)

_NAME_WIDTH = 42
_LISTED = 40  # systems in the table


def kept_systems(batch_size: int | Sequence[int] | str, systems: Sequence[System]) -> list[System]:
    """Leave out what the batch size "filter:N" leaves out: systems of more than N atoms.

    `sys_probs` and the blocks of `auto_prob` count the systems that are kept.

    Raises:
        InputError: None is left.
    """
    rule, limit = batch_rule(batch_size) if isinstance(batch_size, str) else ("", 0)
    if rule != "filter":
        return list(systems)
    kept = [system for system in systems if system.n_atoms_file <= limit]
    if not kept:
        smallest = min(system.n_atoms_file for system in systems)
        raise InputError(f"batch_size filter:{limit}: every system has more atoms; the smallest has {smallest}.")
    if len(kept) < len(systems):
        logger.warning(
            "batch_size filter:%d leaves out %d of %d systems", limit, len(systems) - len(kept), len(systems)
        )
    return kept


def batch_sizes(batch_size: int | Sequence[int] | str, systems: Sequence[System]) -> tuple[int, ...]:
    """Frames per batch of each system.

    A batch never takes more frames than the system has; where a number asks for more, a warning says so.

    Args:
        batch_size: A number for all, one number per system, or a rule: "auto:N" takes as few frames as hold
            N atoms ("auto" is "auto:32"), "max:N" and "filter:N" as many as hold N atoms at most, but at least one.
        systems: The systems, those of `kept_systems`.

    Raises:
        InputError: The list does not have one number per system.
    """
    if isinstance(batch_size, str):
        rule, n = batch_rule(batch_size)
        atoms = [system.n_atoms_file for system in systems]
        wanted = [ceil(n / each) if rule == "auto" else max(1, n // each) for each in atoms]
    elif isinstance(batch_size, int):
        wanted = [batch_size] * len(systems)
    else:
        wanted = list(batch_size)
        if len(wanted) != len(systems):
            names = "".join(f"\n  {system.name}" for system in systems)
            raise InputError(f"batch_size: {len(wanted)} numbers, but there are {len(systems)} systems:{names}")
    for system, size in zip(systems, wanted, strict=True):
        if size > system.n_frames and not isinstance(batch_size, str):
            logger.warning("%s: batch size %d; it has %d frames and gets them all", system.name, size, system.n_frames)
    return tuple(min(size, system.n_frames) for system, size in zip(systems, wanted, strict=True))


def n_batches(set_sizes: Sequence[int], batch_size: int) -> int:
    """The batches of a system as DeePMD-kit counts them: full batches of each set, at least one a set.

    The count serves to weigh the systems; the batches themselves run across the sets.
    """
    return sum(max(1, size // batch_size) for size in set_sizes)


def probabilities(auto_prob: str, sys_probs: Sequence[float] | None, n_bch: Sequence[int]) -> NDArray[np.float64]:
    """How often each system is drawn.

    Args:
        auto_prob: "prob_uniform": all the same. "prob_sys_size": in proportion to the batches.
            "prob_sys_size;first:end:weight;…": in proportion to the batches inside each block of systems; the
            blocks share the draws by their weights, and systems in no block are never drawn.
        sys_probs: The probability of each system instead; those with a negative one share the rest by their batches.
        n_bch: Batches of each system.

    Returns:
        Shape (n_systems,), sum 1.

    Raises:
        InputError: The numbers do not fit the number of systems, or do not add up to 1.
    """
    batches = np.asarray(n_bch, dtype=np.float64)
    if sys_probs is not None:
        return _given_probabilities(np.asarray(sys_probs, dtype=np.float64), batches)
    if auto_prob == "prob_uniform":
        return np.full(len(batches), 1.0 / len(batches))
    blocks = prob_blocks(auto_prob) or ((0, len(batches), 1.0),)
    total = sum(weight for _, _, weight in blocks)
    covered = np.zeros(len(batches), dtype=bool)
    probs = np.zeros(len(batches))
    for first, end, weight in blocks:
        if end > len(batches):
            raise InputError(f"auto_prob: block {first}:{end}:{weight:g} goes beyond the {len(batches)} systems.")
        if covered[first:end].any():
            raise InputError(f"auto_prob: block {first}:{end}:{weight:g} overlaps the one before. Make them disjoint.")
        covered[first:end] = True
        probs[first:end] = weight / total * (batches[first:end] / batches[first:end].sum())
    return probs


def _given_probabilities(given: NDArray[np.float64], batches: NDArray[np.float64]) -> NDArray[np.float64]:
    if len(given) != len(batches):
        raise InputError(f"sys_probs: {len(given)} numbers, but there are {len(batches)} systems.")
    automatic = given < 0
    rest = 1.0 - given[~automatic].sum()
    if not automatic.any():
        if abs(rest) > 1e-5:
            raise InputError(f"sys_probs: they add up to {1 - rest:g}, not 1. A negative entry takes the rest.")
        return given / given.sum()
    if rest < 1e-8:
        raise InputError("sys_probs: the given ones add up to 1 or more, so nothing is left for the negative entries.")
    return np.where(automatic, rest * batches / batches[automatic].sum(), given)


def epoch_steps(numb_epoch: float, n_bch: Sequence[int], probs: NDArray[np.float64]) -> int:
    """Steps of a number of epochs: an epoch lasts until the system drawn most rarely for its size is through."""
    drawn = probs > 0
    epoch = (np.asarray(n_bch)[drawn] / probs[drawn]).max()
    return ceil(numb_epoch * ceil(epoch * (1 - 1e-12)))  # 32.000000000000004 is 32


def systems_table(systems: Sequence[System], sizes: Sequence[int], probs: Sequence[float] | NDArray[np.float64]) -> str:
    """The first systems at a glance: atoms, frames per batch, batches, probability, and whether it is periodic."""
    lines = [f"{'system':>{_NAME_WIDTH}}  natoms  bch_sz   n_bch       prob  pbc"]
    for system, size, prob in list(zip(systems, sizes, probs, strict=True))[:_LISTED]:
        batches = n_batches(system.set_sizes, size)
        lines.append(
            f"{_shortened(system.name):>{_NAME_WIDTH}}  {system.n_atoms_file:6d}  {size:6d}  {batches:6d}  "
            f"{prob:9.3e}  {'F' if system.boxes is None else 'T':>3}"
        )
    if len(systems) > _LISTED:
        lines.append(f"{'…':>{_NAME_WIDTH}}  and {len(systems) - _LISTED} more")
    return "\n".join(lines)


def _shortened(name: str) -> str:
    return name if len(name) <= _NAME_WIDTH else f"… {name[2 - _NAME_WIDTH :]}"
