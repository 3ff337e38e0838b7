"""The gradient of a batch that a device cannot hold at once: micro-batches one after the other."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Key

Forward = Callable[[Any, Any, Array, Key], tuple[Any, Any]]
"""`(params, batch_stats, images, key) -> (output, batch_stats)`."""


def accumulated(
    forward: Forward,
    loss_of: Callable[[Any], tuple[Array, Any]],
    params: Any,
    batch_stats: Any,
    images: Array,
    key: Key,
    *,
    parts: int,
) -> tuple[tuple[Array, Any], Any, Any]:
    r"""The loss of a whole batch and its gradient, with the activations of one micro-batch in memory at a time.

    First the outputs $z_1, \ldots, z_m$ of all micro-batches, of which no activations are kept; then the loss of the whole
    batch and what it wants of each output; then each micro-batch again, to pull that back:

    $$ \nabla_\theta L = \sum_j \left(\frac{\partial z_j}{\partial \theta}\right)^{\!\top} \frac{\partial L(z_1, \ldots, z_m)}{\partial z_j} $$

    This is the gradient of the whole batch, not a mean of gradients: Dice, Lovasz and unevenly ignored pixels included.
    It costs one more forward pass, and memory for the outputs. Batch normalisation alone sees micro-batches: each is
    normalised by its own moments, and the running statistics move once for each.

    Args:
        forward: `(params, batch_stats, images, key) -> (output, batch_stats)`, the output a tree of arrays `[N, ...]`.
        loss_of: `output -> (scalar, logs)`, of the whole batch.
        params: What the gradient is of.
        batch_stats: Running statistics before the step.
        images: `[N, ...]`; micro-batch j is made of images j, j + m, ..., so that every device has a share of each.
        key: For dropout; the micro-batch's number is folded in.
        parts: $m$, how many micro-batches.

    Returns:
        `(loss, logs)`, the running statistics after the step, and the gradient.

    Raises:
        InputError: The micro-batches do not divide the (device's part of the) batch.

    >>> def forward(w, stats, images, key):
    ...     return w * images, stats
    >>> images = jnp.arange(4.0)
    >>> (loss, _), _, gradient = accumulated(
    ...     forward, lambda y: (y.max() * y.sum(), {}), 2.0, {}, images, jax.random.key(0), parts=2
    ... )
    >>> float(loss), float(gradient)  # 3 w * 6 w
    (72.0, 72.0)

    References:
        Gao, Zhang, Han and Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021,
        https://arxiv.org/abs/2101.06983
    """
    if parts < 1 or len(images) % parts:
        raise InputError(
            f"{len(images)} images on a device cannot be cut into {parts} micro-batches: make the batch a multiple"
        )
    cut = _cut(images, parts)
    numbers = jnp.arange(parts)

    def run(stats: Any, part: tuple[Array, Array]) -> tuple[Any, Any]:
        images, number = part
        output, stats = forward(params, stats, images, jax.random.fold_in(key, number))
        return stats, output

    _, outputs = _loop(run, batch_stats, (cut, numbers), parts)
    output = jax.tree.map(_join, outputs)
    (loss, logs), wanted = jax.value_and_grad(loss_of, has_aux=True)(output)
    wanted = jax.tree.map(lambda array: _cut(array, parts), wanted)

    def pull(carry: tuple[Any, Any], part: tuple[Array, Array, Any]) -> tuple[Any, None]:
        (stats, total), (images, number, cotangent) = carry, part

        def again(params: Any) -> tuple[Any, Any]:
            return forward(params, stats, images, jax.random.fold_in(key, number))

        _, back, stats = jax.vjp(again, params, has_aux=True)
        (gradient,) = back(cotangent)
        return (stats, jax.tree.map(jnp.add, total, gradient)), None

    start = (batch_stats, jax.tree.map(jnp.zeros_like, params))
    (batch_stats, gradient), _ = _loop(pull, start, (cut, numbers, wanted), parts)
    return (loss, logs), batch_stats, gradient


def _cut(array: Array, parts: int) -> Array:
    """`[N, ...]` to `[m, N / m, ...]`: every m-th each, which moves nothing between devices."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _join(array: Array) -> Array:
    """The inverse of `_cut`."""
    return jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:])


def _loop(body: Callable[..., Any], carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """`lax.scan`, but on a CPU, where a convolution inside of one is very slow, one after the other in the trace."""
    if jax.default_backend() != "cpu":
        return jax.lax.scan(body, carry, xs)
    results: list[Any] = []
    for index in range(length):
        images, *rest = jax.tree.map(operator.itemgetter(index), xs)
        if results:
            images = _after((carry, results[-1]), images)
        carry, result = body(carry, (images, *rest))
        results.append(result)
    return carry, jax.tree.map(lambda *arrays: jnp.stack(arrays), *results)


def _after(before: Any, images: Array) -> Array:
    """The images, but no sooner than everything before is there, or else XLA would hold all micro-batches at once.

    On a CPU it drops `optimization_barrier` before it puts operations into an order; it keeps a product with zero, which
    would differ if a factor were infinite (and then the step is lost anyhow).
    """
    firsts = [leaf.ravel()[:1].sum().astype(images.dtype) for leaf in jax.tree.leaves(before)]
    return images + 0 * sum(firsts)
