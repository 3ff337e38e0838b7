import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.typing import Output

KEY = jax.random.key(0)
cross_entropy = losses.make_loss_fn({"cross_entropy": 1.0})


@pytest.fixture(scope="module")
def small(batch):
    return {"image": jnp.float32(batch["image"]), "label": jnp.asarray(batch["label"])}


@pytest.fixture(scope="module")
def plain(plain_net, small):
    """A linear map of each pixel, and its variables."""
    model = plain_net()
    return model, jax.jit(model.init)(KEY, small["image"])


def start(variables, optimizer, **options):
    return train.create_state(variables, optimizer, **options)


class TestTrainStep:
    def test_takes_a_gradient_step(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        state, logs = step(start(variables, optimizer), small, KEY)

        def loss(params):
            logits = model.apply({"params": params}, small["image"]).logits
            return losses.cross_entropy(logits, small["label"])

        value, gradient = jax.jit(jax.value_and_grad(loss))(variables["params"])
        norm = np.sqrt(sum((np.asarray(g) ** 2).sum() for g in jax.tree.leaves(gradient)))
        expected = jax.tree.map(lambda p, g: p - 0.5 * g, variables["params"], gradient)
        jax.tree.map(
            functools.partial(np.testing.assert_allclose, rtol=1e-5), state.params, expected
        )
        np.testing.assert_allclose(logs["loss"], value, rtol=1e-6)
        np.testing.assert_allclose(logs["gradient_norm"], norm, rtol=1e-5)
        assert sorted(logs) == ["cross_entropy", "gradient_norm", "loss"]
        assert state.step == 1
        assert state.step.dtype == jnp.int32

    def test_keeps_every_type_and_shape(self, conv_net, small):
        """Or else the second step would be compiled again."""
        model, optimizer = conv_net(), train.adamw(train.poly(1e-2, 10), clip_norm=1.0)
        variables = jax.eval_shape(model.init, KEY, small["image"])
        zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), variables)
        state = start(zeros, optimizer, ema=True)
        step = train.make_train_step(model, optimizer, cross_entropy, ema_decay=0.9)
        after, _ = jax.eval_shape(step, state, small, KEY)
        before = jax.eval_shape(lambda s: s, state)
        assert jax.tree.structure(after) == jax.tree.structure(before)
        assert jax.tree.leaves(after) == jax.tree.leaves(before)
        assert not any(leaf.weak_type for leaf in jax.tree.leaves(after))

    def test_learns(self, plain, small):
        model, variables = plain
        optimizer = train.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        state = start(variables, optimizer)
        seen = []
        for _ in range(10):
            state, logs = step(state, small, KEY)
            seen.append(float(logs["loss"]))
        assert seen[-1] < seen[0]
        assert state.step == 10

    def test_changes_nothing_when_every_pixel_is_ignored(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy))
        ignored = small | {"label": jnp.full_like(small["label"], 255)}
        state, logs = step(start(variables, optimizer), ignored, KEY)
        assert logs["loss"] == logs["gradient_norm"] == 0
        jax.tree.map(np.testing.assert_array_equal, state.params, variables["params"])

    def test_preprocesses_on_the_device(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        images = jnp.arange(small["image"].size, dtype=jnp.uint8).reshape(small["image"].shape)
        halve = train.make_train_step(
            model, optimizer, cross_entropy, preprocess=lambda x: x.astype(jnp.float32) / 510
        )
        none = train.make_train_step(model, optimizer, cross_entropy)
        got = jax.jit(halve)(start(variables, optimizer), small | {"image": images}, KEY)
        expected = jax.jit(none)(
            start(variables, optimizer), small | {"image": images.astype(jnp.float32) / 510}, KEY
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), got, expected)

    def test_draws_other_dropout_masks_each_step_and_for_each_key(self, plain_net, plain, small):
        _, variables = plain
        optimizer = optax.sgd(0.0)
        step = jax.jit(train.make_train_step(plain_net(rate=0.5), optimizer, cross_entropy))
        state = start(variables, optimizer)
        second, first_logs = step(state, small, KEY)
        _, again = step(state, small, KEY)
        _, later = step(second, small, KEY)
        _, other = step(state, small, jax.random.key(1))
        assert first_logs["loss"] == again["loss"]
        assert len({float(x["loss"]) for x in (first_logs, later, other)}) == 3

    def test_takes_a_loss_of_ones_own(self, plain, small):
        model, variables = plain

        def loss_fn(output, batch):
            return jnp.square(output.logits).mean(), {"largest": output.logits.max()}

        step = jax.jit(train.make_train_step(model, optax.sgd(0.1), loss_fn))
        _, logs = step(start(variables, optax.sgd(0.1)), small, KEY)
        assert sorted(logs) == ["gradient_norm", "largest", "loss"]

    def test_averages_parameters_on_request(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        step = jax.jit(train.make_train_step(model, optimizer, cross_entropy, ema_decay=0.75))
        first, _ = step(start(variables, optimizer, ema=True), small, KEY)
        expected = jax.tree.map(
            lambda old, new: 0.75 * old + 0.25 * new, variables["params"], first.params
        )
        jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=1e-6), first.ema, expected)

    def test_says_where_only_one_side_knows_of_an_average(self, plain, small):
        model, variables = plain
        optimizer = optax.sgd(0.5)
        for ema, decay in ((True, None), (False, 0.9)):
            step = train.make_train_step(model, optimizer, cross_entropy, ema_decay=decay)
            with pytest.raises(InputError, match="an average needs both"):
                jax.eval_shape(step, start(variables, optimizer, ema=ema), small, KEY)
        with pytest.raises(InputError, match=r"ema_decay is 1\.0"):
            train.make_train_step(model, optimizer, cross_entropy, ema_decay=1.0)

    def test_works_on_models_that_return_an_output_of_their_own(self, small):
        class Boxes(NamedTuple):
            scores: jax.Array

        class Detector(nn.Module):
            @nn.compact
            def __call__(self, images, train=False):
                return Boxes(nn.Dense(1)(images).mean())

        model, optimizer = Detector(), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        step = train.make_train_step(model, optimizer, lambda output, batch: (output.scores, {}))
        _, logs = jax.eval_shape(step, start(variables, optimizer), small, KEY)
        assert sorted(logs) == ["gradient_norm", "loss"]

    def test_names_a_model_that_returns_a_bare_array(self, plain, small):
        model, optimizer = nn.Sequential([lambda x, train=False: nn.Dense(2)(x)]), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        state = start(variables, optimizer)
        with pytest.raises(InputError, match=r"bare array \(8, 6, 5, 2\): return jaxseg.Output"):
            jax.eval_shape(
                train.make_train_step(model, optimizer, cross_entropy), state, small, KEY
            )
        totals = train.EvalTotals.zero(2)
        with pytest.raises(InputError, match="bare array"):
            jax.eval_shape(train.make_eval_step(model, cross_entropy), state, small, totals)


