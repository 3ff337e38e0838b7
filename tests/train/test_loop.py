"""The loop: what it saves when, how it stops, and that going on is the same as never having stopped."""

import itertools
import math
import os
import signal

import chex
import jax
import jax.numpy as jnp
import optax
import pytest

from jaxseg.errors import InputError
from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.loop import Progress, Schedule, StopRequest, evaluate, fit
from jaxseg.train.parallel import Parallel
from jaxseg.train.state import create_state


class Seen:
    """An observer that remembers."""

    def __init__(self):
        self.steps, self.train, self.validation = [], [], []

    def on_step(self, step):
        self.steps.append(step)

    def on_train(self, step, logs):
        self.train.append((step, logs["loss"]))

    def on_validation(self, step, scores, best):
        self.validation.append((step, scores["mean_iou"], best))


def start():
    return create_state({"params": {"w": jnp.zeros(2)}}, optax.sgd(0.1))


def add(state, batch, key):
    w = state.params["w"] + batch
    new = state.replace(step=state.step + 1, params={"w": w})
    return new, {"loss": w.sum()}


def run(
    tmp_path,
    state,
    scores,
    *,
    step=add,
    stop=None,
    progress=None,
    first=1.0,
    batches=None,
    **schedule,
):
    seen = Seen()
    scores = iter(scores)
    tmp_path.mkdir(exist_ok=True)
    state, progress = fit(
        state,
        step,
        batches or itertools.count(first),
        key=jax.random.key(0),
        schedule=Schedule(**{"steps_per_epoch": 3, "epochs": 4, "log_every": 2} | schedule),
        validate=lambda _: {"mean_iou": next(scores)},
        last=Checkpoint(tmp_path / "last"),
        best=Checkpoint(tmp_path / "best"),
        observer=seen,
        stop=stop or StopRequest(),
        progress=progress,
    )
    return state, progress, seen


def test_the_best_and_the_last_are_kept(tmp_path):
    state, progress, seen = run(tmp_path, start(), [0.1, 0.5, 0.4, math.nan])
    assert int(state.step) == 12
    assert progress == Progress(
        best_mean_iou=0.5, best_step=6, epochs_without_improvement=2, validated_step=12
    )
    assert [v[0] for v in seen.validation] == [3, 6, 9, 12]
    assert [v[2] for v in seen.validation] == [True, True, False, False]
    assert [t[0] for t in seen.train] == [2, 3, 4, 6, 8, 9, 10, 12]
    assert seen.steps == list(range(1, 13))
    best, scores = Checkpoint(tmp_path / "best").restore(state.variables)
    chex.assert_trees_all_equal(best, {"params": {"w": jnp.full(2, 21.0)}})  # 1 + ... + 6
    assert scores == {"mean_iou": 0.5}
    assert Checkpoint(tmp_path / "last").step == 12


def test_patience(tmp_path):
    state, progress, _ = run(tmp_path, start(), [0.5, 0.4, 0.3, 0.2], patience=2)
    assert int(state.step) == 9
    again, _, seen = run(tmp_path, state, [], patience=2, progress=progress)
    assert int(again.step) == 9
    assert not seen.steps


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_saves_after_the_step_in_flight_and_the_run_goes_on_from_there(tmp_path, number):
    stop = StopRequest()
    before = signal.getsignal(number)

    def interrupted(state, batch, key):
        if int(state.step) == 4:
            os.kill(os.getpid(), number)
        return add(state, batch, key)

    with stop.listening():
        state, progress, _ = run(tmp_path, start(), [0.5], step=interrupted, stop=stop)
    assert signal.getsignal(number) is before
    assert int(state.step) == 5
    last = Checkpoint(tmp_path / "last")
    assert last.step == 5
    restored, values = last.restore(start())
    assert Progress(**values) == progress
    state, _, _ = run(tmp_path, restored, [0.4, 0.6, 0.7], progress=progress, first=6.0)
    whole, _, _ = run(tmp_path / "whole", start(), [0.5, 0.4, 0.6, 0.7])
    chex.assert_trees_all_equal(state, whole)


