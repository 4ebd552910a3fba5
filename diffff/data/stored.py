"""Values of the frames of a system that stay in their files until frames are asked for."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]
Ints = NDArray[np.int64]
_BLOCK_BYTES = 2**24  # read at once where all frames are gone through


@dataclass(frozen=True, eq=False)
class Stored:
    """An array with an entry for each frame, which is indexed by frames: a slice or an array of integers.

    Attributes:
        sources: for each set how many frames it has, and what reads some of them, ``(n,) -> (n, ...)``, float64.
        shape: of the whole array, as it is after ``placed``.
        placed: brings what was read, of the frames whose numbers in all sets are given, into its final form.
    """

    sources: tuple[tuple[int, Callable[[Ints], Array]], ...]
    shape: tuple[int, ...]
    placed: Callable[[Array, Ints], Array]

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, frames: slice | Ints) -> Array:
        wanted = np.arange(len(self))[frames]
        unique, back = np.unique(wanted, return_inverse=True)
        parts, first = [], 0
        for n, read in self.sources:
            mine = unique[(unique >= first) & (unique < first + n)]
            if len(mine):
                parts.append(self.placed(read(mine - first), mine))
            first += n
        values = np.concatenate(parts) if parts else np.zeros((0, *self.shape[1:]))
        return values if np.array_equal(unique, wanted) else values[back]

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray:
        whole = np.concatenate(list(blocks(self))) if len(self) else np.zeros(self.shape)
        return whole if dtype is None else whole.astype(dtype)

    def then(self, shape: Sequence[int], function: Callable[[Array], Array]) -> "Stored":
        """The same frames, each brought into another shape."""
        placed = self.placed
        return replace(self, shape=tuple(shape), placed=lambda values, frames: function(placed(values, frames)))


def blocks(values: Stored) -> Iterator[Array]:
    """All frames, a few at a time."""
    n = max(1, _BLOCK_BYTES // (8 * max(1, int(np.prod(values.shape[1:])))))
    for first in range(0, len(values), n):
        yield values[first : first + n]
