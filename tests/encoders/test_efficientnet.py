"""EfficientNet: its sizes, the stem as a feature, and its errors."""

import numpy as np
import pytest
from harness.encoders import count, fast_jit, noise, random_variables, shapes

from jaxseg import encoders
from jaxseg.encoders.efficientnet import EfficientNet
from jaxseg.errors import InputError

SMALL = {"blocks": (1,) * 7, "widths": (8, 4, 6, 8, 10, 12, 14, 16)}


def test_sizes_grow_with_their_names():
    sizes = [count(shapes(encoders.create(f"efficientnet_b{i}", depth=4))[1]) for i in (0, 3, 7)]
    assert sizes == sorted(sizes)
    assert encoders.create("efficientnet_b7").channels == (32, 48, 80, 224, 640)


def test_lite_keeps_its_stem_and_has_no_gates():
    _, variables = shapes(encoders.create("efficientnet_lite4", depth=1))
    assert variables["params"]["stem"]["conv"]["kernel"].shape == (3, 3, 3, 32)
    assert "squeeze_excite" not in variables["params"]["stage0_block0"]


@pytest.mark.slow
def test_the_stem_replaces_the_finest_feature_alone():
    plain, stem = EfficientNet(**SMALL, depth=2), EfficientNet(**SMALL, depth=2, stem_feature=True)
    assert (plain.channels, stem.channels) == ((4, 6), (8, 6))
    variables, images = random_variables(shapes(plain)[1]), noise(1, 15, 18, 3)
    features, others = (fast_jit(each.apply)(variables, images) for each in (plain, stem))
    assert others[0].shape == (1, 8, 9, 8)
    np.testing.assert_array_equal(features[1], others[1])


def test_with_the_stem_alone_no_stage_is_built():
    features, variables = shapes(EfficientNet(**SMALL, depth=1, stem_feature=True))
    assert [feature.shape for feature in features] == [(1, 17, 24, 8)]
    assert list(variables["params"]) == ["stem"]


def test_widths_of_six_stages_are_refused():
    with pytest.raises(InputError, match="widths of its stem and of seven stages"):
        EfficientNet(widths=(4,) * 7)
