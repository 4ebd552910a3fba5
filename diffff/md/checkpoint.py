"""Checkpoints of a simulation: all that the next step depends on, to the last bit, in one file of plain arrays."""

from dataclasses import fields
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import jax
import jax.numpy as jnp
import numpy as np

from diffff.cell_list import CellList
from diffff.errors import InputError
from diffff.files import replacing
from diffff.md.state import State

_FORMAT = 1


def save(path: Path, state: State, sizes: CellList, run: str) -> None:
    """Write a checkpoint; the file there was is replaced when the new one is complete.

    Args:
        path: a name ending in .npz.
        state: of all replicas.
        sizes: of the neighbour lists: sums over longer lists are rounded in another way.
        run: what has to be the same in the run that continues, in words.

    Raises:
        InputError: the file cannot be written.
    """
    arrays = {field.name: getattr(state, field.name) for field in fields(state)}
    bath, key = arrays.pop("bath"), arrays.pop("key")
    arrays = {name: np.asarray(array) for name, array in arrays.items() if array is not None}
    arrays |= {f"bath/{name}": np.asarray(array) for name, array in bath.items()}
    arrays |= {f"sizes/{field.name}": np.asarray(getattr(sizes, field.name)) for field in fields(sizes)}
    arrays |= {"key": np.asarray(jax.random.key_data(key)), "run": np.array(run), "format": np.array(_FORMAT)}
    with replacing(path) as part, part.open("wb") as file:
        np.savez(file, allow_pickle=False, **arrays)


def load(path: Path, run: str) -> tuple[State, CellList]:
    """Read a checkpoint.

    Raises:
        InputError: there is none, it is damaged, or it is one of another run.
    """
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = dict(file)
        if int(arrays["format"]) != _FORMAT:
            raise InputError(f"{path}: a checkpoint of the format {arrays['format']}; this diffff reads {_FORMAT}.")
        if str(arrays["run"]) != run:
            raise InputError(
                f"{path}: a checkpoint of another run, which cannot be continued as this one.\n"
                f"  there: {arrays['run']}\n  here:  {run}"
            )
        sizes = CellList(**{field.name: _plain(arrays[f"sizes/{field.name}"]) for field in fields(CellList)})
        bath = {name[len("bath/") :]: jnp.asarray(a) for name, a in arrays.items() if name.startswith("bath/")}
        names = {field.name for field in fields(State)} - {"bath", "key", "box"}
        state = State(
            **{name: jnp.asarray(arrays[name]) for name in names},
            box=jnp.asarray(arrays["box"]) if "box" in arrays else None,
            key=jax.random.wrap_key_data(jnp.asarray(arrays["key"])),
            bath=bath,
        )
    except FileNotFoundError:
        raise InputError(f"{path}: there is no such checkpoint. Begin a new run, or correct the path.") from None
    except (OSError, ValueError, TypeError, KeyError, EOFError, BadZipFile) as error:
        raise InputError(f"{path}: no checkpoint of a simulation, or a damaged one ({error}).") from error
    return state, sizes


def _plain(array: np.ndarray) -> Any:
    """A static field: a number, or a tuple of them."""
    value = array.tolist()
    return tuple(value) if isinstance(value, list) else value
