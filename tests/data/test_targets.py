"""Sources with any targets: masks, maps, several or none pass through loaders, device data sets and augmentation."""

import pickle
import sys

import cloudpickle
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.check import check
from jaxseg.data.device import augment as aug
from jaxseg.data.targets import Target, labels, only_mask
from jaxseg.errors import InputError

KEY = jax.random.key(0)
FILL = -3.0
TARGETS = {
    "depth": Target("map", FILL),
    "zone": Target("mask", -1),
    "flow": Target("map", 0.0),
    "coarse": Target("mask", 255),
}


class Scenes:
    """Images that are smooth in both directions, with depth, its quantized ids and a stack of two maps."""

    targets = TARGETS

    def __init__(self, sizes=((24, 32),) * 6):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __getitem__(self, index):
        height, width = self.sizes[index]
        y, x = np.mgrid[:height, :width].astype(np.float64)
        depth = 10.0 + 4 * y + 2 * x
        return {
            "image": np.repeat(np.minimum(depth, 255)[..., None], 3, -1).astype(np.uint8),
            "depth": depth,
            "zone": (depth // 8).astype(np.uint8),
            "flow": np.stack([y + 1, x + 1], -1),
            "coarse": (depth // 64).astype(np.uint8),
            "name": f"scene-{index}",
        }


# Worker processes cannot import this module, so its objects are pickled by value.
cloudpickle.register_pickle_by_value(sys.modules[__name__])


def check_geometry(sample, *, tolerance):
    """Depth, ids, flow and image of one sample agree where no border or padding is near."""
    image, depth, zone, flow, coarse = (
        np.asarray(sample[name]) for name in ("image", "depth", "zone", "flow", "coarse")
    )
    assert (depth.dtype, zone.dtype, flow.dtype) == (np.float32, np.int32, np.float32)
    assert coarse.dtype == np.uint8
    outside = zone == -1
    assert ((coarse == 255) == outside).all()
    assert (depth[outside] == FILL).all()
    assert (flow[outside] == 0).all()
    inside = ~outside
    assert inside.mean() > 0.1
    np.testing.assert_allclose(
        4 * flow[inside][:, 0] + 2 * flow[inside][:, 1] + 4, depth[inside], atol=1e-2
    )
    assert np.abs(depth[inside] - image[inside][:, 0]).max() <= tolerance
    assert np.abs(depth[inside] - 8 * zone[inside] - 4).max() <= 4 + 6 + 1e-3
    assert np.abs(depth[inside] - 64 * coarse[inside] - 32).max() <= 32 + 6 + 1e-3
    return outside.mean()


@pytest.mark.parametrize("num_workers", [0, 1])
@pytest.mark.sample(1)
def test_train_batches_any_targets_share_geometry(num_workers):
    source = Scenes()
    augment = data.TrainAugment((28, 28), photometric=False, targets=source.targets)
    options = {"batch_size": 4, "seed": 0, "num_workers": num_workers}
    with data.train_batches(source, augment, **options) as batches:
        for _ in range(3):
            batch = next(batches)
            assert batch["flow"].shape == (4, 28, 28, 2)
            for index in range(4):
                check_geometry(
                    {name: batch[name][index] for name in ("image", *source.targets)}, tolerance=2
                )


def test_train_augment_order_of_targets_changes_nothing():
    record = Scenes()[0]
    names = list(TARGETS)
    outs = [
        data.TrainAugment((28, 28), targets={name: TARGETS[name] for name in order})(
            record, np.random.default_rng(3)
        )
        for order in (names, names[::-1])
    ]
    for name in ("image", *names):
        np.testing.assert_array_equal(outs[0][name], outs[1][name])


def test_train_augment_without_targets_returns_image():
    record = Scenes()[0]
    some = data.TrainAugment((28, 28), targets={})(record, np.random.default_rng(3))
    every = data.TrainAugment((28, 28), targets=TARGETS)(record, np.random.default_rng(3))
    assert sorted(some) == ["image", "name"]
    np.testing.assert_array_equal(some["image"], every["image"])


def test_train_augment_missing_target_raises():
    with pytest.raises(InputError, match=r"'scene-1' has no 'label' .* it has image, depth, zone"):
        data.TrainAugment((28, 28))(Scenes()[1], np.random.default_rng(0))


def test_train_batches_missing_target_raises():
    def forget(record, rng):
        return {"image": record["image"], "name": record["name"]}

    with (
        data.train_batches(Scenes(), forget, batch_size=2, seed=0) as batches,
        pytest.raises(InputError, match="has no 'depth'"),
    ):
        next(batches)


def test_eval_batches_pad_with_the_fill_of_each_target():
    sizes = [(10 + index, 20) for index in range(10)]
    for batch in data.eval_batches(Scenes(sizes), batch_size=3):
        assert batch["depth"].dtype == np.float32
        for index in range(3):
            height, width = batch["sizes"][index] if index < len(batch["sizes"]) else (0, 0)
            padding = np.ones(batch["depth"].shape[1:3], bool)
            padding[:height, :width] = False
            for name, target in TARGETS.items():
                assert (batch[name][index][padding] == target.fill).all()
            if not padding.all():
                y, x = np.mgrid[:height, :width]
                np.testing.assert_array_equal(
                    batch["depth"][index, :height, :width], 10 + 4 * y + 2 * x
                )


def test_device_dataset_any_targets_share_geometry():
    dataset = data.load(Scenes()).dataset
    assert {name: array.dtype.name for name, array in dataset.arrays.items()} == {
        "image": "uint8",
        "depth": "float32",
        "zone": "int32",
        "flow": "float32",
        "coarse": "uint8",
    }
    view = aug.random_view((28, 28), scale=(0.5, 2.0), rotate=20.0, elastic=1.0, targets=TARGETS)
    feed = jax.jit(data.make_feed(view))
    schedule = {name: array[:, 0] for name, array in data.make_sampler(6, 6)(KEY, 0, 1).items()}
    batch = jax.device_get(feed(dataset, schedule, KEY))
    outside = [
        check_geometry({name: array[index] for name, array in batch.items()}, tolerance=1)
        for index in range(6)
    ]
    assert max(outside) > 0.05


@pytest.mark.parametrize(
    "mix",
    [
        aug.random_cutmix(1.0),
        aug.random_mosaic(1.0),
        aug.random_copy_paste(40, 1.0, targets={"zone": Target("mask", -1)}),
    ],
    ids=["cutmix", "mosaic", "copy_paste"],
)
def test_mixes_move_every_target_with_the_image(mix):
    ids = jnp.arange(4, dtype=jnp.int32)[:, None, None] * jnp.ones((4, 12, 16), jnp.int32)
    samples = {
        "image": jnp.repeat(ids[..., None], 3, -1).astype(jnp.uint8),
        "depth": ids.astype(jnp.float32),
        "zone": ids,
        "flow": jnp.repeat(ids[..., None], 2, -1).astype(jnp.float32),
    }
    for key in jax.random.split(KEY, 8):
        mixed = jax.jit(mix)(key, samples)
        for name in ("depth", "zone"):
            np.testing.assert_array_equal(mixed[name], mixed["image"][..., 0])
        np.testing.assert_array_equal(mixed["flow"], mixed["image"][..., :2])


def test_loaders_may_load_some_of_the_targets():
    some = {"depth": TARGETS["depth"]}
    augment = data.TrainAugment((28, 28), targets=some)
    with data.train_batches(Scenes(), augment, batch_size=2, seed=0, targets=some) as batches:
        assert sorted(next(batches)) == ["depth", "image", "names"]
    with data.eval_batches(Scenes(), batch_size=2, targets=some) as batches:
        assert {"depth", "image"} == next(batches).keys() - {"names", "sizes", "global_names"}
    assert sorted(data.load(Scenes(), targets=some).dataset.arrays) == ["depth", "image"]


def test_view_undeclared_target_raises():
    sample = {"image": jnp.zeros((4, 4, 3)), "depth": jnp.zeros((4, 4))}
    with pytest.raises(InputError, match="holds image, depth, but the view's targets are label"):
        aug.view(sample, size=(4, 4))


def test_view_map_in_float64_stays_exact():
    with jax.enable_x64(True):
        depth = jnp.arange(20, dtype=jnp.float64).reshape(4, 5)
        sample = {"image": jnp.zeros((4, 5, 3), jnp.float32), "depth": depth}
        out = aug.view(sample, size=(4, 5), targets={"depth": Target("map", 0.0)})
        assert out["depth"].dtype == jnp.float64
        np.testing.assert_array_equal(out["depth"], depth)


@pytest.mark.parametrize(
    ("use", "message"),
    [
        (lambda: data.class_pixels(Scenes()), "rare class sampling needs exactly one mask"),
        (lambda: check(Scenes()), "the check of a data set needs exactly one mask .* zone"),
        (
            lambda: aug.random_copy_paste(3, targets={"depth": Target("map", 0.0)}),
            r"copy-paste needs exactly one mask .*: depth \(map\)",
        ),
        (lambda: only_mask({}, "it"), "which are: none"),
        (lambda: Target("points", 0), "'mask' or 'map', got 'points'"),
        (lambda: Target("mask", 0.5), "is an integer, got 0.5"),
    ],
)
def test_targets_that_do_not_fit_raise(use, message):
    with pytest.raises(InputError, match=message):
        use()


def test_wrappers_show_the_attributes_of_their_source():
    scenes = Scenes()
    scenes.max_depth = 90.0
    wrapped = pickle.loads(pickle.dumps(data.SkipUnreadable(data.Subset(scenes, [3, 1]))))
    assert (len(wrapped), wrapped[0]["name"]) == (2, "scene-3")
    assert wrapped.targets == TARGETS
    assert wrapped.max_depth == 90.0
    with pytest.raises(AttributeError, match="no attribute 'classes'"):
        _ = wrapped.classes


def test_labels_are_one_mask():
    assert labels(-1) == {"label": Target("mask", -1)}
    for source in (data.Shapes(2), data.Subset(data.Shapes(2), [0])):
        assert source.targets == labels(source.ignore_index)
