"""Heads and upsampling of a segmentation model."""

import jax.numpy as jnp
from harness.encoders import SIZE, fast_jit, shapes
from harness.models import CLASSES, OwnEncoder, create

from jaxseg.nn import UPSAMPLINGS


def test_output_holds_auxiliary_logits_and_image_labels():
    output, variables = shapes(create("unet", aux_heads=2, image_labels=7))
    assert [x.shape for x in output.aux_logits] == [(1, *SIZE, CLASSES)] * 2
    assert output.image_logits.shape == (1, 7)
    assert variables["params"]["aux_heads_1"]["conv"]["kernel"].shape == (3, 3, 64, CLASSES)
    output, _ = shapes(create("unet"))
    assert output.aux_logits == ()
    assert output.image_logits is None


def test_unused_heads_are_not_computed():
    def flops(**options):
        model = create("unet", OwnEncoder(), **options)
        variables = shapes(model)[1]
        compiled = (
            fast_jit(lambda v, x: model.apply(v, x).logits)
            .lower(variables, jnp.zeros((1, 32, 32, 3)))
            .compile()
        )
        return compiled.cost_analysis()["flops"]

    assert flops(aux_heads=2, image_labels=7) == flops()


def test_logits_can_be_upsampled_by_a_learned_layer():
    model = create("fpn", OwnEncoder()).clone(upsample=UPSAMPLINGS["transposed"])
    output, variables = shapes(model)
    assert output.logits.shape == (1, *SIZE, CLASSES)
    assert variables["params"]["TransposedConv_0"]["kernel"].shape == (8, 8, CLASSES, CLASSES)
