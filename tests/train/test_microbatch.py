"""Micro-batches and rematerialization compute the gradient of the whole batch in less memory."""

import math

import chex
import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.models.unet import UNet
from jaxseg.nn import ConvNorm, Dropout
from jaxseg.parallel.strategy import Parallel
from jaxseg.train import microbatch
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
        x = Dropout(self.rate)(x, train=train)
        return Output(nn.Conv(K, (3, 3), **wide)(x), (nn.Conv(K, (1, 1), **wide)(x),))


@pytest.fixture(scope="module")
def mixed_loss():
    """Ratios over labels, over labels and probabilities, and a loss that sorts each image."""
    return losses.make_loss_fn(
        {"cross_entropy": 1.0, "dice": 0.5, "lovasz_softmax": 0.5}, class_weights=[1.0, 2.0, 0.5]
    )


def run_step(parallel, model, variables, loss_fn, batch, **options):
    optimizer = optax.sgd(0.1)
    state = parallel.replicate(train.create_state(variables, optimizer))
    step = parallel.compile(train.make_train_step(model, optimizer, loss_fn, **options))
    return jax.device_get(step(state, parallel.shard(batch), KEY))


@pytest.fixture(scope="module")
def whole_batch(mixed_loss, batch):
    with jax.enable_x64(True):
        variables = jax.jit(Convs().init)(KEY, batch["image"])
        single = Parallel("jit", jax.devices()[:1])
        return variables, run_step(single, Convs(), variables, mixed_loss, batch)


@pytest.mark.parametrize(
    ("strategy", "devices", "micro_batches"),
    [
        ("jit", 1, 4),
        ("jit", 2, 2),
        ("pmap", 2, 4),
        pytest.param("shard_map", 4, 2, marks=pytest.mark.slow),
    ],
)
@pytest.mark.sample(1)
def test_micro_batches_equal_the_whole_batch(
    whole_batch, mixed_loss, batch, strategy, devices, micro_batches
):
    """All pixels of some micro-batches are ignored, so that a mean of gradients would differ."""
    variables, expected = whole_batch
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:devices])
        got = run_step(parallel, Convs(), variables, mixed_loss, batch, micro_batches=micro_batches)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-9)


def test_micro_batches_in_a_scan_equal_the_whole_batch(whole_batch, mixed_loss, batch, monkeypatch):
    """The form for accelerators."""
    variables, expected = whole_batch
    monkeypatch.setattr(microbatch.jax, "default_backend", lambda: "gpu")
    with jax.enable_x64(True):
        single = Parallel("jit", jax.devices()[:1])
        got = run_step(single, Convs(), variables, mixed_loss, batch, micro_batches=4)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.slow
