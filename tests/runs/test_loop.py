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
from jaxseg.parallel.strategy import Parallel
from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.evaluation import evaluate_batches
from jaxseg.runs.loop import Progress, Schedule, fit
from jaxseg.runs.observer import Observer
from jaxseg.runs.stop import StopRequest
from jaxseg.tasks import Headline, Semantic
from jaxseg.train.skip_nonfinite import skip_nonfinite
from jaxseg.train.state import create_state

HEADLINE = Headline("mean_iou", "mIoU")


class Seen:
    """Records the calls of an observer."""

    def __init__(self):
        self.steps, self.train, self.validation, self.skips = [], [], [], []
        self.observer = Observer(
            on_step=self.steps.append,
            on_train=lambda step, logs: self.train.append((step, logs["loss"])),
            on_skip=lambda step, names: self.skips.append((step, names)),
            on_validation=lambda step, scores, best: self.validation.append(
                (step, scores["mean_iou"], best)
            ),
        )


def start():
    return create_state({"params": {"w": jnp.zeros(2)}}, optax.sgd(0.1))


def add(state, batch, key):
    w = state.params["w"] + batch["number"]
    new = state.replace(step=state.step + 1, params={"w": w})
    return new, {"loss": w.sum(), "gradient_norm": jnp.float32(1.0)}


def numbers(first):
    for number in itertools.count(first):
        yield {"number": number, "names": [f"{number:.0f}.png"]}


def run(
    tmp_path,
    state,
    scores,
    *,
    step=None,
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
        step or skip_nonfinite(add),
        batches or numbers(first),
        key=jax.random.key(0),
        schedule=Schedule(**{"steps_per_epoch": 3, "epochs": 4, "log_every": 2} | schedule),
        validate=lambda _: {"mean_iou": next(scores)},
        last=Checkpoint(tmp_path / "last"),
        best=Checkpoint(tmp_path / "best"),
        headline=HEADLINE,
        observer=seen.observer,
        stop=stop or StopRequest(),
        progress=progress,
    )
    return state, progress, seen


def test_the_best_and_the_last_are_kept(tmp_path):
    state, progress, seen = run(tmp_path, start(), [0.1, 0.5, 0.4, math.nan])
    assert int(state.step) == 12
    assert progress == Progress(
        best_score=0.5, best_step=6, epochs_without_improvement=2, validated_step=12
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
        return skip_nonfinite(add)(state, batch, key)

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


def spoilt(*steps):
    """A step whose loss or gradient or result is not finite at these steps."""

    def step(state, batch, key):
        new, logs = add(state, batch, key)
        if int(state.step) + 1 in steps:
            fault = steps.index(int(state.step) + 1) % 3
            logs |= ({"loss": jnp.nan}, {"gradient_norm": jnp.inf}, {})[fault]
            new = new.replace(params={"w": jnp.array([jnp.nan if fault == 2 else 7.0, 1.0])})
        return new, logs

    return skip_nonfinite(step)


def test_updates_that_are_not_finite_are_skipped_and_counted(tmp_path):
    state, _, seen = run(tmp_path, start(), itertools.repeat(0.5), step=spoilt(2, 3, 7))
    left = sum(range(1, 13)) - 2 - 3 - 7
    chex.assert_trees_all_equal(state.params, {"w": jnp.full(2, float(left))})
    assert state.skipped.tolist() == [3, 0]
    assert seen.skips == [(2, ["2.png"]), (3, ["3.png"]), (7, ["7.png"])]
    assert [step for step, _ in seen.train] == [2, 3, 4, 6, 8, 9, 10, 12]


@pytest.mark.parametrize("log_every", [1, 50])
def test_too_many_in_a_row_end_the_run_and_name_the_batches(tmp_path, log_every):
    options = {"max_skipped": 3, "log_every": log_every, "steps_per_epoch": 20, "epochs": 1}
    with pytest.raises(InputError, match=r"3 times in a row, up to step 7: lower.*") as caught:
        run(tmp_path, start(), [], step=spoilt(2, 5, 6, 7, 8, 9), **options)
    assert "\n  step 5: 5.png\n  step 6: 6.png\n  step 7: 7.png\nThe state" in str(caught.value)
    state, values = Checkpoint(tmp_path / "last").restore(start())
    assert jnp.isfinite(state.params["w"]).all()
    options["max_skipped"] = 10  # once the images are mended
    state, _, _ = run(
        tmp_path, state, [0.5], progress=Progress(**values), first=1.0 + int(state.step), **options
    )
    assert int(state.step) == 20
    assert state.skipped.tolist()[1] == 0


@pytest.mark.parametrize("kind", [InputError, RuntimeError])
def test_an_image_that_cannot_be_read_costs_no_step(tmp_path, kind):
    def batches():
        yield from itertools.islice(numbers(1.0), 4)
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
        pytest.fail("the validation went on")
        yield

    def validate():
        stop.requested = True
        evaluate_batches(start(), None, batches(), task=Semantic(2), parallel=Parallel(), stop=stop)
        yield

    state, progress, _ = run(tmp_path, start(), validate(), stop=stop)
    assert (int(state.step), progress.validated_step) == (3, 0)
    assert Checkpoint(tmp_path / "last").step == 3


def test_a_headline_that_is_an_error_prefers_low_scores():
    rmse = Headline("rmse", "RMSE", higher_is_better=False)
    progress = Progress().after(3, 0.5, rmse).after(6, 0.7, rmse).after(9, 0.4, rmse)
    assert progress == Progress(0.4, 9, 0, 9)
    assert Progress().after(3, math.nan, rmse).after(6, 0.7, rmse) == Progress(0.7, 6, 0, 6)
