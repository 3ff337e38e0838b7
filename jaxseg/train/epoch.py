"""Many steps as one program: batches are made on the device, and no host stands in the loop."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxseg.train.parallel import Parallel
from jaxseg.train.state import TrainState
from jaxseg.typing import Array, Batch, Key

Logs = dict[str, Any]
Step = Callable[[TrainState, Batch, Key], tuple[TrainState, Logs]]
Feed = Callable[[Any, Mapping[str, Array], Key], Batch]
Run = Callable[[TrainState, Mapping[str, Any], Any, Key], tuple[TrainState, Logs]]


def make_run(step: Step, feed: Feed, parallel: Parallel) -> Run:
    """A function that takes as many steps as it is given places for, each on a batch that it makes on the device.

    On GPUs and TPUs they are one compiled program, a `lax.scan`; on CPUs, where a convolution inside of a loop is some
    fifty times slower, the same step runs from Python. Both give the same numbers, for every strategy and any number of
    devices.

    Args:
        step: As of `make_train_step` or `skip_nonfinite`.
        feed: `(dataset, places, key) -> batch`, pure, as of `data.make_feed`.
        parallel: The devices.

    Returns:
        `run(state, places, dataset, key) -> (state, logs)`. The state comes from `parallel.replicate` and is donated;
        `places` holds arrays `[N, steps]`, as of `data.make_places`; the data set comes from `parallel.keep`, cut where its
        `is_cut` says so. Each entry of the logs has a first axis of steps.
    """
    return (looped if runs_in_python(parallel) else scanned)(step, feed, parallel)


def runs_in_python(parallel: Parallel) -> bool:
    """Whether the devices are CPUs, where loops of convolutions are slow inside of a program."""
    return parallel.devices[0].platform == "cpu"


def scanned(step: Step, feed: Feed, parallel: Parallel) -> Run:
    """The form of `make_run` that is one program."""

    def program(state: TrainState, places: Any, dataset: Any, key: Key) -> tuple[TrainState, Logs]:
        def one(state: TrainState, places: Any) -> tuple[TrainState, Logs]:
            return step(state, feed(dataset, places, key), key)

        by_step = jax.tree.map(lambda array: jnp.swapaxes(array, 0, 1), places)
        return jax.lax.scan(one, state, by_step)

    compiled = _compiled(program, parallel)

    def run(
        state: TrainState, places: Mapping[str, Any], dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        return compiled(state, parallel.shard(places), dataset, key)

    return run


def looped(step: Step, feed: Feed, parallel: Parallel) -> Run:
    """The form of `make_run` that calls one step after the other."""

    def program(state: TrainState, places: Any, dataset: Any, key: Key) -> tuple[TrainState, Logs]:
        return step(state, feed(dataset, places, key), key)

    compiled = _compiled(program, parallel)

    def run(
        state: TrainState, places: Mapping[str, Any], dataset: Any, key: Key
    ) -> tuple[TrainState, Logs]:
        rows = []
        for index in range(next(iter(places.values())).shape[1]):
            mine = {name: array[:, index] for name, array in places.items()}
            state, logs = compiled(state, parallel.shard(mine), dataset, key)
            rows.append(logs)
        return state, jax.tree.map(lambda *leaves: jnp.stack(leaves), *rows)

    return run


def _compiled(program: Callable[..., Any], parallel: Parallel) -> Callable[..., Any]:
    """The program for data sets that are whole on every device, and for those that are cut over them."""
    whole, cut = parallel.compile(program), parallel.compile(program, divided=(1, 2))

    def call(state: TrainState, places: Any, dataset: Any, key: Key) -> Any:
        return (cut if getattr(dataset, "is_cut", False) else whole)(state, places, dataset, key)

    return call


def make_epoch(
    run: Run, places: Callable[[Key, int, int], Mapping[str, Any]], *, steps: int
) -> Callable[[TrainState, Any, Key], tuple[TrainState, Logs]]:
    """A function that trains from wherever a state is to the end of its epoch.

    Args:
        run: As of `make_run`.
        places: `(key, start, steps) -> arrays [N, steps]`, as of `data.make_places`.
        steps: How many steps an epoch has, such as `len(dataset) // batch_size`. The images that are left over begin the
            next epoch.

    Returns:
        `epoch(state, dataset, key) -> (state, logs)`, the logs of the steps that it took. A state that was saved within
        an epoch goes on within it, to what it would have become.

    >>> import optax
    >>> from jaxseg import data, train
    >>> def step(state, batch, key):
    ...     return state.replace(step=state.step + 1), {"brightest": batch["image"].max()}
    >>> parallel = Parallel("jit", jax.devices()[:2])
    >>> feed = data.make_feed(data.device_augment.random_view((32, 32), scale=(0.5, 2.0)))
    >>> epoch = make_epoch(make_run(step, feed, parallel), data.make_places(20, 8), steps=20 // 8)
    >>> dataset = parallel.keep(data.load(data.Shapes(20, (32, 32))).dataset)
    >>> state = parallel.replicate(train.create_state({"params": {}}, optax.identity()))
    >>> state, logs = epoch(state, dataset, jax.random.key(1))
    >>> int(state.step), logs["brightest"].shape
    (2, (2,))
    """

    def epoch(state: TrainState, dataset: Any, key: Key) -> tuple[TrainState, Logs]:
        start = int(state.step)
        return run(state, places(key, start, steps - start % steps), dataset, key)

    return epoch
