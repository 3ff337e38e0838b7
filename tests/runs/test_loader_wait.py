"""The loader wait is the time without a running step: it counts a slow loader, not a slow step."""

import itertools
import threading
import time

import jax
import jax.numpy as jnp
import optax
import pytest

from jaxseg.runs.checkpoint import Checkpoint
from jaxseg.runs.loader_wait import LoaderWait
from jaxseg.runs.loop import Schedule, fit
from jaxseg.runs.observer import Observer
from jaxseg.runs.stop import StopRequest
from jaxseg.tasks import Headline
from jaxseg.train.skip_nonfinite import skip_nonfinite
from jaxseg.train.state import create_state

STEPS, LOG_EVERY = 6, 2


class Running:
    """Results of a step that ends when `end` is called."""

    def __init__(self):
        self._ended = threading.Event()

    def end(self):
        self._ended.set()

    def is_ready(self):
        return self._ended.is_set()

    def block_until_ready(self):
        self._ended.wait(60)
        return self


def batches(seconds, *, then=lambda: None):
    for number in itertools.count():
        time.sleep(seconds)
        then()
        yield {"number": float(number)}


def loader_waits(tmp_path, seconds):
    """Returns the waits that `fit` reports every two steps, for a loader that takes `seconds` for a batch."""

    def step(state, batch, key):
        loss = jnp.float32(batch["number"])
        return state.replace(step=state.step + 1), {"loss": loss, "gradient_norm": loss}

    waits = []
    fit(
        create_state({"params": {"w": jnp.zeros(2)}}, optax.identity()),
        skip_nonfinite(step),
        batches(seconds),
        key=jax.random.key(0),
        schedule=Schedule(steps_per_epoch=STEPS, epochs=1, log_every=LOG_EVERY),
        validate=lambda _: {"mean_iou": 0.5},
        last=Checkpoint(tmp_path / "last"),
        best=Checkpoint(tmp_path / "best"),
        headline=Headline("mean_iou", "mIoU"),
        observer=Observer(on_train=lambda step, logs: waits.append(logs["loader_wait_seconds"])),
        stop=StopRequest(),
    )
    return waits


def test_slow_loader_is_reported_in_each_interval(tmp_path):
    waits = loader_waits(tmp_path, 0.1)
    assert len(waits) == STEPS // LOG_EVERY
    assert min(waits) > 0.8 * LOG_EVERY * 0.1  # short steps cover a small part


def test_fast_loader_has_no_wait(tmp_path):
    assert max(loader_waits(tmp_path, 0.0)) < 0.4 * LOG_EVERY * 0.1


def test_wait_during_a_step_does_not_count():
    wait = LoaderWait()
    wait.step_dispatched({"loss": Running()})
    wait.next(batches(0.1))
    assert wait.pop_seconds() == 0.0


def test_wait_without_a_running_step_counts():
    wait, done = LoaderWait(), Running()
    done.end()
    slow = batches(0.1)
    wait.next(slow)
    wait.step_dispatched({"loss": done})
    wait.next(slow)
    assert wait.pop_seconds() >= 0.2
    assert wait.pop_seconds() == 0.0


def test_wait_counts_from_the_end_of_the_step():
    """The step ends 0.3 seconds into a wait of half a second."""
    wait, running = LoaderWait(), Running()
    wait.step_dispatched({"loss": running, "learning_rate": 0.1})

    def loader():
        time.sleep(0.3)
        running.end()
        time.sleep(0.2)
        yield "batch"

    assert wait.next(loader()) == "batch"
    assert 0.1 < wait.pop_seconds() < 0.4


def test_wait_counts_after_all_dispatched_steps():
    """With two steps in flight nothing counts until both have ended."""
    wait, first, second = LoaderWait(), Running(), Running()
    wait.step_dispatched(first)
    wait.next(batches(0.0))
    wait.step_dispatched(second)
    wait.next(batches(0.05, then=first.end))
    assert wait.pop_seconds() == 0.0
    second.end()
    wait.next(batches(0.05))
    assert wait.pop_seconds() >= 0.05


def test_errors_of_the_loader_are_raised():
    def broken():
        raise ValueError("x.png does not decode")
        yield

    with pytest.raises(ValueError, match="does not decode"):
        LoaderWait().next(broken())
