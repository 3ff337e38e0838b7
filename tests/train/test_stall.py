"""The stall is what steps have waited for the loader: a slow one shows, a fast one and a slow step do not."""

import itertools
import threading
import time

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxseg.train.checkpoint import Checkpoint
from jaxseg.train.finite import skip_nonfinite
from jaxseg.train.loop import Schedule, fit
from jaxseg.train.stall import Stall
from jaxseg.train.state import create_state
from jaxseg.train.stop import StopRequest

STEPS, LOG_EVERY = 6, 2


class Running:
    """Results of a step that ends when it is told to."""

    def __init__(self):
        self._ended = threading.Event()

    def end(self):
        self._ended.set()

    def is_ready(self):
        return self._ended.is_set()

    def block_until_ready(self):
        self._ended.wait(60)
        return self


class Log:
    """An observer that keeps what it is told every few steps."""

    def __init__(self):
        self.logs = []

    def on_step(self, step):
        pass

    def on_train(self, step, logs):
        self.logs.append(logs)

    def on_validation(self, step, scores, best):
        pass


def batches(seconds, *, then=lambda: None):
    for number in itertools.count():
        time.sleep(seconds)
        then()
        yield {"number": float(number)}


def stalls(tmp_path, seconds):
    """What `fit` reports every two steps, with a loader that takes so long for a batch."""

    def step(state, batch, key):
        loss = jnp.float32(batch["number"])
        return state.replace(step=state.step + 1), {"loss": loss, "gradient_norm": loss}

    log = Log()
    fit(
        create_state({"params": {"w": jnp.zeros(2)}}, optax.identity()),
        skip_nonfinite(step),
        batches(seconds),
        key=jax.random.key(0),
        schedule=Schedule(steps_per_epoch=STEPS, epochs=1, log_every=LOG_EVERY),
        validate=lambda _: {"mean_iou": 0.5},
        last=Checkpoint(tmp_path / "last"),
        best=Checkpoint(tmp_path / "best"),
        observer=log,
        stop=StopRequest(),
    )
    return [logs["stall_seconds"] for logs in log.logs]


def test_a_slow_loader_is_told_of_in_each_interval(tmp_path):
    told = stalls(tmp_path, 0.1)
    assert len(told) == STEPS // LOG_EVERY
    assert min(told) > 0.8 * LOG_EVERY * 0.1  # the steps, which are short, cover a little of it


def test_a_fast_loader_is_not(tmp_path):
    assert max(stalls(tmp_path, 0.0)) < 0.4 * LOG_EVERY * 0.1


def test_a_wait_while_a_step_is_running_is_no_stall():
    stall = Stall()
    stall.started({"loss": Running()})
    stall.next(batches(0.1))
    assert stall.take() == 0.0


def test_all_of_a_wait_counts_where_no_step_is_running():
    stall, done = Stall(), Running()
    done.end()
    slow = batches(0.1)
    stall.next(slow)
    stall.started({"loss": done})
    stall.next(slow)
    assert stall.take() >= 0.2
    assert stall.take() == 0.0


def test_what_counts_begins_where_the_step_ends():
    """The step ends 0.3 seconds into a wait of half a second."""
    stall, running = Stall(), Running()
    stall.started({"loss": running, "learning_rate": 0.1})

    def loader():
        time.sleep(0.3)
        running.end()
        time.sleep(0.2)
        yield "batch"

    assert stall.next(loader()) == "batch"
    assert 0.1 < stall.take() < 0.4


def test_steps_that_wait_for_each_other_are_waited_for_in_turn():
    """Two in flight: until both have ended nothing counts."""
    stall, first, second = Stall(), Running(), Running()
    stall.started(first)
    stall.next(batches(0.0))
    stall.started(second)
    stall.next(batches(0.05, then=first.end))
    assert stall.take() == 0.0
    second.end()
    stall.next(batches(0.05))
    assert stall.take() >= 0.05


def test_what_the_loader_raises_is_handed_on():
    def broken():
        raise ValueError("x.png does not decode")
        yield

    with pytest.raises(ValueError, match="does not decode"):
        Stall().next(broken())
