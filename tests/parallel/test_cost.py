"""The collectives of a train step, read from the compiled program for fake CPU devices and for TPUs."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from jaxseg import losses, train
from jaxseg.errors import InputError
from jaxseg.nn import ConvNorm, bilinear, max_pool
from jaxseg.parallel import Parallel
from jaxseg.parallel.cost import (
    Collective,
    StepCost,
    chip_of,
    cost_of,
    estimate_step_time,
    find_collectives,
)
from jaxseg.parallel.sharding import fully_sharded
from jaxseg.typing import Output

NORMS = 3
CLASSES = 3
ROWS = 2 * 34 * 16 * 4  # bytes of two rows of the largest padded map; a shard has eight rows


class Net(nn.Module):
    """Convolutions with norms, a stride, pooling and upsampling."""

    @nn.compact
    def __call__(self, images, train=False):
        x = ConvNorm(16, stride=2)(images, train=train)
        x = ConvNorm(16)(max_pool(x, 3, 2, 1), train=train)
        x = ConvNorm(32)(x, train=train)
        x = bilinear(x, (4 * x.shape[1], 4 * x.shape[2]))
        return Output(nn.Conv(CLASSES, (1, 1))(x))


@pytest.fixture(autouse=True)
def _plain_forms(monkeypatch):
    """CPU forms may reduce the gradient of a kernel's blocks, which has a few zeros more."""
    monkeypatch.setattr("jaxseg.nn.conv.by_platform", lambda *x, cpu, plain: plain(*x))


def collectives(devices, images, **options):
    """Returns the collectives of a step, and the size of its parameters without the scales and biases of norms.

    Those have gradients that are sums which the norm reduces anyway.
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
    parallel = Parallel("jit", devices, **options)
    key = jax.eval_shape(lambda: jax.random.key(0))
    found = cost_of(parallel.lower(step, state, batch, key).compile()).collectives
    norms = [value["norm"] for value in variables["params"].values() if "norm" in value]
    assert len(norms) == NORMS
    return found, size(jax.tree.leaves(variables["params"])) - size(jax.tree.leaves(norms))


def size(arrays):
    """Returns the bytes of float32 arrays."""
    return sum(4 * math.prod(array.shape) for array in arrays)


def by_purpose(found):
    """Groups collectives: gradients of kernels (and what the compiler adds to them), norms, loss, rows, others."""
    groups = {"gradients": [], "norms": [], "loss": [], "rows": [], "others": []}
    for each in found:
        backward = "transpose(" in each.path
        if each.kind == "collective-permute":
            groups["rows"].append(each)
        elif each.kind == "all-reduce" and backward and "conv_general" in each.path:
            groups["gradients"].append(each)
        elif each.kind in ("all-reduce", "all-gather") and "/norm/" in each.path:
            groups["norms"].append(each)
        elif each.kind in ("all-reduce", "all-gather") and "/jvp()/" in each.path:
            groups["loss"].append(each)  # its path has no module
        else:
            groups["others"].append(each)
    return groups


def assert_norms_reduce_once_each_way(norms):
    """Forward the moments of all shards are gathered, backward two sums are reduced."""
    backward = [each.arrays for each in norms if "transpose(" in each.path]
    forward = [each.arrays for each in norms if "transpose(" not in each.path]
    assert sum(forward) == NORMS
    assert sum(backward) == 2 * NORMS
    assert len(norms) <= 2 * NORMS


def assert_norms_reduce_two_sums_each_way(norms):
    """Forward one after the other, backward perhaps combined."""
    backward = [each.arrays for each in norms if "transpose(" in each.path]
    forward = [each.arrays for each in norms if "transpose(" not in each.path]
    assert (sum(forward), sum(backward)) == (2 * NORMS, 2 * NORMS)


def assert_loss_gathers_a_number_per_class(loss, parts):
    """Compensated sums are no plain sums: those of each image, or of its spatial shards, are gathered."""
    assert loss
    assert all(each.bytes <= 4 * parts * CLASSES * each.arrays for each in loss)


def assert_few_rows_are_permuted_each_way(rows):
    assert {"transpose(" in each.path for each in rows} == {True, False}
    assert max(each.bytes for each in rows) <= ROWS


def test_data_parallelism_reduces_gradients_at_once():
    found, params = collectives(jax.devices(), 8)
    groups = by_purpose(found)
    (gradients,) = groups["gradients"]
    assert gradients.bytes == params
    assert_norms_reduce_once_each_way(groups["norms"])
    assert_loss_gathers_a_number_per_class(groups["loss"], 8)
    assert not groups["rows"] + groups["others"]


@pytest.mark.slow
def test_spatial_shards_permute_rows():
    found, params = collectives(jax.devices()[:4], 1, spatial_shards=4)
    groups = by_purpose(found)
    assert_few_rows_are_permuted_each_way(groups["rows"])
    (gradients,) = groups["gradients"]
    assert gradients.bytes == params
    assert_norms_reduce_two_sums_each_way(groups["norms"])
    assert_loss_gathers_a_number_per_class(groups["loss"], 4)
    assert not groups["others"]


@pytest.mark.slow
def test_fully_sharded_gathers_each_kernel_once():
    found, _ = collectives(jax.devices()[:4], 4, sharding_rule=fully_sharded(min_size=1000))
    gathered = by_purpose(found)["others"]
    assert {each.kind for each in gathered} == {"all-gather"}
    kernels = [4 * 3 * 3 * 16 * 16, 4 * 3 * 3 * 16 * 32]  # the others have fewer than 1000 elements
    assert sorted(each.bytes for each in gathered) == kernels


@pytest.fixture(scope="module")
def tpus():
    """Eight TPUs that are not present."""
    pytest.importorskip("libtpu")
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform="tpu", topology_name="v5e:2x4").devices


@pytest.mark.slow
def test_tpus_reduce_gradients_at_once(tpus):
    """One collective for gradients, one for each norm and direction, one for the sums of the loss; no others."""
    found, params = collectives(tpus, 16)
    groups = by_purpose(found)
    (gradients,) = groups["gradients"]
    assert gradients.bytes == params
    assert_norms_reduce_once_each_way(groups["norms"])
    assert len(groups["loss"]) == 1
    assert_loss_gathers_a_number_per_class(groups["loss"], 8)
    assert not groups["rows"] + groups["others"]


@pytest.mark.slow
def test_spatial_shards_on_tpus_permute_rows(tpus):
    """The compiler reduces gradients in an image's group and between groups, some of them together with a norm's sums."""
    found, params = collectives(tpus, 2, spatial_shards=4)
    groups = by_purpose(found)
    assert_few_rows_are_permuted_each_way(groups["rows"])
    assert_loss_gathers_a_number_per_class(groups["loss"], 8)
    assert len(groups["gradients"]) <= 2
    assert max(each.bytes for each in groups["gradients"]) <= params
    assert not groups["others"]


class TestFindCollectives:
    def test_finds_synchronous_and_asynchronous_ones(self):
        text = """
  %a = bf16[4,8]{1,0:T(8,128)} all-reduce(%x), to_apply=%sum, metadata={op_name="jit(f)/a"}
  %b = (f32[2]{0}, f32[16]{0}) all-gather-start(%x), metadata={op_name="jit(f)/b"}
  %c = f32[16]{0} all-gather-done(%b)
  %d = (f32[8]{0}, f32[8]{0}, u32[], u32[]) collective-permute-start(%x), channel_id=1
  %e = f32[2]{0} reduce-scatter(%x), dimensions={0}
  %f = f32[3]{0} add(%all-reduce.1, %y)
