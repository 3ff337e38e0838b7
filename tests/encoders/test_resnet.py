import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import encoders
from jaxseg.errors import InputError

PARAMETERS = {  # those of torchvision, without the classifier
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


def shapes(encoder, images, **options):
    return jax.eval_shape(
        lambda x: encoder.init_with_output(jax.random.key(0), x, **options), jnp.zeros(images)
    )


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_and_shapes(name):
    encoder = encoders.create(name)
    features, variables = shapes(encoder, (2, 33, 47, 3))
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == PARAMETERS[name]
    assert encoder.strides == (2, 4, 8, 16, 32)
    for feature, stride, channels in zip(features, encoder.strides, encoder.channels, strict=True):
        assert feature.shape == (2, -(-33 // stride), -(-47 // stride), channels)


@pytest.mark.parametrize("depth", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("output_stride", [8, 16, 32])
def test_any_depth_stride_channels_and_size(depth, output_stride):
    encoder = encoders.ResNet(
        (1, 2, 1, 1), True, depth=depth, output_stride=output_stride, in_channels=12
    )
    assert len(encoder.strides) == len(encoder.channels) == depth
    assert max(encoder.strides) == min(2**depth, output_stride)
    for size in [(1, 1), (7, 64)]:
        features, variables = shapes(encoder, (1, *size, 12))
        assert len({path for path in variables["params"] if path.startswith("stage")}) == sum(
            encoder.blocks[: depth - 1]
        )
        for feature, stride, channels in zip(
            features, encoder.strides, encoder.channels, strict=True
        ):
            assert feature.shape == (1, -(-size[0] // stride), -(-size[1] // stride), channels)


def test_dilation_does_not_change_the_parameters():
    plain, dilated = (
        shapes(encoders.resnet18(output_stride=s), (1, 32, 32, 3))[1] for s in (32, 8)
    )
    assert jax.tree.map(jnp.shape, plain) == jax.tree.map(jnp.shape, dilated)


def test_a_dilated_encoder_sees_what_the_plain_one_sees():
    """With stride 16 the dilated last stage agrees with the plain one wherever that has a pixel."""
    images = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype(np.float32)
    plain = encoders.resnet18()
    template = jax.eval_shape(plain.init, jax.random.key(0), images)
    rng = np.random.default_rng(1)

    def fill(x):
        values = rng.normal(0, 0.05, x.shape) if x.ndim > 1 else rng.uniform(0.5, 1, x.shape)
        return values.astype(x.dtype)

    variables = jax.tree.map(fill, template)
    dilated = encoders.resnet18(output_stride=16)
    for feature, same in zip(
        plain.apply(variables, images)[:4], dilated.apply(variables, images), strict=False
    ):
        np.testing.assert_array_equal(feature, same)
    last, finer = plain.apply(variables, images)[4], dilated.apply(variables, images)[4]
    np.testing.assert_allclose(finer[:, ::2, ::2], last, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"depth": 0}, "depth=0: a ResNet has 1 to 5 features"),
        ({"depth": 6}, "depth=6"),
        ({"output_stride": 4}, "output_stride=4: a ResNet can have 8, 16 or 32"),
        ({"in_channels": 0}, "in_channels=0"),
        ({"deptth": 3}, "unknown option of encoder 'resnet18' 'deptth'; did you mean 'depth'"),
        ({"blocks": (1, 1)}, "unknown option of encoder 'resnet18' 'blocks'"),
    ],
)
def test_wrong_options_are_named(options, message):
    with pytest.raises(InputError) as error:
        encoders.create("resnet18", **options)
    assert message in str(error.value)


def test_a_resnet_has_four_stages():
    with pytest.raises(InputError, match="four stages"):
        encoders.ResNet((1, 1))


def test_a_wrong_number_of_channels_is_named():
    with pytest.raises(InputError, match="have 4 channels, but the encoder has in_channels=3"):
        shapes(encoders.resnet18(), (1, 8, 8, 4))
