"""What devices say to each other in a train step, read from the compiled program: on fake CPU devices and for TPUs."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, bilinear, max_pool
from jaxseg.train.layout import fully_sharded
from jaxseg.train.program import Collective, Needs, chip_of, collectives, forecast, needs
from jaxseg.typing import Output

NORMS = 3
CLASSES = 3
ROWS = 2 * 34 * 16 * 4  # bytes of two rows of the largest map with its padding; a band holds eight


class Net(nn.Module):
    """Convolutions with norms, a stride, pooling and enlarging."""

    @nn.compact
    def __call__(self, images, train=False):
        x = ConvNorm(16, stride=2)(images, train=train)
        x = ConvNorm(16)(max_pool(x, 3, 2, 1), train=train)
        x = ConvNorm(32)(x, train=train)
        x = bilinear(x, (4 * x.shape[1], 4 * x.shape[2]))
        return Output(nn.Conv(CLASSES, (1, 1))(x))


@pytest.fixture(autouse=True)
def _as_on_tpus(monkeypatch):
    """A kernel's gradient for a CPU may be exchanged as that of its blocks, a few zeros more."""
    monkeypatch.setattr("jaxseg.nn.convolution.by_platform", lambda *x, cpu, plain: plain(*x))


def exchanges(devices, images, **options):
    """The exchanges of a step, and the bytes of its parameters but for the norms' scales and shifts.

    Their gradients are sums that the norm exchanges anyway.
    """
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
    norms = [value["norm"] for value in variables["params"].values() if "norm" in value]
    assert len(norms) == NORMS
    return found, size(jax.tree.leaves(variables["params"])) - size(jax.tree.leaves(norms))


def size(arrays):
    """Bytes of float32 arrays."""
    return sum(4 * math.prod(array.shape) for array in arrays)


def sorted_out(found):
    """Exchanges by what they are for: kernels' gradients (and what the compiler adds to those), norms, the loss, rows."""
    sorts = {"gradients": [], "norms": [], "loss": [], "rows": [], "else": []}
    for each in found:
        backward = "transpose(" in each.path
        if each.kind == "collective-permute":
            sorts["rows"].append(each)
        elif each.kind == "all-reduce" and backward and "conv_general" in each.path:
            sorts["gradients"].append(each)
        elif each.kind in ("all-reduce", "all-gather") and "/norm/" in each.path:
            sorts["norms"].append(each)
        elif each.kind in ("all-reduce", "all-gather") and "/jvp()/" in each.path:
            sorts["loss"].append(each)  # outside of the network
        else:
            sorts["else"].append(each)
    return sorts


def assert_norms_exchange_once_each_way(norms):
    """Forward the moments of all parts, backward two sums."""
    backward = [each.arrays for each in norms if "transpose(" in each.path]
    forward = [each.arrays for each in norms if "transpose(" not in each.path]
    assert sum(forward) == NORMS
    assert sum(backward) == 2 * NORMS
    assert len(norms) <= 2 * NORMS


def assert_norms_of_bands_exchange_two_sums_each_way(norms):
    """Forward one after the other, backward perhaps at once."""
    backward = [each.arrays for each in norms if "transpose(" in each.path]
    forward = [each.arrays for each in norms if "transpose(" not in each.path]
    assert (sum(forward), sum(backward)) == (2 * NORMS, 2 * NORMS)


def assert_the_loss_exchanges_a_number_a_class(loss, parts):
    """Sums that keep what rounding loses are no plain sums: those of each image (or of its bands) are gathered."""
    assert loss
    assert all(each.bytes <= 4 * parts * CLASSES * each.arrays for each in loss)


def assert_rows_travel_both_ways_and_few(rows):
    assert {"transpose(" in each.path for each in rows} == {True, False}
    assert max(each.bytes for each in rows) <= ROWS


