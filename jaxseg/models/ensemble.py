"""An ensemble of models as one model."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.errors import InputError
from jaxseg.typing import Array, Output, Variables


@dataclasses.dataclass(frozen=True)
class Ensemble:
    r"""A model that predicts the mean of its members' probabilities.

    Use it in place of a model, in `make_eval_step`, `make_predict` and everything else that calls `model.apply`, with the
    variables of all members, such as `states.variables`.

    Attributes:
        model: The Linen module of the members.

    >>> import flax.linen as nn
    >>> class Bias(nn.Module):
    ...     @nn.compact
    ...     def __call__(self, images, train=False):
    ...         return Output(images + self.param("bias", nn.initializers.zeros, (1, 1, 1, 2)))
    >>> variables = {"params": {"bias": jnp.array([0.0, 2.0, 0.0, -2.0]).reshape(2, 1, 1, 1, 2)}}
    >>> Ensemble(Bias()).apply(variables, jnp.zeros((1, 1, 1, 2))).logits.round(2)
    Array([[[[-0.69, -0.69]]]], dtype=float32)

    References:
        Lakshminarayanan et al., 2017, https://arxiv.org/abs/1612.01474
    """

    model: Any

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Output:
        """Returns logits whose softmax, or sigmoid for one class, is the mean of the members' probabilities.

        Args:
            variables: The variables of all members, with a first axis of members.
            images: `[N, H, W, C]`.
            train: Must be false; `make_ensemble_step` trains the members.

        Returns:
            An output without auxiliary logits.

        Raises:
            InputError: `train` is true.
        """
        if train:
            raise InputError("an ensemble is not trained as one model: use make_ensemble_step")
        logits = jax.vmap(lambda tree: self.model.apply(tree, images, train=False).logits)(
            variables
        )
        if logits.shape[-1] == 1:
            positive, negative = (
                jax.nn.logsumexp(jax.nn.log_sigmoid(sign * logits), axis=0) for sign in (1, -1)
            )
            return Output(positive - negative)
        log_sum = jax.nn.logsumexp(jax.nn.log_softmax(logits), axis=0)
        return Output(log_sum - jnp.log(jnp.asarray(len(logits), log_sum.dtype)))
