"""Micro-batches give the whole batch's gradient, and rematerialisation the same one, in less memory."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.decoders import UNet
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm
from jaxseg.train import accumulate
from jaxseg.train.parallel import Parallel
from jaxseg.typing import Output

K = 3
KEY = jax.random.key(0)


class Convs(nn.Module):
    """Two convolutions without batch statistics, an auxiliary head, and dropout on request."""

    rate: float = 0.0

    @nn.compact
    def __call__(self, images, train=False):
        wide = {"param_dtype": images.dtype}
        x = nn.tanh(nn.Conv(4, (3, 3), **wide)(images))
        x = nn.Dropout(self.rate, deterministic=not train)(x)
        return Output(nn.Conv(K, (3, 3), **wide)(x), (nn.Conv(K, (1, 1), **wide)(x),))


@pytest.fixture(scope="module")
def everything():
    """Ratios over labels, over labels and probabilities, and a loss that sorts each image."""
    return losses.make_loss_fn(
        {"cross_entropy": 1.0, "dice": 0.5, "lovasz_softmax": 0.5}, class_weights=[1.0, 2.0, 0.5]
    )


def stepped(parallel, model, variables, loss_fn, batch, **options):
    optimizer = optax.sgd(0.1)
    state = parallel.replicate(train.create_state(variables, optimizer))
    step = parallel.compile(train.make_train_step(model, optimizer, loss_fn, **options))
    return jax.device_get(step(state, parallel.shard(batch), KEY))


@pytest.fixture(scope="module")
def whole_batch(everything, batch):
    with jax.enable_x64(True):
        variables = jax.jit(Convs().init)(KEY, batch["image"])
        alone = Parallel("jit", jax.devices()[:1])
        return variables, stepped(alone, Convs(), variables, everything, batch)


@pytest.mark.parametrize(
    ("strategy", "devices", "parts"),
    [
        ("jit", 1, 4),
        ("jit", 2, 2),
        ("pmap", 2, 4),
        pytest.param("shard_map", 4, 2, marks=pytest.mark.slow),
    ],
)
def test_micro_batches_equal_the_whole_batch(
    whole_batch, everything, batch, strategy, devices, parts
):
    """Some micro-batches have nothing but ignored pixels; the mean of their gradients would be another."""
    variables, expected = whole_batch
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:devices])
        got = stepped(parallel, Convs(), variables, everything, batch, micro_batches=parts)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-9)


def test_a_scan_gives_the_same(whole_batch, everything, batch, monkeypatch):
    """What accelerators do."""
    variables, expected = whole_batch
    monkeypatch.setattr(accumulate.jax, "default_backend", lambda: "gpu")
    with jax.enable_x64(True):
        alone = Parallel("jit", jax.devices()[:1])
        got = stepped(alone, Convs(), variables, everything, batch, micro_batches=4)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-9)


def test_batch_normalisation_sees_micro_batches(conv_net, loss_fn, batch):
    """Each is normalised by its own moments, the loss is that of all outputs, the running statistics move once for each."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(KEY, batch["image"])
        alone = Parallel("jit", jax.devices()[:1])
        state, logs = stepped(alone, model, variables, loss_fn, batch, micro_batches=2)

        def reference(params):
            stats, logits = variables["batch_stats"], []
            for part in (batch["image"][0::2], batch["image"][1::2]):
                tree = {"params": params, "batch_stats": stats}
                output, updated = model.apply(tree, part, train=True, mutable=["batch_stats"])
                stats = updated["batch_stats"]
                logits.append(output.logits)
            joined = jnp.stack(logits, 1).reshape(8, *logits[0].shape[1:])
            return loss_fn(Output(joined), batch)[0], stats

        (loss, stats), gradient = jax.jit(jax.value_and_grad(reference, has_aux=True))(
            variables["params"]
        )
        params = jax.tree.map(lambda p, g: p - 0.1 * g, variables["params"], gradient)
    np.testing.assert_allclose(logs["loss"], loss, rtol=0, atol=1e-9)
    chex.assert_trees_all_close(state.params, jax.device_get(params), rtol=0, atol=1e-9)
    chex.assert_trees_all_close(state.batch_stats, jax.device_get(stats), rtol=0, atol=1e-9)


