import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxseg import collective, compiler, train
from jaxseg.errors import InputError
from jaxseg.train.parallel import Parallel

STRATEGIES = ["jit", "pmap", "shard_map"]


def trained(parallel, model, variables, optimizer, loss_fn, batch, steps=3, **options):
    """Everything that a few steps and two evaluations leave behind, on the host."""
    state = parallel.replicate(train.create_state(variables, optimizer))
    step = parallel.compile(train.make_train_step(model, optimizer, loss_fn, **options))
    evaluate = parallel.compile(train.make_eval_step(model, loss_fn), donate=(2,))
    for _ in range(steps):
        state, logs = step(state, parallel.shard(batch), jax.random.key(1))
    totals = parallel.replicate(train.EvalTotals.zero(3))
    for _ in range(2):
        totals = evaluate(state, parallel.shard(batch), totals)
    for leaf in jax.tree.leaves((state, logs, totals)):
        assert leaf.sharding.is_fully_replicated
        assert leaf.sharding.device_set == set(parallel.devices)
    counts, loss = totals.counts.to_numpy(), totals.loss
    return jax.tree.map(np.asarray, {"state": state, "logs": logs, "counts": counts, "loss": loss})


def assert_equal(got, expected, atol=1e-9):
    jax.tree.map(functools.partial(np.testing.assert_allclose, rtol=0, atol=atol), got, expected)
    np.testing.assert_array_equal(got["counts"], expected["counts"])


@pytest.fixture(scope="module")
def one_device(conv_net, optimizer, loss_fn, batch):
    """A network, its variables, and what training it on one device gives."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
        alone = Parallel("jit", jax.devices()[:1])
        return model, variables, trained(alone, model, variables, optimizer, loss_fn, batch)


@pytest.mark.parametrize(
    ("strategy", "devices"),
    [
        ("jit", 2),
        ("jit", 4),
        ("pmap", 2),
        ("pmap", 4),
        ("shard_map", 2),
        pytest.param("pmap", 1, marks=pytest.mark.slow),
        pytest.param("shard_map", 1, marks=pytest.mark.slow),
        pytest.param("shard_map", 4, marks=pytest.mark.slow),
    ],
)
def test_every_strategy_equals_one_device(one_device, optimizer, loss_fn, batch, strategy, devices):
    model, variables, expected = one_device
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:devices])
        got = trained(parallel, model, variables, optimizer, loss_fn, batch)
    assert_equal(got, expected)


def test_the_reference_moves_everything(one_device):
    """Otherwise the equality above would say nothing."""
    _, variables, expected = one_device
    state = expected["state"]
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(state.variables), strict=True):
        assert np.abs(np.asarray(old) - new).max() > 1e-3
    assert expected["counts"].sum() == 2 * (4 * 30 - 20 - 6)


def test_models_with_flaxs_own_batch_norm_are_equal_too(conv_net, optimizer, loss_fn, batch):
    """In float32, which is all that Flax's running statistics have; local moments are 0.1 away."""
    batch = batch | {"image": batch["image"].astype(np.float32)}
    model = conv_net(flax_norm=True)
    variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
    results = []
    for strategy, devices in (("jit", 1), ("pmap", 2)):
        parallel = Parallel(strategy, jax.devices()[:devices])
        step = parallel.compile(train.make_train_step(model, optimizer, loss_fn))
        state = parallel.replicate(train.create_state(variables, optimizer))
        for _ in range(2):
            state, logs = step(state, parallel.shard(batch), jax.random.key(1))
        results.append(jax.tree.map(np.asarray, (state, logs)))
    close = functools.partial(np.testing.assert_allclose, rtol=0, atol=1e-4)
    jax.tree.map(close, *results)


