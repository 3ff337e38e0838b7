"""ResNet beyond the checks that every encoder passes."""

import numpy as np
import pytest
from harness.encoders import count, noise, random_variables, shapes

from jaxseg import encoders
from jaxseg.errors import InputError

PARAMETERS = {  # those of torchvision, without the classifier
    "resnet18": 11_176_512,
    "resnet34": 21_284_672,
    "resnet50": 23_508_032,
    "resnet101": 42_500_160,
    "resnet152": 58_143_808,
}


@pytest.mark.parametrize("name", PARAMETERS)
@pytest.mark.sample(2)
def test_resnet_has_the_parameters_of_torchvision(name):
    assert count(shapes(encoders.create(name))[1]) == PARAMETERS[name]


@pytest.mark.slow
def test_output_stride_16_agrees_with_32_where_both_have_pixels():
    plain, dilated = encoders.resnet18(), encoders.resnet18(output_stride=16)
    images = noise(1, 32, 32, 3)
    variables = random_variables(shapes(plain)[1])
    coarse, fine = (encoder.apply(variables, images) for encoder in (plain, dilated))
    for feature, same in zip(coarse[:4], fine, strict=False):
        np.testing.assert_array_equal(feature, same)
    assert np.abs(coarse[4]).max() > 0.1
    np.testing.assert_allclose(fine[4][:, ::2, ::2], coarse[4], rtol=1e-4, atol=1e-4)


def test_depth_leaves_out_deeper_stages():
    for depth in range(1, 6):
        encoder = encoders.resnet.ResNet((1, 2, 1, 1), True, depth=depth)
        names = {name for name in shapes(encoder)[1]["params"] if name.startswith("stage")}
        assert len(names) == sum(encoder.blocks[: depth - 1])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"deptth": 3}, "unknown option of encoder 'resnet18' 'deptth'; did you mean 'depth'"),
        ({"blocks": (1, 1)}, "unknown option of encoder 'resnet18' 'blocks'"),
    ],
)
def test_unknown_option_is_named(options, message):
    with pytest.raises(InputError) as error:
        encoders.create("resnet18", **options)
    assert message in str(error.value)


def test_two_stages_are_refused():
    with pytest.raises(InputError, match="four stages"):
        encoders.resnet.ResNet((1, 1))
