"""The evaluation step, with semantic segmentation as its task."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.tasks import Semantic
from jaxseg.tasks.semantic import SemanticTotals
from jaxseg.typing import Output

KEY = jax.random.key(0)
cross_entropy = losses.make_loss_fn({"cross_entropy": 1.0})


def start(variables, optimizer):
    return train.create_state(variables, optimizer)


def evaluation(model, classes=3):
    """The compiled step, which returns totals alone."""
    step = train.make_eval_step(model, Semantic(classes), cross_entropy)
    return jax.jit(lambda state, batch, totals: step(state, batch, totals)[0])


class Fixed(nn.Module):
    """Logits that are the image itself."""

    @nn.compact
    def __call__(self, images, train=False):
        return Output(images + self.param("zero", nn.initializers.zeros, ()))


@pytest.fixture(scope="module")
def evaluate():
    return evaluation(Fixed())


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
            totals = SemanticTotals.zero(3)
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
        plain = evaluate(state, batch, SemanticTotals.zero(3))
        padded = {
            "image": np.pad(images[:4], ((0, 2), (0, 3), (0, 1), (0, 0)), constant_values=np.nan),
            "label": np.pad(labels[:4], ((0, 2), (0, 3), (0, 1)), constant_values=255),
        }
        wide = evaluate(state, padded, SemanticTotals.zero(3))
        np.testing.assert_allclose(wide.loss, plain.loss, rtol=1e-6)
        np.testing.assert_array_equal(wide.counts.to_numpy(), plain.counts.to_numpy())

    def test_a_batch_of_padding_alone_changes_nothing(self, evaluate, state, data):
        images, labels = data
        totals = evaluate(state, {"image": images, "label": labels}, SemanticTotals.zero(3))
        padding = {"image": np.full_like(images, np.inf), "label": np.full_like(labels, 255)}
        after = evaluate(state, padding, totals)
        assert after.loss == totals.loss
        np.testing.assert_array_equal(after.counts.to_numpy(), totals.counts.to_numpy())

    def test_counts_what_the_logits_say(self, evaluate, state, data):
        images, labels = data
        totals = evaluate(state, {"image": images, "label": labels}, SemanticTotals.zero(3))
        counts = np.zeros((3, 3), int)
        valid = labels != 255
        np.add.at(counts, (labels[valid], images.argmax(-1)[valid]), 1)
        np.testing.assert_array_equal(totals.counts.to_numpy(), counts)

    def test_one_sigmoid_is_counted_as_two_labels(self, state, data):
        images, labels = data
        labels = np.where(labels == 255, 255, labels // 2)
        evaluate = evaluation(Fixed(), 1)
        batch = {"image": images[..., :1], "label": labels}
        totals = evaluate(state, batch, SemanticTotals.zero(1))
        counts = np.zeros((2, 2), int)
        valid = labels != 255
        np.add.at(counts, (labels[valid], (images[..., 0] > 0).astype(int)[valid]), 1)
        np.testing.assert_array_equal(totals.counts.to_numpy(), counts)

    def test_totals_of_another_number_of_classes_are_refused(self, evaluate, state, data):
        wrong = SemanticTotals.zero(7)
        with pytest.raises(InputError, match="totals of 7"):
            evaluate(state, {"image": data[0], "label": data[1]}, wrong)

    def test_does_not_touch_the_state(self, conv_net, batch):
        small = {**batch, "image": batch["image"].astype(np.float32)}
        model, optimizer = conv_net(), optax.sgd(0.1)
        variables = jax.jit(model.init)(KEY, small["image"])
        state = start(variables, optimizer)
        evaluate = evaluation(model)
        first = evaluate(state, small, SemanticTotals.zero(3))
        second = evaluate(state, small, SemanticTotals.zero(3))
        assert first.loss == second.loss