@pytest.fixture(scope="module")
def unet_on_one_device(optimizer, loss_fn):
    """How to train U-Net in float64, of a batch of which one half is ignored, and what one device gives."""
    import jaxseg

    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, (4, 32, 40)).astype(np.uint8)
    labels[2:] = 255
    batch = {"image": rng.normal(size=(4, 32, 40, 3)), "label": labels}
    with jax.enable_x64(True):
        wide = {"dtype": jnp.float64, "param_dtype": jnp.float64}
        encoder = jaxseg.encoders.create("resnet18", **wide)
        model = jaxseg.create("unet", encoder=encoder, num_classes=3, **wide)
        variables = jax.jit(model.init)(jax.random.key(0), batch["image"][:1])
        run = functools.partial(
            trained,
            model=model,
            variables=variables,
            optimizer=optimizer,
            loss_fn=loss_fn,
            batch=batch,
            steps=2,
        )
        return run, run(Parallel("jit", jax.devices()[:1]))


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_whole_unet_equals_one_device(strategy, unet_on_one_device):
    run, expected = unet_on_one_device
    with jax.enable_x64(True):
        assert_equal(run(Parallel(strategy, jax.devices()[:2])), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestCompile:
    def test_donates_the_state_and_nothing_else(self, strategy):
        parallel = Parallel(strategy, jax.devices()[:2])
        mine = {"a": jnp.arange(3.0)}
        state, batch = (
            parallel.replicate(mine),
            parallel.shard({"image": np.ones((4, 3), np.float32)}),
        )
        step = parallel.compile(lambda state, batch: jax.tree.map(lambda x: x + 1, state))
        new = step(state, batch)
        assert state["a"].is_deleted()
        assert not batch["image"].is_deleted()
        assert mine["a"].tolist() == [0, 1, 2]
        assert new["a"].tolist() == [1, 2, 3]

    def test_keeps_the_state_when_told_so(self, strategy):
        parallel = Parallel(strategy, jax.devices()[:2])
        state, total = parallel.replicate(jnp.float32(1)), parallel.replicate(jnp.float32(0))
        batch = parallel.shard({"image": np.ones((4,), np.float32)})
        add = parallel.compile(
            lambda state, batch, total: total + state * collective.psum(batch["image"].sum()),
            donate=(2,),
        )
        new = add(state, batch, total)
        assert not state.is_deleted()
        assert total.is_deleted()
        assert new == 4

    def test_compiles_once(self, strategy):
        traces = []

        def step(state, batch, key):
            traces.append(key)
            return state + collective.psum(batch["image"].sum())

        parallel = Parallel(strategy, jax.devices()[:2])
        step = parallel.compile(step)
        state = parallel.replicate(jnp.float32(0))
        for value in range(3):
            batch = {"image": np.full((4, 2), value, np.float32)}
            state = step(state, parallel.shard(batch), jax.random.key(value))
        assert state == 8 * 3
        assert len(traces) == 1

    def test_each_device_has_keys_of_its_own_where_it_runs_alone(self, strategy):
        def draw(state, batch, key):
            number = jax.random.uniform(collective.fold_in_device(key))
            return jax.lax.all_gather(number, "data") if collective.is_bound() else number[None]

        parallel = Parallel(strategy, jax.devices()[:2])
        batch = parallel.shard({"image": np.ones((2, 1), np.float32)})
        numbers = parallel.compile(draw)(
            parallel.replicate(jnp.float32(0)), batch, jax.random.key(0)
        )
        assert len(set(numbers.tolist())) == (1 if strategy == "jit" else 2)


def test_shard_gives_each_device_its_part():
    batch = {
        "image": np.arange(8.0, dtype=np.float32).reshape(4, 2),
        "label": np.arange(4, dtype=np.uint8),
    }
    devices = jax.devices()[:2]
    sharded = Parallel("jit", devices).shard(batch)
    assert sharded["image"].sharding.spec == PartitionSpec("data")
    assert [s.data.tolist() for s in sharded["label"].addressable_shards] == [[0, 1], [2, 3]]
    sharded = Parallel("pmap", devices).shard(batch)
    assert sharded["image"].shape == (2, 2, 2)
    assert sharded["label"].dtype == jnp.uint8


def test_shard_leaves_behind_what_is_no_array():
    batch = {
        "image": np.ones((2, 3)),
        "name": ["a", "b"],
        "size": [(1, 2), (3, 4)],
        "path": np.array(["a", "b"]),
        "mask": np.ones(2, bool),
    }
    assert sorted(Parallel("jit", jax.devices()[:1]).shard(batch)) == ["image", "mask"]


def test_shard_takes_what_is_on_a_device_already():
    parallel = Parallel("pmap", jax.devices()[:2])
    sharded = parallel.shard({"image": jnp.ones((4, 2))})
    assert sharded["image"].shape == (2, 2, 2)
    assert Parallel("jit", jax.devices()[:2]).shard({"image": jnp.ones((4, 2))})["image"].shape == (
        4,
        2,
    )


def test_bad_input_is_named():
    with pytest.raises(InputError, match="unknown strategy 'pmapp'; did you mean 'pmap'"):
        Parallel("pmapp")
    with pytest.raises(InputError, match="no devices"):
        Parallel("jit", [])
    parallel = Parallel("jit", jax.devices()[:4])
    with pytest.raises(InputError, match="batch of 6 cannot be divided over 4 devices"):
        parallel.shard({"image": np.ones((6, 2))})
    with pytest.raises(InputError, match="'image': 4, 'label': 8"):
        parallel.shard({"image": np.ones((4, 2)), "label": np.ones(8)})
    with pytest.raises(InputError, match="none"):
        parallel.shard({"name": ["a"]})


def test_the_devices_are_all_of_them_by_default():
    assert Parallel().devices == tuple(jax.devices())


class TestCompilerOptions:
    @pytest.fixture(autouse=True)
    def forget(self):
        compiler.options.cache_clear()
        yield
        compiler.options.cache_clear()

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_are_left_out_where_xla_does_not_know_them(self, strategy, monkeypatch):
        monkeypatch.setattr(compiler, "_CPU_OPTIONS", {"xla_no_such_option": ""})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parallel = Parallel(strategy, jax.devices()[:2])
            double = parallel.compile(lambda state, batch: 2 * state)
            batch = parallel.shard({"image": np.ones(2, np.float32)})
            assert double(parallel.replicate(jnp.float32(2)), batch) == 4
        assert compiler.options("cpu") is None

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_reach_the_compiler(self, strategy, monkeypatch):
        """Seen by one that is refused, once the check is past."""
        monkeypatch.setattr(compiler, "options", lambda platform: {"xla_no_such_option": ""})
        parallel = Parallel(strategy, jax.devices()[:2])
        double = parallel.compile(lambda state, batch: 2 * state)
        batch = parallel.shard({"image": np.ones(2, np.float32)})
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
            double(parallel.replicate(jnp.float32(2)), batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_is_kept_is_whole_everywhere_and_outlives_the_steps_that_read_it(strategy):
    parallel = Parallel(strategy, jax.devices()[:2])
    table = np.arange(6.0, dtype=np.float32)
    kept = parallel.keep({"table": table})
    assert kept["table"].sharding.is_fully_replicated
    step = parallel.compile(
        lambda state, batch, kept: state + collective.psum(kept["table"][batch["i"]].sum())
    )
    state = parallel.replicate(jnp.float32(0))
    for _ in range(2):
        state = step(state, parallel.shard({"i": np.array([1, 5])}), kept)
    assert float(state) == 12
    np.testing.assert_array_equal(table, np.arange(6))


def test_a_state_that_is_taken_is_not_copied_and_may_be_given_away():
    """On one device it stays where it is; on several it is spread, or cut, as a copy would be."""

    def state():
        return {"w": jnp.ones((16, 4)), "step": jnp.zeros((), jnp.int32)}

    one, mine = Parallel("jit", jax.devices()[:1]), state()
    taken = one.take(mine)
    place = mine["w"].unsafe_buffer_pointer()
    assert taken["w"].unsafe_buffer_pointer() == place
    assert one.replicate(mine)["w"].unsafe_buffer_pointer() != place
    step = one.compile(lambda state, batch: jax.tree.map(lambda x: x + 1, state))
    after = step(taken, one.shard({"image": np.ones((2, 2), np.float32)}))
    assert float(after["w"].sum()) == 128
    assert mine["w"].is_deleted()
    for several in (Parallel("jit"), Parallel("jit", layout=train.fully_sharded(minimum=1))):
        copied, taken = several.replicate(state()), several.take(state())
        for a, b in zip(jax.tree.leaves(copied), jax.tree.leaves(taken), strict=True):
            assert a.sharding == b.sharding
            np.testing.assert_array_equal(a, b)