def test_both_passes_drop_the_same(everything, batch):
    """Otherwise the gradient would be that of no function: here it is the loss's, by a finite difference."""
    with jax.enable_x64(True):
        model = Convs(rate=0.5)
        variables = jax.jit(model.init)(KEY, batch["image"])
        alone = Parallel("jit", jax.devices()[:1])
        rng = np.random.default_rng(0)
        way = jax.tree.map(lambda p: rng.normal(size=p.shape), variables["params"])

        def stepped_at(shift):
            params = jax.tree.map(lambda p, w: p + shift * w, variables["params"], way)
            return params, stepped(
                alone, model, {"params": params}, everything, batch, micro_batches=2
            )

        before, (state, _) = stepped_at(0.0)
        losses_at = [stepped_at(shift)[1][1]["loss"] for shift in (-1e-5, 1e-5)]
    slope = sum(
        ((np.asarray(b) - a) / 0.1 * w).sum()
        for b, a, w in zip(*map(jax.tree.leaves, (before, state.params, way)), strict=True)
    )
    assert (losses_at[1] - losses_at[0]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def test_batches_that_cannot_be_cut_are_named(everything, batch):
    variables = jax.eval_shape(Convs().init, KEY, jnp.float32(batch["image"]))
    state = jax.eval_shape(
        lambda: train.create_state(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables), optax.sgd(0.1)
        )
    )
    step = train.make_train_step(Convs(), optax.sgd(0.1), everything, micro_batches=3)
    with pytest.raises(InputError, match="8 images on a device cannot be cut into 3 micro-batches"):
        jax.eval_shape(step, state, jax.tree.map(jnp.asarray, batch), KEY)


class Tower(nn.Module):
    """Convolutions and norms, whose maps fill the memory."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for _ in range(3):
            x = ConvNorm(8)(x, train=train)
        return Output(nn.Conv(K, (1, 1))(x))


def temporary(**options):
    """Bytes that a step on 8 images takes beside its arguments."""
    arrays = {
        "image": jax.ShapeDtypeStruct((8, 32, 64, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct((8, 32, 64), jnp.uint8),
    }
    model, optimizer = Tower(), optax.sgd(0.1)
    variables = jax.eval_shape(model.init, KEY, arrays["image"])
    state = jax.eval_shape(lambda v: train.create_state(v, optimizer), variables)
    loss_fn = losses.make_loss_fn({"cross_entropy": 1.0})
    step = train.make_train_step(model, optimizer, loss_fn, **options)
    parallel = Parallel("jit", jax.devices()[:1])
    program = parallel.lower(step, state, arrays, jax.eval_shape(lambda: KEY)).compile()
    return program.memory_analysis().temp_size_in_bytes


def test_micro_batches_take_less_memory():
    assert temporary(micro_batches=4) < 0.5 * temporary()


def kept(run, variables, policy):
    """The shapes of what a backward pass towards the parameters finds in memory."""

    def forward(params, stats):
        return run({"params": params, "batch_stats": stats})

    if policy is not None:
        forward = jax.checkpoint(forward, policy=policy)
    back = jax.eval_shape(
        lambda tree: jax.vjp(lambda p: forward(p, tree["batch_stats"]), tree["params"])[1],
        variables,
    )
    return [leaf.shape for leaf in jax.tree.leaves(back)]


def test_rematerialisation_keeps_less():
    """Of Tower, what three convolutions give and what goes in, instead of every map between them."""
    images = jnp.zeros((8, 32, 64, 3))
    variables = jax.eval_shape(Tower().init, KEY, images)

    def run(variables):
        return Tower().apply(variables, images, train=True, mutable=["batch_stats"])[0]

    def numbers(policy):
        return sum(math.prod(shape) for shape in kept(run, variables, policy))

    least = images.size + 3 * images.size // 3 * 8
    assert least <= numbers(train.keep_products) < 1.01 * least
    assert numbers(None) > 1.8 * least


def test_rematerialisation_keeps_nothing_from_within_a_convolution():
    """Of forms for CPUs, Winograd's and that before doubling, their results alone."""
    features = jnp.zeros((1, 32, 32, 128)), jnp.zeros((1, 16, 16, 128))
    decoder = UNet((128, 8))
    variables = jax.eval_shape(lambda: decoder.init(KEY, features, (64, 64)))

    def run(variables):
        return decoder.apply(variables, features, (64, 64), train=True, mutable=["batch_stats"])[0]

    found = kept(run, variables, train.keep_products)
    maps = [shape for shape in found if len(shape) == 4 and shape[:2] != (3, 3)]
    results = [(1, 32, 32, 128)] * 2 + [(1, 64, 64, 8)] * 2
    assert sorted(maps) == sorted([*results, *(x.shape for x in features)])


def test_rematerialisation_changes_no_number(conv_net, loss_fn, batch):
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(KEY, batch["image"])
        two = Parallel("pmap", jax.devices()[:2])
        expected = stepped(two, model, variables, loss_fn, batch)
        got = stepped(two, model, variables, loss_fn, batch, remat=train.keep_products)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-12)
