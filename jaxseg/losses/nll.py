"""Negative logarithms of probabilities, the base of every pixelwise loss, and powers that are safe to differentiate."""

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from jaxseg.typing import Array


def widen(x: Array) -> Array:
    """Returns `x` in `promote_types(float32, x.dtype)`, the type that losses are computed in."""
    return x.astype(np.promote_types(np.float32, x.dtype))


def nll_of_labels(logits: Array, labels: Array) -> Array:
    r"""Returns $-\log p_y = \log \sum_c e^{z_c} - z_y$ of a softmax.

    Args:
        logits: `[..., K]`, float32 or wider, K >= 2.
        labels: `[...]` int32 in `0..K-1`.

    Returns:
        `[...]`, in the type of the logits.

    >>> nll_of_labels(jnp.zeros((1, 3)), jnp.array([1])).round(2)
    Array([1.1], dtype=float32)
    """
    if logits.shape[-1] == 2:
        return nll_of_binary_labels(logits[..., 1] - logits[..., 0], labels == 1)
    shifted, log_normalizer = _shift(logits)
    is_label = jax.nn.one_hot(labels, logits.shape[-1], dtype=bool)
    return log_normalizer - jnp.where(is_label, shifted, 0).sum(-1)


def nll_of_distribution(logits: Array, target: Array) -> Array:
    r"""Returns $-\sum_c t_c \log p_c$ of a softmax.

    Args:
        logits: `[..., K]`, float32 or wider, K >= 2.
        target: `[..., K]` in the type of the logits, not negative; it need not sum to 1.

    Returns:
        `[...]`, in the type of the logits.

    >>> nll_of_distribution(jnp.zeros((1, 2)), jnp.array([[0.5, 0.5]])).round(2)
    Array([0.69], dtype=float32)
    """
    if logits.shape[-1] == 2:
        rise = logits[..., 1] - logits[..., 0]
        return nll_of_binary_distribution(rise, target[..., 1], target[..., 0])
    shifted, log_normalizer = _shift(logits)
    return target.sum(-1) * log_normalizer - (target * shifted).sum(-1)


def nll_of_binary_labels(logits: Array, positive: Array) -> Array:
    r"""Returns $-\log \sigma(z)$ where positive, $-\log (1 - \sigma(z))$ elsewhere.

    >>> nll_of_binary_labels(jnp.array([0.0, 1e4]), jnp.array([True, False])).round(2).tolist()
    [0.6899999976158142, 10000.0]
    """
    return jax.nn.softplus(jnp.where(positive, -logits, logits))


def nll_of_binary_distribution(logits: Array, positive: Array, negative: Array) -> Array:
    r"""Returns $-t_1 \log \sigma(z) - t_0 \log (1 - \sigma(z))$.

    Args:
        logits: z, any shape, float32 or wider.
        positive: $t_1$, not negative, a shape that broadcasts to that of the logits.
        negative: $t_0$, likewise; the sum of both need not be 1.

    >>> nll_of_binary_distribution(jnp.array([0.0, 1e4]), 0.5, 0.5).round(2).tolist()
    [0.6899999976158142, 5000.0]
    """
    # Both logarithms share log(1 + exp(-|z|)). Selections have the right second derivative at 0, abs and maximum do not.
    rises = logits >= 0
    magnitude = jnp.where(rises, logits, -logits)
    shared = jnp.log1p(jnp.exp(-magnitude))
    nll_1 = shared + jnp.where(rises, 0, magnitude)
    nll_0 = shared + jnp.where(rises, magnitude, 0)
    return positive * nll_1 + negative * nll_0


def power(base: Array, exponent: float) -> Array:
    """Returns `base ** exponent` of a base that is not negative, with gradient 0 at 0, where exponents below 1 have none.

    >>> float(jax.grad(lambda x: power(x, 0.5))(jnp.array(0.0)))
    0.0
    """
    if exponent >= 1:
        return base**exponent
    zero = base <= 0
    return jnp.where(zero, 0, jnp.where(zero, 1, base) ** exponent)


def _shift(logits: Array) -> tuple[Array, Array]:
    r"""Returns the logits minus the largest of each pixel, and $\log \sum_c e^{z_c}$ of those."""
    shifted = logits - lax.stop_gradient(logits.max(-1, keepdims=True))
    return shifted, jnp.log(jnp.exp(shifted).sum(-1))
