"""Drawing at once: the bits of `jax.random`, whatever is drawn and however keys come about, by fewer loops and kernels."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jaxseg
from jaxseg.compiler import jit_once
from jaxseg.train.drawing import draw_together
from jaxseg.train.variables import make_init


def assert_same(fn, key):
    """Compares what `fn` draws alone and together; returns the program that draws together."""
    program = jax.jit(draw_together(fn))
    ours, theirs = program(key), jax.jit(fn)(key)
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)
    return program.lower(key).compile().as_text()


def loops(program):
    return program.count(" while(")


@pytest.mark.parametrize("size", [0, 1, 4095, 4096, 4097, 10_000])
def test_bits_of_any_number_are_those_of_jax(size):
    def draw(key):
        return [jax.random.bits(jax.random.fold_in(key, 7 * i), (i, size)) for i in (1, 2)]

    assert_same(draw, jax.random.key(3))


def test_a_network_is_initialised_as_by_flax_with_one_loop_instead_of_two_for_each_parameter():
    class Network(nn.Module):
        @nn.compact
        def __call__(self, x):
            for i, init in enumerate(
                (
                    nn.initializers.lecun_normal(),
                    nn.initializers.xavier_uniform(),
                    nn.initializers.orthogonal(),
                    nn.initializers.normal(0.1),
                )
            ):
                x = nn.Dense(5 + i, kernel_init=init, bias_init=nn.initializers.normal())(x)
            return nn.BatchNorm(use_running_average=False)(x)

    def init(key):
        return Network().init(key, jnp.zeros((2, 3)))

    program = assert_same(init, jax.random.key(1))
    alone = jax.jit(init).lower(jax.random.key(1)).compile().as_text()
    assert (loops(program), loops(alone)) == (1, 16)


def test_an_architecture_is_initialised_as_by_flax():
    model, key = jaxseg.create("unet", encoder="resnet18", num_classes=3), jax.random.key(0)
    alone = jit_once(lambda key: model.init(key, jnp.zeros((1, 64, 64, 3))))
    jax.tree.map(np.testing.assert_array_equal, make_init(model)(key), alone(key))


def test_keys_that_come_about_otherwise_are_used_as_they_are():
    def draw(key):
        first, second = jax.random.split(key)
        folded = jax.random.fold_in(key, 5)
        return {
            "split": jax.random.normal(first, (3,)),
            "folded twice": jax.random.uniform(jax.random.fold_in(folded, 5), (3,)),
            "by a number that is drawn": jax.random.bits(
                jax.random.fold_in(key, jax.random.bits(second)), (3,)
            ),
            "the key": jax.random.key_data(folded),
            "the key itself": jax.random.bits(key, (3,)),
            "two of one key": (jax.random.bits(folded, (3,)), jax.random.normal(folded, (4, 2))),
            "within a function": jax.jit(lambda key: jax.random.permutation(key, 9))(folded),
            "16 bits": (
                jax.random.bits(folded, (3,), "uint16"),
                jax.random.normal(folded, (3,), jnp.bfloat16),
            ),
            "nothing": jnp.zeros(3),
        }

    assert_same(draw, jax.random.key(2))
    with jax.enable_x64(True):
        assert_same(
            lambda key: jax.random.normal(jax.random.fold_in(key, 1), (5,)), jax.random.key(2)
        )


def test_other_generators_draw_as_they_are():
    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, 1), (5,))

    assert_same(draw, jax.random.key(0, impl="rbg"))
    assert_same(draw, jax.random.PRNGKey(0))
    with jax.threefry_partitionable(False):
        assert_same(draw, jax.random.key(0))


def test_many_keys_at_once():
    def draw(key):
        return jax.random.normal(jax.random.fold_in(key, 1), (5,))

    keys = jax.random.split(jax.random.key(0), 3)
    np.testing.assert_array_equal(jax.vmap(draw_together(draw))(keys), jax.vmap(draw)(keys))
