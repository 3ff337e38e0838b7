"""The original U-Net beyond the checks that every architecture passes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.errors import InputError
from jaxseg.models import original_unet, original_unet_padded
from jaxseg.models.original_unet import OriginalUNet, OriginalUNetBody

SMALL = (4, 6, 8)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def fast_jit(function, **options):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


def shapes(model, *images):
    return jax.eval_shape(lambda x: model.init_with_output(jax.random.key(0), x), jnp.zeros(images))


def variables_of(model, channels=2, seed=1):
    rng = np.random.default_rng(seed)
    template = shapes(model, 1, 188, 188, channels)[1]
    return jax.tree.map(
        lambda x: rng.normal(0, np.sqrt(2 / np.prod(x.shape[:-1])), x.shape).astype(x.dtype),
        template,
    )


def counted(classes, in_channels, channels=(64, 128, 256, 512, 1024)):
    """Returns the number of weights and biases, layer by layer as in the paper's figure."""
    total, previous = 0, in_channels
    for width in channels:  # down: two 3x3 convolutions
        total += (9 * previous + 1) * width + (9 * width + 1) * width
        previous = width
    for width in reversed(channels[:-1]):  # up: 2x2, then two 3x3 on twice the channels
        total += (4 * previous + 1) * width
        total += (9 * 2 * width + 1) * width + (9 * width + 1) * width
        previous = width
    return total + (previous + 1) * classes


@pytest.mark.parametrize("make", [original_unet, original_unet_padded])
@pytest.mark.parametrize(
    ("classes", "channels", "parameters"),
    [(1, 1, 31_030_593), (2, 1, 31_030_658), (2, 3, 31_031_810)],
)
def test_number_of_parameters_is_the_papers(make, classes, channels, parameters):
    _, variables = shapes(make(num_classes=classes), 1, 188, 188, channels)
    assert set(variables) == {"params"}
    assert sum(x.size for x in jax.tree.leaves(variables)) == parameters
    assert counted(classes, channels) == parameters


@pytest.mark.parametrize(("given", "result"), [(572, 388), (188, 4), (204, 20), (556, 372)])
def test_body_removes_the_border_of_the_paper(given, result):
    model = OriginalUNetBody(2)
    assert shapes(model, 1, given, 572, 1)[0].shape == (1, result, 388, 2)
    assert model.input_size(result) == given
    assert model.input_size(result - 1) == given
    assert model.input_size(result + 1) == given + 16


@pytest.mark.parametrize(
    "model", [OriginalUNetBody(2, SMALL), OriginalUNetBody(2, SMALL, 1), OriginalUNetBody(3, (5,))]
)
@pytest.mark.slow
def test_body_takes_the_sizes_of_input_size_alone(model):
    right = sorted({model.input_size(n) for n in range(1, 90)})
    for length in right[:3]:
        logits, _ = shapes(model, 1, length, right[0], 1)
        assert logits.shape[1] == length - model.border > 0
    for length in range(1, 60):
        if length not in right:
            expected = min(n for n in right if n > length)
            with pytest.raises(InputError, match=f"the next size that does is {expected}"):
                shapes(model, 1, length, right[0], 1)


def test_wrong_size_names_the_size_of_the_paper():
    with pytest.raises(InputError, match=r"570 x 572 pixels: 570 does not come .* is 572"):
        shapes(OriginalUNetBody(2), 1, 570, 572, 1)


@pytest.mark.parametrize("make", [original_unet, original_unet_padded])
def test_wrong_channels_are_named(make):
    model = make(num_classes=2, channels=SMALL)
    _, variables = shapes(model, 1, 16, 16, 3)
    with pytest.raises(InputError, match=r"images have 4 channels, .* were made for 3"):
        jax.eval_shape(model.apply, variables, jnp.zeros((1, 16, 16, 4)))


