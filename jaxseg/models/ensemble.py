"""An ensemble of models as one model."""

import dataclasses
import functools
from operator import itemgetter
from typing import Any

import jax

from jaxseg.errors import InputError
from jaxseg.models.averaging import PROBABILITIES, Averaging
from jaxseg.typing import Array, Variables


@dataclasses.dataclass(frozen=True)
class Ensemble:
    r"""A model that predicts the mean of its members' probabilities.

    Use it in place of a model, in `make_eval_step`, `make_predict` and everything else that calls `model.apply`, with the
    variables of all members, such as `states.variables`.

    Attributes:
        model: The Linen module of the members.
        average: The mean: `averaging.PROBABILITIES`, `OUTPUTS`, or `UNCERTAINTY` for maps of entropy and mutual
            information.

    >>> import flax.linen as nn
    >>> import jax.numpy as jnp
    >>> from jaxseg.typing import Output
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
    average: Averaging = PROBABILITIES

    def apply(self, variables: Variables, images: Array, *, train: bool = False) -> Any:
        """Returns the members' mean.

        Args:
            variables: The variables of all members, with a first axis of members.
            images: `[N, H, W, C]`.
            train: Must be false; `make_ensemble_step` trains the members.

        Returns:
            By default an output without auxiliary logits. The softmax of its logits, or sigmoid for one class, is the mean
            of the members' probabilities.

        Raises:
            InputError: `train` is true.
        """
        if train:
            raise InputError("an ensemble is not trained as one model: use make_ensemble_step")
        start, add, _, finish = self.average
        totals = jax.vmap(lambda tree: start(self.model.apply(tree, images, train=False)))(
            variables
        )
        count = len(jax.tree.leaves(totals)[0])
        members = [jax.tree.map(itemgetter(i), totals) for i in range(count)]
        return finish(functools.reduce(add, members), count)