def test_data_parallelism_reduces_all_gradients_at_once():
    found, params = exchanges(jax.devices(), 8)
    sorts = sorted_out(found)
    (gradients,) = sorts["gradients"]
    assert gradients.bytes == params
    assert_norms_exchange_once_each_way(sorts["norms"])
    assert_the_loss_exchanges_a_number_a_class(sorts["loss"], 8)
    assert not sorts["rows"] + sorts["else"]


def test_bands_talk_to_their_neighbours():
    found, params = exchanges(jax.devices()[:4], 1, bands=4)
    sorts = sorted_out(found)
    assert_rows_travel_both_ways_and_few(sorts["rows"])
    (gradients,) = sorts["gradients"]
    assert gradients.bytes == params
    assert_norms_of_bands_exchange_two_sums_each_way(sorts["norms"])
    assert_the_loss_exchanges_a_number_a_class(sorts["loss"], 4)
    assert not sorts["else"]


def test_a_cut_state_is_gathered_once():
    found, _ = exchanges(jax.devices()[:4], 4, layout=fully_sharded(minimum=1000))
    gathered = sorted_out(found)["else"]
    assert {each.kind for each in gathered} == {"all-gather"}
    kernels = [4 * 3 * 3 * 16 * 16, 4 * 3 * 3 * 16 * 32]  # the others have fewer than 1000 numbers
    assert sorted(each.bytes for each in gathered) == kernels


@pytest.fixture(scope="module")
def tpus():
    """Eight that need not be there."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices


@pytest.mark.slow
def test_tpus_reduce_all_gradients_at_once(tpus):
    """One exchange of gradients, one a norm and way, one of the loss's sums: nothing else."""
    found, params = exchanges(tpus, 16)
    sorts = sorted_out(found)
    (gradients,) = sorts["gradients"]
    assert gradients.bytes == params
    assert_norms_exchange_once_each_way(sorts["norms"])
    assert len(sorts["loss"]) == 1
    assert_the_loss_exchanges_a_number_a_class(sorts["loss"], 8)
    assert not sorts["rows"] + sorts["else"]


@pytest.mark.slow
def test_bands_of_tpus_talk_to_their_neighbours(tpus):
    """The compiler reduces gradients within an image's group and between groups, and some of them with a norm's sums."""
    found, params = exchanges(tpus, 2, bands=4)
    sorts = sorted_out(found)
    assert_rows_travel_both_ways_and_few(sorts["rows"])
    assert_the_loss_exchanges_a_number_a_class(sorts["loss"], 8)
    assert len(sorts["gradients"]) <= 2
    assert max(each.bytes for each in sorts["gradients"]) <= params
    assert not sorts["else"]


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

    def test_counts_what_a_tpu_fuses_with_work_once(self):
        text = """
%fused_computation.1 (p: f32[2]) -> (f32[2], f32[16], u32[]) {
  %all-gather.1 = f32[16]{0} all-gather(%p), channel_id=1, metadata={op_name="jit(f)/norm"}
}

%async_collective_fusion.7 (p: f32[2], q: f32[16]) -> (f32[8], f32[16]) {
  %all-gather.2 = f32[16]{0} all-gather(%p), channel_id=1, metadata={op_name="jit(f)/norm"}
}

%fused_computation.2 (p: f32[2], q: f32[16]) -> f32[16] {
  ROOT %all-gather.3 = f32[16]{0} all-gather(%p), channel_id=1, metadata={op_name="jit(f)/norm"}
}

ENTRY %main (x: f32[2]) -> f32[16] {
  %async-collective-start = (f32[2], f32[16], u32[]) fusion(%x), kind=kCustom, calls=%fused_computation.1
  %fusion.7 = (f32[8], f32[16]) fusion(%x, %y), kind=kOutput, calls=%async_collective_fusion.7
  %async-collective-done = f32[16] fusion(%x, %z), kind=kCustom, calls=%fused_computation.2, metadata={}
  %last = f32[8]{0} all-reduce(%x), to_apply=%sum
}
"""
        assert collectives(text) == [
            Collective("all-gather", 1, 64, "jit(f)/norm"),
            Collective("all-reduce", 1, 32, ""),
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