class Fixed(nn.Module):
    """Logits that are the image itself."""

    @nn.compact
    def __call__(self, images, train=False):
        return Output(images + self.param("zero", nn.initializers.zeros, ()))


@pytest.fixture(scope="module")
def evaluate():
    return jax.jit(train.make_eval_step(Fixed(), cross_entropy))


@pytest.fixture(scope="module")
def state():
    return start({"params": {"zero": jnp.zeros(())}}, optax.sgd(0.1))


@pytest.fixture(scope="module")
def data():
    """Twelve images with between none and all of their pixels ignored."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (12, 4, 4)).astype(np.uint8)
    labels[rng.random(labels.shape) < np.linspace(0, 1, 12)[:, None, None]] = 255
    return rng.normal(size=(12, 4, 4, 3)).astype(np.float32), labels


class TestEvalStep:
    def test_loss_is_the_mean_over_pixels_whatever_the_batches(self, evaluate, state, data):
        images, labels = data
        losses_seen = []
        for size in (1, 3, 4, 12):
            totals = train.EvalTotals.zero(3)
            for at in range(0, 12, size):
                batch = {"image": images[at : at + size], "label": labels[at : at + size]}
                totals = evaluate(state, batch, totals)
            losses_seen.append(float(totals.loss))
            pixels = int((labels != 255).sum())
        assert int(totals.weight) == totals.counts.to_numpy().sum() == pixels
        shifted = images - images.max(-1, keepdims=True)
        log_p = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        valid = labels != 255
        expected = -np.take_along_axis(log_p[valid], labels[valid][:, None].astype(int), -1).mean()
        np.testing.assert_allclose(losses_seen, expected, rtol=1e-6)
        assert np.isfinite(expected)

    def test_padding_counts_for_nothing(self, evaluate, state, data):
        images, labels = data
        batch = {"image": images[:4], "label": labels[:4]}
        plain = evaluate(state, batch, train.EvalTotals.zero(3))
        padded = {
            "image": np.pad(images[:4], ((0, 2), (0, 3), (0, 1), (0, 0)), constant_values=np.nan),
            "label": np.pad(labels[:4], ((0, 2), (0, 3), (0, 1)), constant_values=255),
        }
        wide = evaluate(state, padded, train.EvalTotals.zero(3))
        np.testing.assert_allclose(wide.loss, plain.loss, rtol=1e-6)
        np.testing.assert_array_equal(wide.counts.to_numpy(), plain.counts.to_numpy())

    def test_a_batch_of_padding_alone_changes_nothing(self, evaluate, state, data):
        images, labels = data
        totals = evaluate(state, {"image": images, "label": labels}, train.EvalTotals.zero(3))
        padding = {"image": np.full_like(images, np.inf), "label": np.full_like(labels, 255)}
        after = evaluate(state, padding, totals)
        assert after.loss == totals.loss
        np.testing.assert_array_equal(after.counts.to_numpy(), totals.counts.to_numpy())

    def test_counts_what_the_logits_say(self, evaluate, state, data):
        images, labels = data
        totals = evaluate(state, {"image": images, "label": labels}, train.EvalTotals.zero(3))
        counts = np.zeros((3, 3), int)
        valid = labels != 255
        np.add.at(counts, (labels[valid], images.argmax(-1)[valid]), 1)
        np.testing.assert_array_equal(totals.counts.to_numpy(), counts)

    def test_one_sigmoid_is_counted_as_two_labels(self, state, data):
        images, labels = data
        labels = np.where(labels == 255, 255, labels // 2)
        evaluate = jax.jit(train.make_eval_step(Fixed(), cross_entropy))
        batch = {"image": images[..., :1], "label": labels}
        totals = evaluate(state, batch, train.EvalTotals.zero(1))
        counts = np.zeros((2, 2), int)
        valid = labels != 255
        np.add.at(counts, (labels[valid], (images[..., 0] > 0).astype(int)[valid]), 1)
        np.testing.assert_array_equal(totals.counts.to_numpy(), counts)

    def test_totals_of_another_number_of_classes_are_refused(self, evaluate, state, data):
        wrong = train.EvalTotals.zero(7)
        with pytest.raises(InputError, match="totals of 7"):
            evaluate(state, {"image": data[0], "label": data[1]}, wrong)

    def test_without_pixels_there_is_no_loss(self):
        assert np.isnan(train.EvalTotals.zero(3).loss)

    def test_a_long_sum_keeps_its_digits(self):
        """Ten thousand addends: float32 alone would be off by 5e-5."""
        from jaxseg.train.step import _add

        addends = np.random.default_rng(0).uniform(0, 1e6, 10_000).astype(np.float32)
        scan = jax.jit(lambda x: jax.lax.scan(lambda s, a: (_add(s, a), None), jnp.zeros(2), x)[0])
        total = np.asarray(scan(addends), np.float64).sum()
        exact = addends.astype(np.float64).sum()
        naive = np.float32(0)
        for addend in addends:
            naive += addend
        assert abs(total / exact - 1) < 1e-9
        assert abs(naive / exact - 1) > 1e-7

    def test_does_not_touch_the_state(self, conv_net, small):
        model, optimizer = conv_net(), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        state = start(variables, optimizer)
        evaluate = jax.jit(train.make_eval_step(model, cross_entropy))
        first = evaluate(state, small, train.EvalTotals.zero(3))
        second = evaluate(state, small, train.EvalTotals.zero(3))
        assert first.loss == second.loss
