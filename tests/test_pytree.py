"""Pytree classes pass through JAX's transformations and stay frozen."""

import dataclasses

import jax
import jax.numpy as jnp
import pytest

from diffff.pytree import pytree, static


@pytree
class Bond:
    """A term with one array, one sub-tree and two constants."""

    rows: jax.Array
    extra: dict[str, jax.Array]
    power: int
    name: str = static(default="Bond")
    order: int = static(default=2)


def bond(**changes):
    return dataclasses.replace(Bond(rows=jnp.arange(3), extra={"shift": jnp.ones(2)}, power=2), **changes)


def test_leaves_are_the_fields_that_are_not_static():
    leaves = jax.tree.leaves(bond())
    assert [jnp.shape(leaf) for leaf in leaves] == [(3,), (2,), ()]


def test_fields_are_keywords_and_frozen():
    with pytest.raises(TypeError):
        Bond(jnp.arange(3), {}, 2)
    with pytest.raises(dataclasses.FrozenInstanceError):
        bond().name = "other"


def test_replace_changes_a_copy():
    first = bond()
    second = dataclasses.replace(first, rows=jnp.arange(5), name="other")
    assert (first.name, second.name) == ("Bond", "other")
    assert second.rows.shape == (5,)
    assert second.extra is first.extra


def test_only_a_static_field_compiles_again():
    traces = []

    @jax.jit
    def total(term: Bond):
        traces.append(term.name)
        return jnp.sum(term.rows) * term.order

    assert total(bond()) == 6
    assert total(bond(rows=jnp.ones(3, int))) == 6
    assert total(bond(order=3)) == 9
    assert len(traces) == 2


def test_grad_and_map_give_instances():
    gradient = jax.grad(lambda term: jnp.sum(term.rows**2))(
        Bond(rows=jnp.array([1.0, 2.0]), extra={}, power=jnp.array(2.0))
    )
    assert isinstance(gradient, Bond)
    assert gradient.rows.tolist() == [2.0, 4.0]
    doubled = jax.tree.map(lambda leaf: 2 * leaf, bond())
    assert (doubled.power, doubled.name) == (4, "Bond")


def test_instances_compare_by_identity():
    one = bond()
    assert one == one
    assert one != bond()
    assert len({one, bond()}) == 2
