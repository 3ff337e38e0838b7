"""Options that make no sense are named, with their value."""

import jax.numpy as jnp
import pytest

from jaxseg import losses
from jaxseg.errors import InputError


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda z, y: losses.softmax_focal_loss(z[..., :1], y), "sigmoid_focal_loss"),
        (lambda z, y: losses.focal_loss(z, y, alpha=0.2), "alpha applies to sigmoids"),
        (lambda z, y: losses.focal_loss(z, y, gamma=-1.0), "gamma is -1.0"),
        (lambda z, y: losses.sigmoid_focal_loss(z, y, alpha=2.0), "alpha is 2.0"),
        (lambda z, y: losses.poly_loss(z, y, epsilon=-2.0), "epsilon is -2.0"),
        (lambda z, y: losses.ohem_cross_entropy(z, y, threshold=7.0), "threshold is 7.0"),
        (lambda z, y: losses.ohem_cross_entropy(z, y, min_kept=0), "min_kept is 0"),
        (lambda z, y: losses.topk_cross_entropy(z, y, fraction=0.0), "fraction is 0.0"),
        (lambda z, y: losses.dice_loss(z, y, smooth=-1.0), "smooth is -1.0"),
        (lambda z, y: losses.tversky_loss(z, y, alpha=-0.1), "alpha is -0.1"),
        (lambda z, y: losses.focal_tversky_loss(z, y, gamma=0.0), "gamma is 0.0"),
        (lambda z, y: losses.soft_cldice_loss(z, y, smooth=0.0), "smooth 0.0"),
        (lambda z, y: losses.soft_cldice_loss(z, y, iterations=-1), "iterations is -1"),
        (lambda z, y: losses.hausdorff_loss(z, y, alpha=-1.0), "alpha is -1.0"),
        (lambda z, y: losses.focal_loss(z, jnp.zeros(z.shape)), "integer labels"),
        (lambda z, y: losses.lovasz_softmax_loss(z, y[0]), "do not match"),
    ],
)
def test_bad_options_are_named(call, message):
    with pytest.raises(InputError, match=message):
        call(jnp.zeros((1, 2, 2, 3)), jnp.zeros((1, 2, 2), jnp.int32))
