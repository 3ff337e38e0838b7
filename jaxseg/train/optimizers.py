"""Learning-rate schedules and optimizers that are common in segmentation, composed of optax's."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jaxseg.errors import InputError
from jaxseg.train.gradient_norm import clip_by_global_norm


def poly(peak: float, steps: int, *, warmup_steps: int = 0, power: float = 0.9) -> optax.Schedule:
    r"""Returns the polynomial decay of segmentation papers, after a linear warm-up.

    With $w$ warm-up steps out of $n$, the learning rate of step $t$ in `0..n-1` is

    $$ \eta_t = \eta \frac{t + 1}{w + 1} \;(t < w), \qquad \eta_t = \eta \left(1 - \frac{t - w}{n - w}\right)^p \;(t \ge w) $$

    Args:
        peak: The peak $\eta$, reached at step `warmup_steps`.
        steps: The number $n$ of optimizer steps of the whole run, warm-up included.
        warmup_steps: The number $w$ of warm-up steps. No step has a learning rate of 0.
        power: The power $p$.

    Returns:
        A function from step to learning rate.

    Raises:
        InputError: No steps are left after the warm-up, or the peak is not positive.

    >>> schedule = poly(1.0, 10, warmup_steps=4, power=1.0)
    >>> [round(float(schedule(step)), 2) for step in (0, 3, 4, 7, 9)]
    [0.2, 0.8, 1.0, 0.5, 0.17]

    References:
        Liu, Rabinovich and Berg, ParseNet, 2015, https://arxiv.org/abs/1506.04579; Chen, Papandreou, Kokkinos, Murphy
        and Yuille, DeepLab, 2016, https://arxiv.org/abs/1606.00915.
    """
    return _after_warmup(
        peak, steps, warmup_steps, lambda n: optax.polynomial_schedule(peak, 0.0, power, n)
    )


def cosine(peak: float, steps: int, *, warmup_steps: int = 0) -> optax.Schedule:
    r"""Returns a decay by half a cosine to 0, after a linear warm-up.

    It is `poly` with $\eta_t = \frac{\eta}{2} \left(1 + \cos \pi \frac{t - w}{n - w}\right)$ after the warm-up.

    Args:
        peak: The peak $\eta$, reached at step `warmup_steps`.
        steps: The number $n$ of optimizer steps of the whole run, warm-up included.
        warmup_steps: The number $w$ of warm-up steps. No step has a learning rate of 0.

    Returns:
        A function from step to learning rate.

    Raises:
        InputError: No steps are left after the warm-up, or the peak is not positive.

    >>> schedule = cosine(1.0, 10, warmup_steps=4)
    >>> [round(float(schedule(step)), 2) for step in (0, 3, 4, 7, 9)]
    [0.2, 0.8, 1.0, 0.5, 0.07]

    References:
        Loshchilov and Hutter, SGDR, 2016, https://arxiv.org/abs/1608.03983 (one period, no restarts).
    """
    return _after_warmup(peak, steps, warmup_steps, lambda n: optax.cosine_decay_schedule(peak, n))


def adamw(
    learning_rate: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    clip_norm: float | None = None,
    b1: float = 0.9,
    b2: float = 0.999,
) -> optax.GradientTransformation:
    """Returns AdamW without weight decay of biases and normalization.

    Args:
        learning_rate: A number or a schedule.
        weight_decay: Decoupled decay of kernels, the parameters with two axes or more.
        clip_norm: The largest global norm of the gradient; None does not clip.
        b1: Decay of the running mean of gradients.
        b2: Decay of the running mean of squared gradients.

    Returns:
        An optax transformation.

    References:
        Loshchilov and Hutter, Decoupled Weight Decay Regularization, 2017, https://arxiv.org/abs/1711.05101

    >>> import jax.numpy as jnp
    >>> optimizer = adamw(poly(1e-3, 100), clip_norm=1.0)
    >>> state = optimizer.init({"kernel": jnp.ones((3, 3)), "bias": jnp.ones(3)})
    """
    optimizer = optax.adamw(learning_rate, b1, b2, weight_decay=weight_decay, mask=_kernels)
    return _clipped(optimizer, clip_norm)


def sgd(
    learning_rate: optax.ScalarOrSchedule,
    *,
    momentum: float = 0.9,
    nesterov: bool = False,
    weight_decay: float = 5e-4,
    clip_norm: float | None = None,
) -> optax.GradientTransformation:
    """Returns gradient descent with momentum, without weight decay of biases and normalization.

    Args:
        learning_rate: A number or a schedule.
        momentum: Decay of the running sum of gradients.
        nesterov: Whether to use Nesterov's momentum.
        weight_decay: Decay that is added to the gradient of kernels, the parameters with two axes or more, like torch's.
        clip_norm: The largest global norm of the gradient without weight decay; None does not clip.

    Returns:
        An optax transformation.

    >>> import jax.numpy as jnp
    >>> optimizer = sgd(0.1, weight_decay=0.0)
    >>> params = {"kernel": jnp.ones((1, 1))}
    >>> updates, _ = optimizer.update({"kernel": jnp.ones((1, 1))}, optimizer.init(params), params)
    >>> updates["kernel"].tolist()
    [[-0.10000000149011612]]
    """
    optimizer = optax.chain(
        optax.add_decayed_weights(weight_decay, mask=_kernels),
        optax.sgd(learning_rate, momentum, nesterov),
    )
    return _clipped(optimizer, clip_norm)


def _after_warmup(
    peak: float, steps: int, warmup_steps: int, decay: Callable[[int], optax.Schedule]
) -> optax.Schedule:
    if not 0 <= warmup_steps < steps:
        raise InputError(f"{warmup_steps} warm-up steps leave none of {steps} steps")
    if not 0 < peak < float("inf"):
        raise InputError(f"the peak learning rate is {peak}: it must be positive")
    parts, boundaries = [decay(steps - warmup_steps)], []
    if warmup_steps:
        warmup = optax.linear_schedule(peak / (warmup_steps + 1), peak, warmup_steps)
        parts, boundaries = [warmup, *parts], [warmup_steps]
    joined = optax.join_schedules(parts, boundaries)

    def schedule(step: Any) -> Any:
        with jax.numpy_dtype_promotion("standard"):  # optax mixes dtypes
            return joined(step)

    return schedule


def _kernels(params):
    return jax.tree.map(lambda array: array.ndim > 1, params)


def _clipped(
    optimizer: optax.GradientTransformation, clip_norm: float | None
) -> optax.GradientTransformation:
    if clip_norm is None:
        return optimizer
    if clip_norm <= 0:
        raise InputError(f"clip_norm is {clip_norm}: it must be positive, or None not to clip")
    return optax.chain(clip_by_global_norm(clip_norm), optimizer)
