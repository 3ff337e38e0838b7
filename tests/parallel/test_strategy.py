"""Every strategy computes the numbers of one device, donates what it is told to, and compiles once."""

import functools
import warnings

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec

from jaxseg import collective, compiler, train
from jaxseg.errors import InputError
from jaxseg.parallel import fully_sharded
from jaxseg.parallel.strategy import Parallel
from jaxseg.tasks import Semantic

STRATEGIES = ["jit", "pmap", "shard_map"]


def trained(parallel, model, variables, optimizer, loss_fn, batch, steps=3, **options):
    """Returns the state, logs and totals after a few steps and two evaluations, on the host."""
    state = parallel.replicate(train.create_state(variables, optimizer))
    step = parallel.compile(train.make_train_step(model, optimizer, loss_fn, **options))
    evaluate = parallel.compile(train.make_eval_step(model, Semantic(3), loss_fn), donate=(2,))
    for _ in range(steps):
        state, logs = step(state, parallel.shard(batch), jax.random.key(1))
    totals = parallel.replicate(Semantic(3).zero())
    for _ in range(2):
        totals, _ = evaluate(state, parallel.shard(batch), totals)
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
    """A network, its variables, and the result of training it on one device."""
    with jax.enable_x64(True):
        model = conv_net(jnp.float64)
        variables = jax.jit(model.init)(jax.random.key(0), batch["image"])
        single = Parallel("jit", jax.devices()[:1])
        return model, variables, trained(single, model, variables, optimizer, loss_fn, batch)


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
@pytest.mark.sample(2)
def test_strategy_equals_one_device(one_device, optimizer, loss_fn, batch, strategy, devices):
    model, variables, expected = one_device
    with jax.enable_x64(True):
        parallel = Parallel(strategy, jax.devices()[:devices])
        got = trained(parallel, model, variables, optimizer, loss_fn, batch)
    assert_equal(got, expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("micro_batches", [1, 2])
@pytest.mark.sample(2)
def test_dropout_masks_depend_on_neither_devices_nor_micro_batches(
    plain_net, optimizer, loss_fn, batch, strategy, micro_batches
):
    model = plain_net(rate=0.5)
    batch = batch | {"image": batch["image"] + 1}
    with jax.enable_x64(True):
        variables = model.init(jax.random.key(0), jnp.float32(batch["image"]))
        variables = jax.tree.map(jnp.float64, variables)
        single = Parallel("jit", jax.devices()[:1])
        several = Parallel(strategy, jax.devices()[:4])
        expected = trained(single, model, variables, optimizer, loss_fn, batch)
        got = trained(
            several,
            model,
            variables,
            optimizer,
            loss_fn,
            batch,
            micro_batches=micro_batches,
            remat=train.save_convolutions if micro_batches > 1 else None,
        )
        undropped = trained(single, plain_net(), variables, optimizer, loss_fn, batch)
    assert_equal(got, expected)
    assert abs(expected["logs"]["loss"] - undropped["logs"]["loss"]) > 1e-3


def test_reference_changes_every_parameter(one_device):
    """Otherwise the equality above would prove nothing."""
    _, variables, expected = one_device
    state = expected["state"]
    for old, new in zip(jax.tree.leaves(variables), jax.tree.leaves(state.variables), strict=True):
        assert np.abs(np.asarray(old) - new).max() > 1e-3
    assert expected["counts"].sum() == 2 * (4 * 30 - 20 - 6)


@pytest.mark.slow
def test_flax_batch_norm_equals_one_device(conv_net, optimizer, loss_fn, batch):
    """In float32, the only dtype of Flax's running statistics; with local moments the results differ by 0.1."""
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
    """A function that trains U-Net in float64 on a batch of which one half is ignored, and its result on one device."""
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
def test_unet_equals_one_device(strategy, unet_on_one_device):
    run, expected = unet_on_one_device
    with jax.enable_x64(True):
        assert_equal(run(Parallel(strategy, jax.devices()[:2])), expected)


@pytest.mark.parametrize("strategy", STRATEGIES)
class TestCompile:
    def test_donates_only_the_state_by_default(self, strategy):
        parallel = Parallel(strategy, jax.devices()[:2])
        original = {"a": jnp.arange(3.0)}
        state, batch = (
            parallel.replicate(original),
            parallel.shard({"image": np.ones((4, 3), np.float32)}),
        )
        step = parallel.compile(lambda state, batch: jax.tree.map(lambda x: x + 1, state))
        new = step(state, batch)
        assert state["a"].is_deleted()
        assert not batch["image"].is_deleted()
        assert original["a"].tolist() == [0, 1, 2]
        assert new["a"].tolist() == [1, 2, 3]

    def test_donates_the_given_arguments(self, strategy):
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


def test_shard_splits_the_first_axis():
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


def test_shard_drops_entries_that_are_no_arrays():
    batch = {
        "image": np.ones((2, 3)),
        "name": ["a", "b"],
        "size": [(1, 2), (3, 4)],
        "path": np.array(["a", "b"]),
        "mask": np.ones(2, bool),
    }
    assert sorted(Parallel("jit", jax.devices()[:1]).shard(batch)) == ["image", "mask"]


def test_shard_accepts_arrays_on_a_device():
    parallel = Parallel("pmap", jax.devices()[:2])
    sharded = parallel.shard({"image": jnp.ones((4, 2))})
    assert sharded["image"].shape == (2, 2, 2)
    assert Parallel("jit", jax.devices()[:2]).shard({"image": jnp.ones((4, 2))})["image"].shape == (
        4,
        2,
    )


def test_invalid_arguments_raise_input_errors():
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


def test_devices_default_to_all():
    assert Parallel().devices == tuple(jax.devices())


class TestCompilerOptions:
    @pytest.fixture(autouse=True)
    def clear_cache(self):
        compiler.options.cache_clear()
        yield
        compiler.options.cache_clear()

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_unknown_options_are_omitted(self, strategy, monkeypatch):
        monkeypatch.setattr(compiler, "_CPU_OPTIONS", {"xla_no_such_option": ""})
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            parallel = Parallel(strategy, jax.devices()[:2])
            double = parallel.compile(lambda state, batch: 2 * state)
            batch = parallel.shard({"image": np.ones(2, np.float32)})
            assert double(parallel.replicate(jnp.float32(2)), batch) == 4
        assert compiler.options("cpu") is None

    @pytest.mark.parametrize("strategy", STRATEGIES)
    def test_options_reach_the_compiler(self, strategy, monkeypatch):
        """An unknown option raises once the check of options is bypassed."""
        monkeypatch.setattr(compiler, "options", lambda platform: {"xla_no_such_option": ""})
        parallel = Parallel(strategy, jax.devices()[:2])
        double = parallel.compile(lambda state, batch: 2 * state)
        batch = parallel.shard({"image": np.ones(2, np.float32)})
        with pytest.raises(jax.errors.JaxRuntimeError, match="xla_no_such_option"):
            double(parallel.replicate(jnp.float32(2)), batch)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_put_replicates_and_is_never_donated(strategy):
    parallel = Parallel(strategy, jax.devices()[:2])
    table = np.arange(6.0, dtype=np.float32)
    constants = parallel.put({"table": table})
    assert constants["table"].sharding.is_fully_replicated
    step = parallel.compile(
        lambda state, batch, tree: state + collective.psum(tree["table"][batch["i"]].sum())
    )
    state = parallel.replicate(jnp.float32(0))
    for _ in range(2):
        state = step(state, parallel.shard({"i": np.array([1, 5])}), constants)
    assert float(state) == 12
    np.testing.assert_array_equal(table, np.arange(6))


def test_replicate_with_donate_does_not_copy():
    """On one device the result shares the argument's memory; on several it is sharded as a copy would be."""

    def state():
        return {"w": jnp.ones((16, 4)), "step": jnp.zeros((), jnp.int32)}

    one, original = Parallel("jit", jax.devices()[:1]), state()
    donated = one.replicate(original, donate=True)
    pointer = original["w"].unsafe_buffer_pointer()
    assert donated["w"].unsafe_buffer_pointer() == pointer
    assert one.replicate(original)["w"].unsafe_buffer_pointer() != pointer
    step = one.compile(lambda state, batch: jax.tree.map(lambda x: x + 1, state))
    after = step(donated, one.shard({"image": np.ones((2, 2), np.float32)}))
    assert float(after["w"].sum()) == 128
    assert original["w"].is_deleted()
    for several in (Parallel("jit"), Parallel("jit", sharding_rule=fully_sharded(min_size=1))):
        copied, donated = several.replicate(state()), several.replicate(state(), donate=True)
        for a, b in zip(jax.tree.leaves(copied), jax.tree.leaves(donated), strict=True):
            assert a.sharding == b.sharding
            np.testing.assert_array_equal(a, b)