def test_a_loss_that_is_no_number_ends_the_run(tmp_path):
    def broken(state, batch, key):
        state, logs = add(state, batch, key)
        return state, {"loss": jnp.where(state.step == 4, jnp.nan, logs["loss"])}

    with pytest.raises(InputError, match="loss is nan at step 4"):
        run(tmp_path, start(), [0.5], step=broken)
    assert Checkpoint(tmp_path / "last").step == 3


def test_a_state_that_is_no_number_is_not_saved_when_the_run_is_stopped(tmp_path):
    stop = StopRequest()

    def broken(state, batch, key):
        stop.requested = int(state.step) == 4
        state, logs = add(state, batch, key)
        return state, logs | {"gradient_norm": jnp.where(state.step == 5, jnp.inf, 1.0)}

    with pytest.raises(InputError, match="gradient_norm is inf at step 5"):
        run(tmp_path, start(), [0.5], step=broken, stop=stop)
    assert Checkpoint(tmp_path / "last").step == 3


@pytest.mark.parametrize("kind", [InputError, RuntimeError])
def test_an_image_that_cannot_be_read_costs_no_step(tmp_path, kind):
    def batches():
        yield from (1.0, 2.0, 3.0, 4.0)
        raise kind("x.png does not decode")

    with pytest.raises(InputError, match=r"x.png does not decode\nThe state of step 4 is saved"):
        run(tmp_path, start(), [0.5], batches=batches())
    state, values = Checkpoint(tmp_path / "last").restore(start())
    state, _, _ = run(tmp_path, state, [0.4, 0.6, 0.7], progress=Progress(**values), first=5.0)
    whole, _, _ = run(tmp_path / "whole", start(), [0.5, 0.4, 0.6, 0.7])
    chex.assert_trees_all_equal(state, whole)


def test_a_validation_that_failed_is_made_up_for(tmp_path):
    def broken():
        yield 0.5
        raise InputError("y.png does not decode")

    with pytest.raises(InputError, match="The state of step 6 is saved"):
        run(tmp_path, start(), broken())
    state, values = Checkpoint(tmp_path / "last").restore(start())
    assert int(state.step) == 6
    scores = [0.4, 0.6, 0.7]
    state, progress, seen = run(tmp_path, state, scores, progress=Progress(**values), first=7.0)
    whole, same, _ = run(tmp_path / "whole", start(), [0.5, *scores])
    chex.assert_trees_all_equal(state, whole)
    assert progress == same
    assert [step for step, _, _ in seen.validation] == [6, 9, 12]


def test_a_signal_does_not_wait_for_a_validation(tmp_path):
    stop = StopRequest()

    def batches():
        yield {}
        stop.requested = True
        yield {}
        pytest.fail("the validation went on")

    def validate():
        evaluate(start(), lambda *_: None, batches(), num_classes=2, parallel=Parallel(), stop=stop)
        yield

    state, progress, _ = run(tmp_path, start(), validate(), stop=stop)
    assert (int(state.step), progress.validated_step) == (3, 0)
    assert Checkpoint(tmp_path / "last").step == 3


def test_what_fails_after_a_loss_that_is_no_number_saves_nothing(tmp_path):
    def broken(state, batch, key):
        state, logs = add(state, batch, key)
        return state, {"loss": jnp.where(state.step == 5, jnp.nan, logs["loss"])}

    def batches():
        yield from (1.0, 2.0, 3.0, 4.0, 5.0)
        raise InputError("x.png does not decode")

    with pytest.raises(InputError, match="loss is nan at step 5"):
        run(tmp_path, start(), [0.5], step=broken, batches=batches())
    assert Checkpoint(tmp_path / "last").step == 3
