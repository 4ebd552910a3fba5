"""The virtual sites of a System of OpenMM."""

import re
import xml.etree.ElementTree as ET
from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from diffff.errors import InputError
from diffff.potentials.virtual_sites import VirtualSites

_AVERAGES = ("TwoParticleAverageSite", "ThreeParticleAverageSite")


def virtual_sites(system: ET.Element) -> VirtualSites | None:
    """The sites of a System's XML; None if it has none.

    Raises:
        InputError: a kind of site that diffff does not have, or a site that is defined by another site.
    """
    found = [(i, site) for i, particle in enumerate(system.iterfind("Particles/Particle")) for site in particle]
    if not found:
        return None
    kinds: dict[str, list[tuple[int, ET.Element]]] = {"average": [], "plane": [], "local": []}
    for index, site in found:
        kind = {"OutOfPlaneSite": "plane", "LocalCoordinatesSite": "local"}.get(site.tag)
        kind = "average" if site.tag in _AVERAGES else kind
        if kind is None:
            raise InputError(f"particle {index} is a virtual site of the kind {site.tag}, which diffff does not have.")
        kinds[kind].append((index, site))
    sites = {index for index, _ in found}
    if nested := [index for index, site in found if sites & set(_numbers([site], "p")[0].astype(int).tolist())]:
        raise InputError(f"particle {nested[0]} is a virtual site defined by another virtual site; diffff has no such.")
    average, plane, local = ([site for _, site in kinds[kind]] for kind in ("average", "plane", "local"))
    return VirtualSites(
        **{kind: jnp.array([index for index, _ in members], jnp.int32) for kind, members in kinds.items()},
        average_atoms=jnp.asarray(_numbers(average, "p"), jnp.int32),
        average_weights=jnp.asarray(_numbers(average, "w")),
        plane_atoms=jnp.asarray(_numbers(plane, "p", 3), jnp.int32),
        plane_weights=jnp.asarray(_named(plane, ["w12", "w13", "wc"])),
        local_atoms=jnp.asarray(_numbers(local, "p"), jnp.int32),
        local_weights=jnp.asarray(np.stack([_numbers(local, name) for name in ("wo", "wx", "wy")], axis=1)),
        local_place=jnp.asarray(_named(local, ["pos1", "pos2", "pos3"])),
    )


def _numbers(sites: Sequence[ET.Element], prefix: str, least: int = 1) -> np.ndarray:
    """The attributes ``prefix1``, ``prefix2``, ...; shape ``(n_sites, most of them)``, zeros at the end."""
    rows = [[float(v) for name, v in site.attrib.items() if re.fullmatch(rf"{prefix}\d+", name)] for site in sites]
    table = np.zeros((len(rows), max([least, *map(len, rows)])))
    for i, row in enumerate(rows):
        table[i, : len(row)] = row
    return table


def _named(sites: Sequence[ET.Element], names: Sequence[str]) -> np.ndarray:
    return np.array([[float(site.attrib[name]) for name in names] for site in sites]).reshape(len(sites), len(names))
