"""Sliding windows: whole images where windows see enough, exact means, and errors."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from harness.encoders import fast_jit, noise

import jaxseg
from jaxseg.errors import InputError
from jaxseg.inference import SlidingWindow
from jaxseg.typing import Output


class Column(nn.Module):
    """The column of each pixel within its window."""

    @nn.compact
    def __call__(self, images, train=False):
        columns = jnp.arange(float(images.shape[2])).reshape(1, 1, -1, 1)
        return Output(jnp.broadcast_to(columns, (*images.shape[:3], 1)))


class Blur(nn.Module):
    """A mean of 3x3 pixels, with zeros around the image."""

    @nn.compact
    def __call__(self, images, train=False):
        x = jnp.pad(images, ((0, 0), (1, 1), (1, 1), (0, 0)))
        x = x[:, :-2] + x[:, 1:-1] + x[:, 2:]
        return Output((x[:, :, :-2] + x[:, :, 1:-1] + x[:, :, 2:]) / 9.0)


def logits(wrapper, images):
    return np.asarray(fast_jit(wrapper.apply)({}, images).logits)


@pytest.mark.parametrize(
    ("length", "starts"), [(8, [0]), (9, [0, 1]), (14, [0, 6]), (21, [0, 6, 12, 13])]
)
def test_windows_cover_a_row_and_the_last_ends_with_it(length, starts):
    got = logits(SlidingWindow(Column(), (4, 8), blend="constant"), np.ones((1, 4, length, 3)))
    columns = np.arange(length)
    inside = [(s <= columns) & (columns < s + 8) for s in starts]
    expected = sum(m * (columns - s) for m, s in zip(inside, starts, strict=True)) / sum(inside)
    np.testing.assert_allclose(got[0, 2, :, 0], expected, rtol=1e-6)


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("blend", ["gaussian", "constant"])
def test_a_pixelwise_model_sees_whole_images(blend, batch_size):
    model = SlidingWindow(lambda_model(jnp.sin), (8, 12), 0.5, blend, batch_size)
    images = noise(2, 21, 30, 3)
    np.testing.assert_allclose(logits(model, images), np.sin(images), rtol=0, atol=1e-6)


def lambda_model(function):
    class Pixelwise(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return Output(function(images))

    return Pixelwise()


def test_equals_the_whole_image_where_windows_see_as_far():
    """A blur of 3x3 pixels differs at borders of windows inside of the image, and nowhere else."""
    images = noise(1, 24, 40, 2)
    whole = np.asarray(Blur().apply({}, images).logits)
    got = logits(SlidingWindow(Blur(), (24, 16), 0.5), images)
    borders = sorted({0, 15, 8, 23, 16, 31, 24, 39} - {0, 39})
    error = np.abs(got - whole).max((0, 1, 3))
    assert (np.delete(error, borders) < 1e-6).all()
    assert (error[borders] > 1e-4).all()


@pytest.mark.parametrize("size", [(5, 30), (30, 5), (3, 4), (1, 1)])
@pytest.mark.parametrize("padding", [0.0, 2.0, None])
def test_images_smaller_than_a_window(size, padding):
    images = noise(1, *size, 2)
    got = logits(SlidingWindow(Blur(), (8, 8), 0.0, "constant", padding=padding), images)
    assert got.shape == images.shape
    if max(size) < 8:
        pads = [(0, 0) if padding is None else ((8 - n) // 2, 8 - n - (8 - n) // 2) for n in size]
        padded = np.pad(images, [(0, 0), *pads, (0, 0)], constant_values=padding or 0.0)
        whole = np.asarray(Blur().apply({}, padded).logits)
        (top, _), (left, _) = pads
        expected = whole[:, top : top + size[0], left : left + size[1]]
        np.testing.assert_allclose(got, expected, rtol=0, atol=1e-6)


def test_every_map_of_a_tree_is_blended():
    class Depth(nn.Module):
        @nn.compact
        def __call__(self, images, train=False):
            return {
                "depth": images.sum(-1),
                "normals": images[..., None] * jnp.ones((1, 1, 1, 1, 2)),
            }

    images = noise(1, 10, 9, 3)
    got = fast_jit(SlidingWindow(Depth(), (4, 6), batch_size=2).apply)({}, images)
    np.testing.assert_allclose(got["depth"], images.sum(-1), rtol=0, atol=1e-5)
    np.testing.assert_allclose(got["normals"][..., 1], images, rtol=0, atol=1e-5)


def test_a_network_needs_memory_for_windows_alone():
    model = jaxseg.create("unet", encoder="resnet18", num_classes=2)
    variables = jax.eval_shape(lambda: jaxseg.init(model, jax.random.key(0)))

    def temporaries(model, size):
        images = jax.ShapeDtypeStruct((1, *size, 3), jnp.float32)
        compiled = fast_jit(model.apply).lower(variables, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    window, size = (64, 64), (256, 512)
    canvas = 4 * size[0] * size[1] * (3 + 2 + 1)
    assert temporaries(SlidingWindow(model, window), size) < (
        1.2 * temporaries(model, window) + 3 * canvas
    )


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"window": (0, 8)}, "at least one pixel"),
        ({"overlap": 1.0}, "less than 1"),
        ({"overlap": -0.1}, "at least 0"),
        ({"blend": "linear"}, "gaussian"),
        ({"batch_size": 0}, "at least one window"),
    ],
)
def test_fields_out_of_range_are_errors(fields, message):
    with pytest.raises(InputError, match=message):
        SlidingWindow(Blur(), **({"window": (8, 8)} | fields))


def test_training_and_outputs_that_are_no_maps_are_errors():
    images = jnp.ones((1, 9, 9, 2))
    with pytest.raises(InputError, match="crops"):
        SlidingWindow(Blur(), (8, 8)).apply({}, images, train=True)
    labels = lambda_model(lambda images: images.mean((1, 2)))
    with pytest.raises(InputError, match="not a map"):
        SlidingWindow(labels, (8, 8)).apply({}, images)
