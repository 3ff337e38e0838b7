"""What devices say to each other in a train step, read from the compiled program: on fake CPU devices and for TPUs."""

import math
from collections import Counter

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, max_pool
from jaxseg.train.layout import fully_sharded
from jaxseg.train.program import Collective, Needs, chip_of, collectives, forecast, needs
from jaxseg.typing import Output

NORMS = 3


class Net(nn.Module):
    """Convolutions with norms, a stride and pooling."""

    @nn.compact
    def __call__(self, images, train=False):
        x = ConvNorm(16, stride=2)(images, train=train)
        x = ConvNorm(16)(max_pool(x, 3, 2, 1), train=train)
        x = ConvNorm(32)(x, train=train)
        x = jnp.repeat(jnp.repeat(x, 4, 1), 4, 2)
        return Output(nn.Conv(3, (1, 1))(x))


def exchanges(devices, images, **options):
    """The exchanges of a step, and the parameters' shapes."""
    shape, optimizer = (images, 64, 64), train.adamw(1e-3)
    batch = {
        "image": jax.ShapeDtypeStruct((*shape, 3), jnp.float32),
        "label": jax.ShapeDtypeStruct(shape, jnp.uint8),
    }
    variables = jax.eval_shape(Net().init, jax.random.key(0), batch["image"])
    state = jax.eval_shape(lambda tree: train.create_state(tree, optimizer), variables)
    loss_fn = losses.make_loss_fn({"cross_entropy": 1.0, "dice": 1.0})
    step = train.make_train_step(Net(), optimizer, loss_fn)
    parallel = train.Parallel("jit", devices, **options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = needs(parallel.lower(step, state, batch, key).compile()).exchanges
    return found, jax.tree.leaves(variables["params"])


def of_gradients(found):
    """Those of kernels, and what the compiler put together with them: all in the backward pass, none of a norm's moments."""
    return [
        each
        for each in found
        if each.kind == "all-reduce" and "transpose(" in each.path and "conv_general" in each.path
    ]


def assert_norms_exchange_at_most_twice_each_way(found):
    reduced = (each for each in found if each.kind == "all-reduce")
    norms = Counter(each.path for each in reduced if "/norm/" in each.path)
    forward = sum(count for path, count in norms.items() if "transpose(" not in path)
    backward = sum(norms.values()) - forward
    assert 0 < forward <= 2 * NORMS
    assert 0 < backward <= 2 * NORMS


def test_data_parallelism_reduces_all_gradients_at_once_and_sums():
    found, params = exchanges(jax.devices(), 8)
    (gradients,) = of_gradients(found)
    kernels = sum(4 * math.prod(leaf.shape) for leaf in params if len(leaf.shape) == 4)
    assert kernels <= gradients.bytes <= kernels + 1024  # biases, and what norms learn
    assert_norms_exchange_at_most_twice_each_way(found)
    rest = [each for each in found if each is not gradients and "/norm/" not in each.path]
    assert max(each.bytes for each in rest) <= 256  # sums of the loss and its counts
    assert {each.kind for each in found} <= {"all-reduce", "all-gather"}


def test_bands_talk_to_their_neighbours():
    found, _ = exchanges(jax.devices()[:4], 1, bands=4)
    convolutions = [each for each in found if "ConvNorm" in each.path or "select_and" in each.path]
    kinds = Counter(each.kind for each in convolutions if each not in of_gradients(found))
    rows = [each for each in found if each.kind == "collective-permute"]
    assert rows
    assert set(kinds) <= {"all-reduce", "collective-permute"}
    assert all(
        "/norm/" in each.path or each in of_gradients(found)
        for each in convolutions
        if each.kind == "all-reduce"
    )
    assert_norms_exchange_at_most_twice_each_way(found)
    assert "all-to-all" not in {each.kind for each in found}


def test_a_cut_state_is_gathered_once():
    found, params = exchanges(jax.devices()[:4], 4, layout=fully_sharded(minimum=1000))
    cut = [4 * math.prod(leaf.shape) for leaf in params if math.prod(leaf.shape) >= 1000]
    gathered = [each.bytes for each in found if each.kind == "all-gather" and each.bytes >= 1000]
    assert sorted(gathered) == sorted(cut)
    assert "all-to-all" not in {each.kind for each in found}


@pytest.mark.slow
def test_a_tpu_reduces_all_gradients_at_once():
    """One exchange of gradients, one of scalars and counts, those of norms, and nothing else; the compiler combines them."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    found, params = exchanges(devices, 8)
    assert {each.kind for each in found} == {"all-reduce"}
    assert_norms_exchange_at_most_twice_each_way(found)
    rest = [each for each in found if "/norm/" not in each.path]
    (gradients,) = (each for each in rest if "transpose(" in each.path)
    assert gradients.bytes >= 4 * sum(
        math.prod(leaf.shape) for leaf in params if len(leaf.shape) > 1
    )
    assert len(rest) <= 2
    assert all(each.bytes <= 4096 for each in rest if each is not gradients)


@pytest.mark.slow
def test_bands_of_tpus_talk_to_their_neighbours():
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    devices = topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices
    found, _ = exchanges(devices, 2, bands=4)
    kinds = {each.kind for each in found if "ConvNorm" in each.path and "/norm/" not in each.path}
    assert "collective-permute" in kinds
    assert kinds <= {"all-reduce", "collective-permute"}  # gradients, and rows


class TestCollectives:
    def test_reads_what_starts_and_what_is_there_at_once(self):
        text = """
  %a = bf16[4,8]{1,0:T(8,128)} all-reduce(%x), to_apply=%sum, metadata={op_name="jit(f)/a"}
  %b = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), metadata={op_name="jit(f)/b"}
  %c = f32[16]{0} all-gather-done(%b)
  %d = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=1
  %e = f32[2]{0} reduce-scatter(%x), dimensions={0}
  %f = f32[3]{0} add(%all-reduce.1, %y)
"""
        assert collectives(text) == [
            Collective("all-reduce", 1, 64, "jit(f)/a"),
            Collective("all-gather", 1, 64, "jit(f)/b"),
            Collective("collective-permute", 1, 32, ""),
            Collective("reduce-scatter", 1, 8, ""),
        ]


class TestForecast:
    def test_adds_exchanges_to_the_larger_of_computing_and_reading(self):
        rows = Collective("collective-permute", 1, 200_000, "")
        need = Needs(1, 2, 197e9, 2 * 819e6, (rows, Collective("all-reduce", 1, 2_000_000, "")))
        times = forecast(need, "v5e:16x16")
        assert need.memory == 3
        assert times.compute == pytest.approx(1e-3)
        assert times.traffic == pytest.approx(2e-3)
        assert times.links == pytest.approx(1e-6 + 20e-6)
        assert times.latency == pytest.approx(1e-6 + 32e-6)
        assert times.step == pytest.approx(2e-3 + 54e-6)
        assert times.efficiency == pytest.approx(2e-3 / times.step)

    def test_bad_input_is_named(self):
        with pytest.raises(InputError, match="unknown chip 'v5'; did you mean"):
            chip_of("v5:2x4")
        with pytest.raises(InputError, match="a chip and a shape, such as v5e:2x4"):
            chip_of("v5e")
