"""The feature pyramid of the paper beyond the checks that every architecture passes."""

import jax.numpy as jnp
import numpy as np
from harness.encoders import SIZE, fast_jit, random_variables, shapes
from harness.models import CLASSES, OwnEncoder, create


def test_logits_are_the_mean_of_supervised_scales():
    model = create("multiscale_fpn", OwnEncoder(), channels=8, supervise_scales=True)
    variables = random_variables(shapes(model)[1])
    output = fast_jit(model.apply)(variables, jnp.ones((1, *SIZE, 3)))
    assert [x.shape for x in output.aux_logits] == [(1, *SIZE, CLASSES)] * 4
    np.testing.assert_allclose(output.logits, sum(output.aux_logits) / 4, rtol=0, atol=1e-5)


def test_scales_are_those_of_the_encoder_and_optional():
    assert shapes(create("multiscale_fpn"))[0].aux_logits == ()
    three = create("multiscale_fpn", encoder_options={"depth": 3}, supervise_scales=True)
    assert len(shapes(three)[0].aux_logits) == 3