"""
        assert find_collectives(text) == [
            Collective("all-reduce", 1, 64, "jit(f)/a"),
            Collective("all-gather", 1, 64, "jit(f)/b"),
            Collective("collective-permute", 1, 32, ""),
            Collective("reduce-scatter", 1, 8, ""),
        ]

    def test_lists_a_collective_that_a_tpu_fuses_once(self):
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
        assert find_collectives(text) == [
            Collective("all-gather", 1, 64, "jit(f)/norm"),
            Collective("all-reduce", 1, 32, ""),
        ]


class TestEstimateStepTime:
    def test_adds_collectives_to_compute_or_memory(self):
        rows = Collective("collective-permute", 1, 200_000, "")
        cost = StepCost(1, 2, 197e9, 2 * 819e6, (rows, Collective("all-reduce", 1, 2_000_000, "")))
        times = estimate_step_time(cost, "v5e:16x16")
        assert cost.memory_bytes == 3
        assert times.compute == pytest.approx(1e-3)
        assert times.memory == pytest.approx(2e-3)
        assert times.links == pytest.approx(1e-6 + 20e-6)
        assert times.latency == pytest.approx(1e-6 + 32e-6)
        assert times.step == pytest.approx(2e-3 + 54e-6)
        assert times.efficiency == pytest.approx(2e-3 / times.step)

    def test_invalid_topologies_raise_input_errors(self):
        with pytest.raises(InputError, match="unknown chip 'v5'; did you mean"):
            chip_of("v5:2x4")
        with pytest.raises(InputError, match="a chip and a shape, such as v5e:2x4"):
            chip_of("v5e")