@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("size", [(16, 24), (9, 30), (1, 5)])
@pytest.mark.sample(3)
def test_logits_are_those_of_the_mirrored_image(padding, size):
    body = OriginalUNetBody(3, SMALL, padding)
    variables = variables_of(body)
    images = noise(2, *size, 2)
    logits = fast_jit(OriginalUNet(body).apply)(
        {"params": {"body": variables["params"]}}, images
    ).logits
    before = body.border // 2
    indices = [
        np.pad(np.arange(n), (before, body.input_size(n) - n - before), "reflect") for n in size
    ]
    bare = fast_jit(body.apply)(variables, images[:, indices[0]][:, :, indices[1]])
    assert logits.shape == (2, *size, 3)
    np.testing.assert_array_equal(logits, bare[:, : size[0], : size[1]])


def test_tile_has_the_logits_of_the_larger_image():
    """Inside of its border a tile has the logits of the image: the overlap-tile strategy."""
    model = OriginalUNet(OriginalUNetBody(2, SMALL))
    variables = {"params": {"body": variables_of(model.body)["params"]}}
    run = fast_jit(model.apply)
    images = noise(1, 72, 64, 2)
    whole, tile = (run(variables, x).logits for x in (images, images[:, 4:68]))
    reach = model.body.border // 2
    np.testing.assert_allclose(
        whole[:, 4 + reach : 68 - reach], tile[:, reach:-reach], rtol=0, atol=1e-5
    )
    assert np.abs(whole[:, 4:8] - tile[:, :4]).max() > 1e-2


@pytest.mark.slow
def test_dropout_is_at_the_end_of_the_contracting_path():
    model = OriginalUNetBody(2, SMALL, 1)
    variables = variables_of(model)
    images = noise(1, 8, 8, 2)

    def maps(train, level):
        _, kept = model.apply(
            variables,
            images,
            train=train,
            rngs={"dropout": jax.random.key(0)},
            capture_intermediates=lambda module, _: (module.name or "").startswith(
                ("Dropout", f"contract{level}")
            ),
        )
        return kept["intermediates"]

    drawn = maps(True, 2)
    dropped = [np.asarray(drawn[name]["__call__"][0]) for name in sorted(drawn) if "Drop" in name]
    assert [x.shape for x in dropped] == [(1, 4, 4, 6), (1, 2, 2, 8)]
    before = np.asarray(drawn["contract2"]["__call__"][0])
    kept = dropped[1] != 0
    assert 0 < kept.sum() < (before != 0).sum()
    np.testing.assert_allclose(dropped[1][kept], 2 * before[kept], rtol=1e-6)
    first = [maps(train, 0)["contract0"]["__call__"][0] for train in (True, False)]
    np.testing.assert_array_equal(*first)


def test_kernels_start_with_variance_two_over_n():
    model = OriginalUNetBody(40, (32, 48))
    params = fast_jit(model.init)(jax.random.key(0), jnp.zeros((1, 20, 20, 30)))["params"]
    seen = {
        "contract0/conv1": 9 * 30,
        "contract1/conv2": 9 * 48,
        "up0": 48,
        "expand0/conv1": 9 * 64,
        "head": 32,
    }
    for path, n in seen.items():
        layer = params
        for name in path.split("/"):
            layer = layer[name]
        assert layer["kernel"].std() == pytest.approx(np.sqrt(2 / n), rel=0.06), path
        assert not layer["bias"].any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: OriginalUNetBody(2, padding=2), "padding=2: 0 for valid"),
        (lambda: OriginalUNetBody(2, (4, 0)), "channels=\\(4, 0\\): at least one level"),
    ],
)
def test_impossible_fields_are_named(build, message):
    with pytest.raises(InputError, match=message):
        build()


def test_bfloat16_has_float32_logits_and_parameters():
    model = original_unet(num_classes=2, channels=SMALL, dtype=jnp.bfloat16)
    output, variables = shapes(model, 1, 10, 11, 1)
    assert output.logits.dtype == jnp.float32
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype(jnp.float32)}
