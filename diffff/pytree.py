"""Frozen dataclasses that JAX can look into."""

import dataclasses
from typing import Any, TypeVar, dataclass_transform

import jax

T = TypeVar("T")


def static(*, default: Any = dataclasses.MISSING) -> Any:
    """Mark a field of a `pytree` class as part of its structure instead of its data.

    A static field is a constant of the compiled program: a change of its value compiles again.
    It must be hashable (a string, a number, a tuple), never an array.
    """
    return dataclasses.field(default=default, metadata={"static": True})


@dataclass_transform(kw_only_default=True, frozen_default=True, eq_default=False, field_specifiers=(static,))
def pytree(cls: type[T]) -> type[T]:
    """Make a class a frozen, keyword-only dataclass whose fields are leaves or sub-trees for JAX.

    Instances compare by identity, since arrays have no single truth value. Change one with
    `dataclasses.replace`. JAX rebuilds instances with tracers, or placeholders, in place of arrays, so a
    `__post_init__` may check the static fields only.

    Example:
        >>> @pytree
        ... class Spring:
        ...     atoms: jax.Array
        ...     name: str = static(default="Spring")
        >>> spring = Spring(atoms=jax.numpy.array([[0, 1]]))
        >>> [leaf.shape for leaf in jax.tree.leaves(spring)]
        [(1, 2)]
        >>> dataclasses.replace(spring, name="Bond").name
        'Bond'
    """
    made = dataclasses.dataclass(frozen=True, kw_only=True, eq=False)(cls)
    fields = dataclasses.fields(made)  # pyright: ignore[reportArgumentType]
    return jax.tree_util.register_dataclass(
        made,
        data_fields=[field.name for field in fields if not field.metadata.get("static", False)],
        meta_fields=[field.name for field in fields if field.metadata.get("static", False)],
    )
