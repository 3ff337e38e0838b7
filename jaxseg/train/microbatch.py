"""The gradient of a batch that does not fit into a device's memory at once, from micro-batches in sequence."""

import operator
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array

Forward = Callable[[Any, Any, Array, Array], tuple[Any, Any]]
"""`forward(params, batch_stats, images, index) -> (output, batch_stats)`, of the micro-batch `index`."""


def microbatch_gradient(
    forward: Forward,
    loss_of_output: Callable[[Any], tuple[Array, Any]],
    params: Any,
    batch_stats: Any,
    images: Array,
    *,
    micro_batches: int,
) -> tuple[tuple[Array, Any], Any, Any]:
    r"""Computes the loss of a batch and its gradient with the activations of one micro-batch in memory at a time.

    It first computes the outputs $z_1, \ldots, z_m$ of all micro-batches without saving activations, then the loss of the whole
    batch and its gradient towards every output, and then runs every micro-batch again to propagate that gradient back:

    $$ \nabla_\theta L = \sum_j \left(\frac{\partial z_j}{\partial \theta}\right)^{\!\top} \frac{\partial L(z_1, \ldots, z_m)}{\partial z_j} $$

    This is the gradient of the whole batch, not a mean of gradients, also for Dice, for Lovász losses and for unevenly
    distributed ignored pixels. It costs one more forward pass and the memory of the outputs. Batch normalization sees
    micro-batches: each is normalized with its own moments and updates the running statistics.

    Args:
        forward: `(params, batch_stats, images, index) -> (output, batch_stats)`; the output is a pytree of arrays `[N, ...]`,
            and the index, an int32 scalar, is the micro-batch's.
        loss_of_output: `output -> (scalar, logs)`, of the whole batch.
        params: The parameters to differentiate with respect to.
        batch_stats: The running statistics before the step.
        images: `[N, ...]`. Micro-batch j consists of the images j, j + m, ..., so that every device has a part of each.
        micro_batches: The number of micro-batches $m$.

    Returns:
        `(loss, logs)`, the running statistics after the step, and the gradient.

    Raises:
        InputError: The number of micro-batches does not divide the batch of the device.

    >>> def forward(w, stats, images, index):
    ...     return w * images, stats
    >>> images = jnp.arange(4.0)
    >>> (loss, _), _, gradient = microbatch_gradient(
    ...     forward, lambda y: (y.max() * y.sum(), {}), 2.0, {}, images, micro_batches=2
    ... )
    >>> float(loss), float(gradient)  # of 3 w * 6 w
    (72.0, 72.0)

    References:
        Gao, Zhang, Han and Callan, Scaling Deep Contrastive Learning Batch Size under Memory Limited Setup, 2021,
        https://arxiv.org/abs/2101.06983
    """
    if micro_batches < 1 or len(images) % micro_batches:
        raise InputError(
            f"{len(images)} images on a device cannot be split into {micro_batches} micro-batches: make the batch a multiple"
        )
    parts = _split(images, micro_batches)
    indices = jnp.arange(micro_batches, dtype=jnp.int32)

    def run_forward(stats: Any, part: tuple[Array, Array]) -> tuple[Any, Any]:
        images, index = part
        output, stats = forward(params, stats, images, index)
        return stats, output

    _, outputs = _loop(run_forward, batch_stats, (parts, indices), micro_batches)
    output = jax.tree.map(_join, outputs)
    (loss, logs), cotangents = jax.value_and_grad(loss_of_output, has_aux=True)(output)
    cotangents = jax.tree.map(lambda array: _split(array, micro_batches), cotangents)

    def run_backward(
        carry: tuple[Any, Any], part: tuple[Array, Array, Any]
    ) -> tuple[tuple[Any, Any], None]:
        (stats, total), (images, index, cotangent) = carry, part

        def forward_again(params: Any) -> tuple[Any, Any]:
            return forward(params, stats, images, index)

        _, pull_back, stats = jax.vjp(forward_again, params, has_aux=True)
        (gradient,) = pull_back(cotangent)
        return (stats, jax.tree.map(jnp.add, total, gradient)), None

    start = (batch_stats, jax.tree.map(jnp.zeros_like, params))
    (batch_stats, gradient), _ = _loop(
        run_backward, start, (parts, indices, cotangents), micro_batches
    )
    return (loss, logs), batch_stats, gradient


def _split(array: Array, parts: int) -> Array:
    """Splits `[N, ...]` to `[m, N / m, ...]`, every m-th row each, which moves nothing between devices."""
    return jnp.moveaxis(array.reshape(-1, parts, *array.shape[1:]), 1, 0)


def _join(array: Array) -> Array:
    """Inverts `_split`."""
    return jnp.moveaxis(array, 0, 1).reshape(-1, *array.shape[2:])


def _loop(body: Callable[..., Any], carry: Any, xs: Any, length: int) -> tuple[Any, Any]:
    """Runs `lax.scan`; on a CPU, where convolutions in a scan are very slow, an unrolled loop."""
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


def _after(previous: Any, images: Array) -> Array:
    """Makes images depend on the previous results; otherwise XLA would hold all micro-batches in memory at once.

    On a CPU XLA removes `optimization_barrier` before it schedules operations. It keeps a product with zero, which would
    change the images only if a result were infinite, and then the step is lost anyhow.
    """
    firsts = [leaf.ravel()[:1].sum().astype(images.dtype) for leaf in jax.tree.leaves(previous)]
    return images + 0 * sum(firsts)
