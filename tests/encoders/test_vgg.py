import jax
import jax.numpy as jnp
import numpy as np
import pytest

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


def shapes(encoder, images, **options):
    return jax.eval_shape(
        lambda x: encoder.init_with_output(jax.random.key(0), x, **options), jnp.zeros(images)
    )


def noise(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def small(batch_norm=False, **fields):
    return encoders.VGG((1, 1, 1, 1, 1), batch_norm, WIDTHS, **fields)


def variables_of(encoder, seed=1):
    rng = np.random.default_rng(seed)

    def fill(x):
        values = rng.normal(0, 0.3, x.shape) if x.ndim > 1 else rng.uniform(0.1, 1, x.shape)
        return values.astype(x.dtype)

    return jax.tree.map(fill, shapes(encoder, (1, 32, 32, encoder.in_channels))[1])


def fast_jit(function, **options):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0}, **options)


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_shapes(name):
    encoder = encoders.create(name)
    features, variables = shapes(encoder, (2, 33, 47, 3))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert ("batch_stats" in variables) == name.endswith("_bn")
    assert encoder.strides == (2, 4, 8, 16, 32)
    for feature, stride, channels in zip(features, encoder.strides, encoder.channels, strict=True):
        assert feature.shape == (2, -(-33 // stride), -(-47 // stride), channels)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_any_depth_stride_channels_and_size(depth, output_stride):
    encoder = small(True, depth=depth, output_stride=output_stride, in_channels=12)
    assert len(encoder.strides) == len(encoder.channels) == depth
    assert max(encoder.strides) == min(2**depth, output_stride)
    for size in [(1, 1), (7, 64)]:
        features, variables = shapes(encoder, (1, *size, 12))
        assert len(variables["params"]) == min(depth + 1, 5)
        for feature, stride, channels in zip(
            features, encoder.strides, encoder.channels, strict=True
        ):
            assert feature.shape == (1, -(-size[0] // stride), -(-size[1] // stride), channels)


def test_odd_maps_lose_their_last_row_where_asked_and_never_vanish():
    features, _ = shapes(small(ceil_mode=False), (1, 47, 1, 3))
    assert [feature.shape[1:3] for feature in features] == [
        (23, 1),
        (11, 1),
        (5, 1),
        (2, 1),
        (1, 1),
    ]


@pytest.mark.parametrize(("output_stride", "step"), [(16, 2), (8, 4)])
def test_a_dilated_encoder_sees_what_the_plain_one_sees(output_stride, step):
    plain, dilated = small(), small(output_stride=output_stride)
    assert shapes(plain, (1, 32, 32, 3))[1] == shapes(dilated, (1, 32, 32, 3))[1]
    variables, images = variables_of(plain), noise(1, 45, 64, 3)
    coarse, fine = (fast_jit(e.apply)(variables, images)[4] for e in (plain, dilated))
    assert np.abs(coarse).max() > 0.1
    np.testing.assert_allclose(fine[:, ::step, ::step], coarse, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("fields", [{}, {"output_stride": 8}])
def test_gradient_reaches_every_parameter(fields):
    encoder = small(**fields)
    variables, images = variables_of(encoder), noise(2, 33, 31, 3)
    gradient = fast_jit(jax.grad(lambda v: sum(f.sum() for f in encoder.apply(v, images))))
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient(variables)):
        assert np.isfinite(leaf).all(), path
        assert np.abs(leaf).max() > 0, path


@pytest.mark.parametrize("ceil_mode", [True, False])
def test_places_are_those_of_the_maxima(ceil_mode):
    encoder = small(True, ceil_mode=ceil_mode)
    variables, images = variables_of(encoder), noise(2, 45, 38, 3)
    features, places = fast_jit(encoder.apply, static_argnames="method")(
        variables, images, method="with_places"
    )
    for mine, same in zip(features, fast_jit(encoder.apply)(variables, images), strict=True):
        # Two programs, each with roundings of its own.
        np.testing.assert_allclose(mine, same, rtol=1e-5, atol=1e-5)
    last, place = features[-1], places[-1]
    assert [p.shape[3] for p in places] == list(WIDTHS)
    assert place.shape == last.shape
    frame = (2 * last.shape[1], 2 * last.shape[2])
    spread = np.asarray(max_unpool(last, frame, indices=place))[:, : features[3].shape[1]]
    found = spread[:, :, : features[3].shape[2]]
    inside = np.asarray(features[3])[:, : found.shape[1], : found.shape[2]]
    assert (found != 0).any()
    np.testing.assert_array_equal(found[found != 0], inside[found != 0])


def test_pools_follow_the_features_of_their_stages():
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


@pytest.mark.parametrize("model", ["fcn_32s", "fcn_8s", "unet", "fpn"])
@pytest.mark.parametrize("name", ["vgg11", "vgg19_bn"])
def test_every_decoder_reads_it(model, name):
    model = jaxseg.create(model, encoder=name, num_classes=3)
    assert shapes(model, (1, 33, 47, 3))[0].logits.shape == (1, 33, 47, 3)
    assert shapes(model, (1, 1, 1, 3), train=False)[0].logits.shape == (1, 1, 1, 3)


@pytest.mark.parametrize(("center", "count"), [(None, 23_748_241), (False, 19_027_601)])
def test_unet_has_a_centre_on_a_vgg_as_in_smp(center, count):
    model = jaxseg.create("unet", encoder="vgg16", num_classes=1, center=center)
    params = shapes(model, (1, 33, 47, 3))[1]["params"]
    assert sum(x.size for x in jax.tree.leaves(params)) == count
    assert ("center" in params["decoder"]) == (center is None)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 6}, "depth=6: a VGG has 1 to 5 features"),
        ({"output_stride": 4}, "output_stride=4: a VGG can have 8, 16 or 32"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"widths": (1, 2)}, "widths=(1, 2): a VGG has five stages"),
        ({"celi_mode": True}, "unknown option of encoder 'vgg16' 'celi_mode'; did you mean"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError) as error:
        encoders.create("vgg16", **options)
    assert message in str(error.value)


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(InputError, match="have 4 channels, but the encoder has in_channels=3"):
        shapes(encoders.vgg11(), (1, 8, 8, 4))
    with pytest.raises(InputError, match=r"convolutions=\(1, 0, 1, 1, 1\)"):
        encoders.VGG((1, 0, 1, 1, 1))