def test_batch_norm_normalizes_each_micro_batch(conv_net, loss_fn, batch):
    """Each is normalized by its moments and updates the running statistics; the loss is that of all outputs."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(KEY, batch["image"])
        single = Parallel("jit", jax.devices()[:1])
        state, logs = run_step(single, model, variables, loss_fn, batch, micro_batches=2)

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


@pytest.mark.slow
def test_both_passes_sample_the_same_dropout_mask(mixed_loss, batch):
    """Otherwise the gradient would be that of no function; here it equals a finite difference of the loss."""
    with jax.enable_x64(True):
        model = Convs(rate=0.5)
        variables = jax.jit(model.init)(KEY, batch["image"])
        single = Parallel("jit", jax.devices()[:1])
        rng = np.random.default_rng(0)
        direction = jax.tree.map(lambda p: rng.normal(size=p.shape), variables["params"])

        def run_step_at(shift):
            params = jax.tree.map(lambda p, w: p + shift * w, variables["params"], direction)
            return params, run_step(
                single, model, {"params": params}, mixed_loss, batch, micro_batches=2
            )

        before, (state, _) = run_step_at(0.0)
        losses_at = [run_step_at(shift)[1][1]["loss"] for shift in (-1e-5, 1e-5)]
    slope = sum(
        ((np.asarray(b) - a) / 0.1 * w).sum()
        for b, a, w in zip(*map(jax.tree.leaves, (before, state.params, direction)), strict=True)
    )
    assert (losses_at[1] - losses_at[0]) / 2e-5 == pytest.approx(slope, rel=1e-5)


def test_indivisible_batch_raises_an_input_error(mixed_loss, batch):
    variables = jax.eval_shape(Convs().init, KEY, jnp.float32(batch["image"]))
    state = jax.eval_shape(
        lambda: train.create_state(
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), variables), optax.sgd(0.1)
        )
    )
    step = train.make_train_step(Convs(), optax.sgd(0.1), mixed_loss, micro_batches=3)
    with pytest.raises(
        InputError, match="8 images on a device cannot be split into 3 micro-batches"
    ):
        jax.eval_shape(step, state, jax.tree.map(jnp.asarray, batch), KEY)


class Tower(nn.Module):
    """Convolutions and norms, whose maps dominate the memory."""

    @nn.compact
    def __call__(self, images, train=False):
        x = images
        for _ in range(3):
            x = ConvNorm(8)(x, train=train)
        return Output(nn.Conv(K, (1, 1))(x))


def temporary_bytes(**options):
    """Returns the temporary memory of a step on 8 images."""
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


@pytest.mark.slow
def test_micro_batches_take_less_memory():
    assert temporary_bytes(micro_batches=4) < 0.5 * temporary_bytes()


def saved(run, variables, policy):
    """Returns the shapes of all arrays that are saved for the backward pass to the parameters."""

    def forward(params, stats):
        return run({"params": params, "batch_stats": stats})

    if policy is not None:
        forward = jax.checkpoint(forward, policy=policy)
    back = jax.eval_shape(
        lambda tree: jax.vjp(lambda p: forward(p, tree["batch_stats"]), tree["params"])[1],
        variables,
    )
    return [leaf.shape for leaf in jax.tree.leaves(back)]


def test_save_convolutions_saves_their_results_alone():
    """The results of three convolutions and the input, instead of every map between them."""
    images = jnp.zeros((8, 32, 64, 3))
    variables = jax.eval_shape(Tower().init, KEY, images)

    def run(variables):
        return Tower().apply(variables, images, train=True, mutable=["batch_stats"])[0]

    def numbers(policy):
        return sum(math.prod(shape) for shape in saved(run, variables, policy))

    expected = images.size + 3 * images.size // 3 * 8
    assert expected <= numbers(train.save_convolutions) < 1.01 * expected
    assert numbers(None) > 1.8 * expected


def test_save_convolutions_saves_nothing_inside_of_one():
    """Of the forms for CPUs, Winograd's and the one before upsampling, only the results."""
    features = jnp.zeros((1, 32, 32, 128)), jnp.zeros((1, 16, 16, 128))
    decoder = UNet((128, 8))
    variables = jax.eval_shape(lambda: decoder.init(KEY, features, (64, 64)))

    def run(variables):
        return decoder.apply(variables, features, (64, 64), train=True, mutable=["batch_stats"])[0]

    found = saved(run, variables, train.save_convolutions)
    maps = [shape for shape in found if len(shape) == 4 and shape[:2] != (3, 3)]
    results = [(1, 32, 32, 128)] * 2 + [(1, 64, 64, 8)] * 2
    assert sorted(maps) == sorted([*results, *(x.shape for x in features)])


def test_remat_does_not_change_results(conv_net, loss_fn, batch):
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(KEY, batch["image"])
        two = Parallel("pmap", jax.devices()[:2])
        expected = run_step(two, model, variables, loss_fn, batch)
        got = run_step(two, model, variables, loss_fn, batch, remat=train.save_convolutions)
    chex.assert_trees_all_close(got, expected, rtol=0, atol=1e-12)
