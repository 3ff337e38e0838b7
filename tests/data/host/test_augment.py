import pickle
import random
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from jaxseg.data import TrainAugment
from jaxseg.data.targets import labels
from jaxseg.errors import InputError


def blocks(size=(64, 96), channels=3, dtype=np.uint8):
    """Returns an image of blocks of 16 x 16 pixels whose values encode their label: 20 label + 10."""
    h, w = size
    ids = np.random.default_rng(0).integers(0, 12, (h // 16, w // 16))
    label = np.kron(ids, np.ones((16, 16), int))
    image = np.repeat((20 * label + 10)[..., None], channels, -1).astype(np.uint8)
    return {"image": image, "label": label.astype(dtype), "name": "blocks"}


def samples(augment, record, count=20):
    return [augment(record, np.random.default_rng(seed)) for seed in range(count)]


def equal(a, b):
    return np.array_equal(a["image"], b["image"]) and np.array_equal(a["label"], b["label"])


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5, 9])
@pytest.mark.parametrize(("dtype", "ignore_index"), [(np.uint8, 255), (np.int32, -1)])
@pytest.mark.parametrize("size", [(40, 60), (1, 1), (2, 200), (64, 64)])
def test_augment_any_image_has_the_crop_size(channels, dtype, ignore_index, size):
    rng = np.random.default_rng(0)
    record = {
        "image": rng.integers(0, 256, (*size, channels), dtype=np.uint8),
        "label": rng.integers(0, 5, size).astype(dtype),
        "name": "a",
    }
    for out in samples(TrainAugment((32, 48), targets=labels(ignore_index)), record, 5):
        assert out["image"].shape == (32, 48, channels)
        assert out["label"].shape == (32, 48)
        assert (out["image"].dtype, out["label"].dtype) == (np.uint8, dtype)
        assert set(np.unique(out["label"])) <= {*range(5), ignore_index}
        assert out["name"] == "a"


