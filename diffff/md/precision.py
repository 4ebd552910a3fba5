"""In which precision a potential is computed."""

from dataclasses import replace
from typing import Any, TypeVar

import jax
import jax.numpy as jnp

from diffff.errors import InputError
from diffff.potentials.base import Params, Potential
from diffff.potentials.deep import DeepPot

T = TypeVar("T")


def check_dtype(dtype: str) -> None:
    """Refuse what is no precision of a run.

    Raises:
        InputError: neither "float32" nor "float64", or float64 while JAX is in 32-bit mode.
    """
    if dtype not in ("float32", "float64"):
        raise InputError(f'dtype is {dtype!r}; give "float32" or "float64".')
    if dtype == "float64" and not jax.config.read("jax_enable_x64"):
        raise InputError(
            'dtype "float64" is wanted, but JAX is in 32-bit mode. Call jax.config.update("jax_enable_x64", True) at '
            'the start of the program, or give dtype="float32".'
        )


def cast(tree: T, dtype: Any) -> T:
    """A tree with its floating-point numbers in a precision."""

    def cast_leaf(leaf: Any) -> jax.Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast_leaf, tree)


def cast_potential(potential: Potential, dtype: Any) -> Potential:
    """A potential in a precision; its networks are computed in float32 too if that is it, else in their own."""
    if jnp.dtype(dtype) == jnp.float32:
        terms = (
            replace(term, model=term.model.in_single_precision()) if isinstance(term, DeepPot) else term
            for term in potential.terms
        )
        potential = replace(potential, terms=tuple(terms))
    return cast(potential, dtype)


def cast_params(params: Params, dtype: Any) -> Params:
    """Parameters in a precision; energies of isolated atoms stay, since their sum would lose its decimals."""
    return {
        name: {**cast(group, dtype), "bias": jnp.asarray(group["bias"])} if "bias" in group else cast(group, dtype)
        for name, group in params.items()
    }
