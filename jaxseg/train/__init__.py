"""Training: the state, pure functions of one step, optimizers, ensembles, and several steps in one call."""

from jaxseg.train.ensemble import (
    make_ensemble_eval_step,
    make_ensemble_step,
    repeat_for_members,
    select_member,
)
from jaxseg.train.eval_step import make_eval_step
from jaxseg.train.init import init
from jaxseg.train.multi_step import make_epoch, make_multi_step
from jaxseg.train.optimizers import adamw, cosine, poly, sgd
from jaxseg.train.param_groups import freeze, scale_learning_rates
from jaxseg.train.remat import save_convolutions
from jaxseg.train.skip_nonfinite import skip_nonfinite
from jaxseg.train.state import TrainState, create_state
from jaxseg.train.step import make_train_step

__all__ = [
    "TrainState",
    "adamw",
    "cosine",
    "create_state",
    "freeze",
    "init",
    "make_ensemble_eval_step",
    "make_ensemble_step",
    "make_epoch",
    "make_eval_step",
    "make_multi_step",
    "make_train_step",
    "poly",
    "repeat_for_members",
    "save_convolutions",
    "scale_learning_rates",
    "select_member",
    "sgd",
    "skip_nonfinite",
]
