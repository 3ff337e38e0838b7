"""VGG beyond the checks that every encoder passes."""

import jax
import numpy as np
import pytest
from harness.encoders import check_gradients, count, fast_jit, noise, random_variables, shapes

import jaxseg
from jaxseg import encoders
from jaxseg.errors import InputError
from jaxseg.nn import max_unpool

PARAMETERS = {  # those of torchvision, without the classifier
    "vgg11": 9_220_480,
    "vgg11_bn": 9_225_984,
    "vgg13": 9_404_992,
    "vgg13_bn": 9_410_880,
    "vgg16": 14_714_688,
    "vgg16_bn": 14_723_136,
    "vgg19": 20_024_384,
    "vgg19_bn": 20_035_392,
}
WIDTHS = (2, 3, 4, 5, 6)


def small(batch_norm=False, **fields):
    return encoders.vgg.VGG((1, 1, 1, 1, 1), batch_norm, WIDTHS, **fields)


def variables_of(encoder):
    return random_variables(shapes(encoder)[1])


@pytest.mark.parametrize("name", PARAMETERS)
def test_vgg_has_the_parameters_of_torchvision(name):
    variables = shapes(encoders.create(name))[1]
    assert count(variables) == PARAMETERS[name]
    assert ("batch_stats" in variables) == name.endswith("_bn")


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
def test_depth_leaves_out_deeper_stages(depth):
    assert len(shapes(small(True, depth=depth))[1]["params"]) == min(depth + 1, 5)


def test_ceil_mode_false_drops_odd_rows_but_never_the_last():
    features, _ = shapes(small(ceil_mode=False), (1, 47, 1, 3))
    assert [feature.shape[1:3] for feature in features] == [
        (23, 1),
        (11, 1),
        (5, 1),
        (2, 1),
        (1, 1),
    ]


@pytest.mark.parametrize(("output_stride", "step"), [(16, 2), (8, 4)])
def test_smaller_output_stride_agrees_where_both_have_pixels(output_stride, step):
    plain, dilated = small(), small(output_stride=output_stride)
    variables, images = variables_of(plain), noise(1, 45, 64, 3)
    coarse, fine = (fast_jit(e.apply)(variables, images)[4] for e in (plain, dilated))
    assert np.abs(coarse).max() > 0.1
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, rtol=1e-5, atol=1e-5)


def test_gradient_of_dilated_pools_reaches_every_parameter():
    encoder = small(output_stride=8)
    variables, images = variables_of(encoder), noise(2, 33, 31, 3)
    gradient = fast_jit(jax.grad(lambda v: sum(f.sum() for f in encoder.apply(v, images))))
    check_gradients(gradient(variables)["params"])


@pytest.mark.parametrize("ceil_mode", [True, False])
@pytest.mark.sample(1)
def test_with_indices_returns_those_of_the_maxima(ceil_mode):
    encoder = small(True, ceil_mode=ceil_mode)
    variables, images = variables_of(encoder), noise(2, 45, 38, 3)
    features, indices = fast_jit(encoder.apply, static_argnames="method")(
        variables, images, method="with_indices"
    )
    for mine, same in zip(features, fast_jit(encoder.apply)(variables, images), strict=True):
        # Two programs, which round differently.
        np.testing.assert_allclose(mine, same, rtol=1e-5, atol=1e-5)
    last, last_indices = features[-1], indices[-1]
    assert [i.shape[3] for i in indices] == list(WIDTHS)
    assert last_indices.shape == last.shape
    frame = (2 * last.shape[1], 2 * last.shape[2])
    spread = np.asarray(max_unpool(last, frame, indices=last_indices))[:, : features[3].shape[1]]
    found = spread[:, :, : features[3].shape[2]]
    inside = np.asarray(features[3])[:, : found.shape[1], : found.shape[2]]
    assert (found != 0).any()
    np.testing.assert_array_equal(found[found != 0], inside[found != 0])


def test_pools_are_the_pooled_features_of_stages():
    encoder = small()
    variables, images = variables_of(encoder), noise(1, 45, 38, 3)
    pools = fast_jit(encoder.apply, static_argnames="method")(variables, images, method="pools")
    features = fast_jit(encoder.apply)(variables, images)
    assert [p.shape[1:] for p in pools] == [
        (-(-45 // s), -(-38 // s), c) for s, c in zip((2, 4, 8, 16, 32), WIDTHS, strict=True)
    ]
    for pool, feature in zip(pools[1:], features[:-1], strict=True):
        odd = [(0, 0), *((0, length % 2) for length in feature.shape[1:3]), (0, 0)]
        padded = np.pad(feature, odd, constant_values=-np.inf)
        n, h, w, c = padded.shape
        expected = padded.reshape(n, h // 2, 2, w // 2, 2, c).max((2, 4))
        np.testing.assert_array_equal(pool, expected)
    np.testing.assert_array_equal(pools[-1], features[-1])


@pytest.mark.parametrize(("center", "parameters"), [(None, 23_748_241), (False, 19_027_601)])
def test_unet_on_vgg_has_a_center_as_in_smp(center, parameters):
    model = jaxseg.create("unet", encoder="vgg16", num_classes=1, center=center)
    variables = shapes(model)[1]
    assert count(variables) == parameters
    assert ("center" in variables["params"]["decoder"]) == (center is None)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: encoders.vgg16(widths=(1, 2)), "widths=(1, 2): a VGG has five stages"),
        (lambda: encoders.vgg.VGG((1, 0, 1, 1, 1)), "convolutions=(1, 0, 1, 1, 1)"),
        (lambda: encoders.create("vgg16", celi_mode=True), "'celi_mode'; did you mean 'ceil_mode'"),
    ],
)
def test_impossible_or_unknown_option_is_named(build, message):
    with pytest.raises(InputError) as error:
        build()
    assert message in str(error.value)
