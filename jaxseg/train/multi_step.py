"""Several steps in one call, on batches that are made on the device."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.train.state import TrainState
from jaxseg.typing import Feed, Key, Logs, MultiStep, Step


def make_multi_step(step: Step, feed: Feed, parallel: Any) -> MultiStep:
    """Returns a function that runs one step for each column of a schedule, on batches made on the device.

    On GPUs and TPUs the steps are one compiled program, a `lax.scan`. On CPUs, where a convolution in a loop is about fifty
    times slower, Python calls one compiled step after the other. The results are the same, for every strategy and number of
    devices.

    Args:
        step: A train step, from `make_train_step` or `skip_nonfinite`.
        feed: A pure function `(dataset, schedule, key) -> batch`, from `data.make_feed`.
        parallel: The strategy, a `jaxseg.parallel.Parallel`.

    Returns:
        `run(state, schedule, dataset, key) -> (state, logs)`. The state comes from `parallel.replicate` and is donated. The
        schedule holds arrays `[N, steps]`, from `data.make_sampler`. The data set comes from `parallel.put`, sharded where its
        attribute `is_sharded` is true. Every entry of the logs has a first axis of steps.
    """
    return (loop_steps if loops_on_host(parallel) else scan_steps)(step, feed, parallel)


def loops_on_host(parallel: Any) -> bool:
    """Whether the devices are CPUs, for which `make_multi_step` loops over steps in Python."""
    return parallel.devices[0].platform == "cpu"


def scan_steps(step: Step, feed: Feed, parallel: Any) -> MultiStep:
    """Returns the form of `make_multi_step` that is one program."""

    def program(
        state: TrainState, schedule: Any, dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        def one_step(state: TrainState, schedule: Any) -> tuple[TrainState, Logs]:
            return step(state, feed(dataset, schedule, key), key)

        by_step = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), schedule)
        return jax.lax.scan(one_step, state, by_step)

    compiled = _compile(program, parallel)

    def run(
        state: TrainState, schedule: Mapping[str, Any], dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        return compiled(state, parallel.shard(schedule), dataset, key)

    return run


def loop_steps(step: Step, feed: Feed, parallel: Any) -> MultiStep:
    """Returns the form of `make_multi_step` that calls one step after the other."""

    def program(
        state: TrainState, schedule: Any, dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        return step(state, feed(dataset, schedule, key), key)

    compiled = _compile(program, parallel)

    def run(
        state: TrainState, schedule: Mapping[str, Any], dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        rows = []
        for index in range(next(iter(schedule.values())).shape[1]):
            column = {name: array[:, index] for name, array in schedule.items()}
            state, logs = compiled(state, parallel.shard(column), dataset, key)
            rows.append(logs)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return run


def _compile(program: Callable[..., Any], parallel: Any) -> Callable[..., Any]:
    """Compiles a program for replicated and for sharded data sets."""
    for_replicated = parallel.compile(program)
    for_sharded = parallel.compile(program, sharded=(1, 2))

    def call(state: TrainState, schedule: Any, dataset: Any, key: Key) -> Any:
        is_sharded = getattr(dataset, "is_sharded", False)
        return (for_sharded if is_sharded else for_replicated)(state, schedule, dataset, key)

    return call


def make_epoch(
    run: MultiStep,
    sampler: Callable[[Key, int, int], Mapping[str, Any]],
    *,
    steps: int,
) -> Callable[[TrainState, Any, Key], tuple[TrainState, Logs]]:
    """Returns a function that trains from the step of a state to the end of the epoch.

    Args:
        run: A function from `make_multi_step`.
        sampler: `sampler(key, start, steps) -> schedule`, from `data.make_sampler`.
        steps: The number of steps of an epoch, such as `len(dataset) // batch_size`. Images that are left over are the first
            of the next epoch.

    Returns:
        `epoch(state, dataset, key) -> (state, logs)`, with the logs of the steps that it ran. A state that was saved during an
        epoch continues in it, with the results of an uninterrupted run.

    >>> import optax
    >>> from jaxseg import data, train
    >>> from jaxseg.parallel import Parallel
    >>> def step(state, batch, key):
    ...     return state.replace(step=state.step + 1), {"brightest": batch["image"].max()}
    >>> parallel = Parallel("jit", jax.devices()[:2])
    >>> feed = data.make_feed(data.device.augment.random_view((32, 32), scale=(0.5, 2.0)))
    >>> run = make_multi_step(step, feed, parallel)
    >>> epoch = make_epoch(run, data.make_sampler(20, 8), steps=20 // 8)
    >>> dataset = parallel.put(data.load(data.Shapes(20, (32, 32))).dataset)
    >>> state = parallel.replicate(train.create_state({"params": {}}, optax.identity()))
    >>> state, logs = epoch(state, dataset, jax.random.key(1))
    >>> int(state.step), logs["brightest"].shape
    (2, (2,))
    """

    def epoch(state: TrainState, dataset: Any, key: Key) -> tuple[TrainState, Logs]:
        start = int(state.step)
        return run(state, sampler(key, start, steps - start % steps), dataset, key)

    return epoch