def test_augment_ids_beyond_16_bits_are_exact():
    record = blocks(dtype=np.int32)
    record["label"] *= 100_003
    for out in samples(TrainAugment((32, 48), targets=labels(-1)), record):
        ids = out["label"][out["label"] >= 0]
        assert set(np.unique(ids // 100_003)) <= set(range(12))
        assert not (ids % 100_003).any()


def test_augment_widens_labels_for_the_fill_value():
    out = TrainAugment((96, 128), targets=labels(-1), scale=(1, 1))(
        blocks(), np.random.default_rng(0)
    )
    assert out["label"].dtype == np.int32
    assert (out["label"] == -1).sum() == 96 * 128 - 64 * 96


def test_augment_image_and_mask_stay_aligned():
    record = blocks()
    for out in samples(TrainAugment((48, 48), photometric=False, fill=255), record, 40):
        inside = out["label"] != 255
        assert inside.any()
        expected = 20 * out["label"][inside].astype(int) + 10
        off = np.abs(out["image"][inside].astype(int) - expected[:, None]) > 1
        assert off.mean() < 0.2  # at the edges of blocks, where the image is interpolated
        assert (out["image"][~inside] == 255).all()


def test_augment_masks_are_resized_to_the_nearest_pixel():
    record = blocks((32, 48))
    double = TrainAugment((64, 96), scale=(2, 2), flip=False, photometric=False)
    out = double(record, np.random.default_rng(0))
    assert np.array_equal(out["label"], np.kron(record["label"], np.ones((2, 2), np.uint8)))
    half = TrainAugment((32, 48), scale=(0.5, 0.5), flip=False, photometric=False)
    label = np.random.default_rng(0).integers(0, 12, (64, 96), dtype=np.uint8)
    out = half({**blocks(), "label": label}, np.random.default_rng(0))
    assert np.array_equal(out["label"], label[1::2, 1::2])


def test_augment_without_changes_is_identity():
    record = blocks()
    same = TrainAugment((64, 96), scale=(1, 1), flip=False, photometric=False)
    assert equal(same(record, np.random.default_rng(0)), record)


def test_augment_flips_half_of_the_images():
    record = blocks()
    outs = samples(TrainAugment((64, 96), scale=(1, 1), photometric=False), record, 200)
    flipped = [np.array_equal(out["label"], record["label"][:, ::-1]) for out in outs]
    same = [np.array_equal(out["label"], record["label"]) for out in outs]
    assert sum(flipped) + sum(same) == 200
    assert 70 < sum(flipped) < 130


def test_augment_scales_cover_their_range():
    record = {"image": np.zeros((40, 40, 3), np.uint8), "label": np.zeros((40, 40), np.uint8)}
    outs = samples(TrainAugment((80, 80), photometric=False), record, 200)
    sides = np.array([np.sqrt((out["label"] == 0).sum()) / 40 for out in outs])
    assert sides.min() < 0.6
    assert sides.max() > 1.9
    assert 0.48 <= sides.min() <= sides.max() <= 2.0
    assert 1.1 < sides.mean() < 1.4


def test_augment_crops_reach_every_corner():
    label = np.zeros((40, 60), np.uint8)
    label[0, 0], label[0, -1], label[-1, 0], label[-1, -1] = 1, 2, 3, 4
    record = {"image": np.zeros((40, 60, 3), np.uint8), "label": label}
    augment = TrainAugment((38, 58), scale=(1, 1), flip=False, photometric=False)
    seen = {int(i) for out in samples(augment, record, 100) for i in np.unique(out["label"])}
    assert seen == {0, 1, 2, 3, 4}


def test_augment_jitter_leaves_labels_unchanged():
    record = blocks()
    outs = samples(TrainAugment((64, 96), scale=(1, 1), flip=False), record)
    assert all(np.array_equal(out["label"], record["label"]) for out in outs)
    changed = [not np.array_equal(out["image"], record["image"]) for out in outs]
    assert 8 < sum(changed) <= 20
    assert len({out["image"].tobytes() for out in outs}) == sum(changed) + (not all(changed))


@pytest.mark.parametrize(("channels", "fill"), [(3, [124, 116, 104]), (1, [115]), (5, [115] * 5)])
def test_augment_padding_has_the_mean_colour(channels, fill):
    out = TrainAugment((80, 112), scale=(1, 1), photometric=False)(
        blocks(channels=channels), np.random.default_rng(0)
    )
    outside = out["label"] == 255
    assert outside.sum() == 80 * 112 - 64 * 96
    assert (out["image"][outside] == fill).all()


def test_augment_depends_on_the_generator_only():
    augment, record = TrainAugment((32, 32)), blocks()
    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    states = random.getstate(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = augment(record, np.random.default_rng(7))
    assert states == (random.getstate(), np.random.get_state()[1].tolist())  # noqa: NPY002
    samples(augment, record, 3)
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    assert equal(augment(record, np.random.default_rng(7)), first)
    assert equal(pickle.loads(pickle.dumps(augment))(record, np.random.default_rng(7)), first)
    assert not equal(augment(record, np.random.default_rng(8)), first)


def test_augment_does_not_modify_the_record():
    record = blocks()
    before = {key: np.copy(record[key]) for key in ("image", "label")}
    samples(TrainAugment((80, 80)), record)
    assert equal(record, before)


def test_augment_is_thread_safe():
    augment, record = TrainAugment((32, 32)), blocks()
    alone = samples(augment, record, 64)
    with ThreadPoolExecutor(8) as pool:
        together = pool.map(lambda seed: augment(record, np.random.default_rng(seed)), range(64))
        assert all(equal(a, b) for a, b in zip(alone, together, strict=True))


@pytest.mark.parametrize(
    "arguments",
    [
        {"crop_size": (0, 5)},
        {"crop_size": (5,)},
        {"crop_size": (5, 5), "scale": (0, 1)},
        {"crop_size": (5, 5), "scale": (2, 1)},
    ],
)
def test_augment_invalid_numbers_raise(arguments):
    with pytest.raises(InputError):
        TrainAugment(**arguments)
