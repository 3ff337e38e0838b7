"""Training: a state, a pure step, optimizers and parallel strategies.

What needs more than JAX, Flax and optax is imported by its own name: `jaxseg.train.checkpoint`, `jaxseg.train.loop`.
"""

from jaxseg.train.counting import with_counts
from jaxseg.train.ensemble import (
    Ensemble,
    every_member,
    make_ensemble_eval_step,
    make_ensemble_step,
    member,
)
from jaxseg.train.epoch import make_epoch, make_run
from jaxseg.train.finite import skip_nonfinite
from jaxseg.train.layout import by_prefix, fully_sharded
from jaxseg.train.optimizers import adamw, cosine, freeze, poly, sgd
from jaxseg.train.parallel import Parallel
from jaxseg.train.program import forecast, needs
from jaxseg.train.rates import scale_rates
from jaxseg.train.remat import keep_products
from jaxseg.train.state import TrainState, create_state
from jaxseg.train.step import EvalTotals, make_eval_step, make_train_step
from jaxseg.train.variables import initialize, make_init

__all__ = [
    "Ensemble",
    "EvalTotals",
    "Parallel",
    "TrainState",
    "adamw",
    "by_prefix",
    "cosine",
    "create_state",
    "every_member",
    "forecast",
    "freeze",
    "fully_sharded",
    "initialize",
    "keep_products",
    "make_ensemble_eval_step",
    "make_ensemble_step",
    "make_epoch",
    "make_eval_step",
    "make_init",
    "make_run",
    "make_train_step",
    "member",
    "needs",
    "poly",
    "scale_rates",
    "sgd",
    "skip_nonfinite",
    "with_counts",
]
