"""MobileNetV2 as an option of `jaxseg.create`, its drop path and its errors."""

import jax
import numpy as np
import pytest
from harness.encoders import noise, random_variables, shapes

import jaxseg
from jaxseg.encoders.mobilenet_v2 import MobileNetV2
from jaxseg.errors import InputError


def test_unet_by_name_has_logits_of_the_image_size():
    model = jaxseg.create("unet", encoder="mobilenetv2_100", num_classes=3)
    assert shapes(model, (1, 45, 70, 3))[0].logits.shape == (1, 45, 70, 3)


def test_drop_path_changes_training_alone():
    encoder = MobileNetV2(blocks=(1,) * 7, widths=(4,) * 8, depth=4)
    dropped = encoder.clone(drop_path_rate=0.9)
    variables, images = random_variables(shapes(encoder)[1]), noise(2, 16, 16, 3)
    rngs = {"dropout": jax.random.key(0)}

    def last(module, **options):
        result = module.apply(variables, images, rngs=rngs, **options)
        return (result[0] if "mutable" in options else result)[-1]

    np.testing.assert_array_equal(last(encoder), last(dropped))
    train = {"train": True, "mutable": ["batch_stats"]}
    assert (last(encoder, **train) != last(dropped, **train)).any()


def test_widths_of_six_stages_are_refused():
    with pytest.raises(InputError, match="widths of its stem and of seven stages"):
        MobileNetV2(widths=(4,) * 6)
