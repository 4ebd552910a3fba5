"""Time and memory of the neighbour list on the device, up to a million atoms.

    python benchmarks/neighbors.py --atoms 10000 100000 1000000

Atoms at the density of water (100 per nm^3), on a lattice with random displacements, in a cubic box and in a skewed
one, which is the same lattice of images by other vectors. `allocate` chooses the sizes on the host; the first `update`
compiles, the second does not. The number of pairs is compared with that of SciPy's k-d tree.
"""

import argparse
import resource
import time

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial import cKDTree

jax.config.update("jax_enable_x64", True)

from diffff import cell_list  # noqa: E402

DENSITY = 100.0  # atoms per nm^3


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--atoms", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--cutoff", type=float, default=0.6, help="nm")
    options = parser.parse_args()
    print("| atoms | box | pairs | as others | allocate, s | first update, s | update, s | most memory so far, GB |")
    print("|---" * 8 + "|", flush=True)
    for n_atoms in options.atoms:
        edge = (n_atoms / DENSITY) ** (1 / 3)
        side = int(np.ceil(n_atoms ** (1 / 3)))
        random = np.random.default_rng(1)
        lattice = np.stack(np.meshgrid(*[np.arange(side)] * 3, indexing="ij"), axis=-1).reshape(-1, 3)
        chosen = random.permutation(len(lattice))[:n_atoms]
        x = (lattice[chosen] + 0.5 * random.uniform(size=(n_atoms, 3))) * edge / side
        tree = cKDTree(x % edge, boxsize=edge)
        wanted = (tree.count_neighbors(tree, options.cutoff) - n_atoms) // 2
        cubic = edge * np.eye(3)
        skewed = np.array([cubic[0], cubic[1] + cubic[0], cubic[2] - cubic[0] + cubic[1]])
        for name, box in (("cubic", cubic), ("skewed", skewed)):
            print(row(n_atoms, name, x, box, options.cutoff, int(wanted)), flush=True)


def row(n_atoms: int, name: str, x: np.ndarray, box: np.ndarray, cutoff: float, wanted: int) -> str:
    """One row of the table."""
    begun = time.perf_counter()
    sizes = cell_list.allocate(x, box, cutoff)
    times = [time.perf_counter() - begun]
    update = jax.jit(cell_list.update, static_argnums=0)
    positions, cell = jnp.asarray(x), jnp.asarray(box)
    for _ in range(2):
        begun = time.perf_counter()
        found = jax.block_until_ready(update(sizes, positions, cell))
        times.append(time.perf_counter() - begun)
    n_pairs = int(jnp.sum(found.i < n_atoms))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
    same = "yes" if n_pairs == wanted and not bool(found.overflow) else f"NO, {wanted}"
    seconds = " | ".join(f"{one:.2f}" for one in times)
    return f"| {n_atoms} | {name} | {n_pairs} | {same} | {seconds} | {memory:.1f} |"


if __name__ == "__main__":
    main()
