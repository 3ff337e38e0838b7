"""Small variants of every registered encoder, random variables, and what all testers share.

Numbers are compared on `variants()`: each encoder with one layer per stage and few channels, as far as
its fields allow, without duplicates. The first of a family runs in the quick tests.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import encoders

SIZE = (33, 47)
"""An odd height and width."""


def fast_jit(function, **options):
    """Returns `jax.jit(function)` that compiles fast: each program runs once or twice, on small shapes."""
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def shapes(module, images=(1, *SIZE, 3), dtype=jnp.float32, **options):
    """Returns shapes and types of a module's output and of its variables, without computing them."""
    rngs = {"params": jax.random.key(0), "dropout": jax.random.key(1)}
    images = jax.ShapeDtypeStruct(images, dtype)
    return jax.eval_shape(lambda x: module.init_with_output(rngs, x, **options), images)


def count(variables):
    """Returns the number of parameters."""
    return sum(x.size for x in jax.tree.leaves(variables["params"]))


def noise(*shape, seed=1):
    """Returns normal noise in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def random_variables(template, seed=0):
    """Returns values with which activations stay near one and no leaf is zero."""
    rng = np.random.default_rng(seed)

    def fill(path, x):
        if len(x.shape) > 1:
            values = rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape)
        elif path[-1].key in ("scale", "var"):
            values = rng.uniform(0.3, 1.0, x.shape)
        else:
            values = rng.normal(0, 0.1, x.shape)
        return jnp.asarray(values, x.dtype)

    return jax.tree_util.tree_map_with_path(fill, template)


def shrink(value):
    """Returns a default that makes a small network.

    Of tuples of numbers, those below 64 count layers and become ones, others are channels and become
    few, each with a number of its own. Numbers from 1000 on are channels, too. Anything else stays.
    """
    if isinstance(value, tuple) and value and all(type(v) is int for v in value):
        return tuple(1 if max(value) < 64 else 4 + 2 * i for i in range(len(value)))
    return value // 128 if type(value) is int and value >= 1000 else value


@functools.cache
def variants():
    """Returns the small variants by the name of the first encoder that shrinks to each."""
    found = {}
    for name in encoders.names():
        encoder = encoders.create(name)
        fields = [f.name for f in dataclasses.fields(encoder) if f.name not in ("parent", "name")]
        small = encoder.clone(**{field: shrink(getattr(encoder, field)) for field in fields})
        if small not in found.values():
            found[name] = small
    return found


def first_of_each(items, family):
    """Returns the first name of each family, from pairs of a name and an object."""
    first = {}
    for name, value in items:
        first.setdefault(family(value), name)
    return list(first.values())


def quick_names():
    """Returns the names of the variants that the quick tests run, one per family."""
    return first_of_each(variants().items(), family=lambda encoder: type(encoder))


def params(names, quick):
    """Returns pytest's parameters for names, those that are not quick marked as slow."""
    return [pytest.param(n, marks=[] if n in quick else [pytest.mark.slow]) for n in names]


def check_features(features, encoder, images):
    """Asserts that features have the shapes that the encoder's strides and channels promise."""
    n, height, width, _ = images
    expected = [
        (n, -(-height // stride), -(-width // stride), channels)
        for stride, channels in zip(encoder.strides, encoder.channels, strict=True)
    ]
    assert [feature.shape for feature in features] == expected


def check_gradients(gradients):
    """Asserts that the gradient of every parameter is finite and somewhere different from zero.

    A bias of a convolution before a normalization is exempt: the mean takes it away.
    """
    for path, gradient in jax.tree_util.tree_leaves_with_path(gradients):
        *parents, module, leaf = (key.key for key in path)
        block = functools.reduce(lambda tree, key: tree[key], parents, gradients)
        idle = (module, leaf) == ("conv", "bias") and "norm" in block
        assert np.isfinite(gradient).all(), path
        assert idle or np.abs(gradient).max() > 0, path


def check_updates(before, after):
    """Asserts that training changed every batch statistic, and nothing else."""
    assert set(after) == set(before)
    jax.tree.map(np.testing.assert_array_equal, after["params"], before["params"])
    old, new = (jax.tree.leaves(v.get("batch_stats", {})) for v in (before, after))
    assert all(np.isfinite(b).all() and (a != b).any() for a, b in zip(old, new, strict=True))


def relative_error(value, exact):
    """Returns the root mean square of the difference, relative to that of `exact`."""
    return float(jnp.sqrt(jnp.square(value - exact).mean() / jnp.square(exact).mean()))
