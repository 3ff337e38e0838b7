"""Tests augmentation on the device: its random parameters, and that results depend on the key only."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import targets
from jaxseg.data.device import augment as aug
from jaxseg.errors import InputError

KEY = jax.random.key(0)


def blocks(size=(48, 64), channels=3):
    """Returns an image whose values encode their label: 20 label + 10."""
    ids = np.random.default_rng(0).integers(0, 12, (size[0] // 16, size[1] // 16))
    label = np.kron(ids, np.ones((16, 16), int)).astype(np.uint8)
    image = jnp.asarray(np.repeat((20 * label + 10)[..., None], channels, -1))
    return {"image": image, "label": jnp.asarray(label)}


def batch_of(count, size=(16, 24), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    labels = rng.integers(0, 5, (count, *size)).astype(np.uint8)
    return {"image": jnp.asarray(images), "label": jnp.asarray(labels)}


ALL = aug.compose(
    aug.random_view((16, 24), scale=(0.5, 2.0), rotate=30.0, elastic=2.0),
    aug.random_colour(),
    aug.random_blur(1.0),
)


@pytest.mark.parametrize("channels", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_random_view_image_and_mask_stay_aligned(channels):
    """Where the neighbouring labels are equal, the image still encodes the label."""
    view = aug.random_view(
        (40, 40), scale=(0.5, 2.0), rotate=45.0, elastic=2.0, fill=0, targets=targets.labels(200)
    )
    keys = jax.random.split(KEY, 8)
    batch = jax.jit(jax.vmap(view, (0, None)))(keys, blocks(channels=channels))
    images, labels = np.asarray(batch["image"]).astype(int), np.asarray(batch["label"]).astype(int)
    assert images.shape == (8, 40, 40, channels)
    outside = labels == 200
    assert 0.02 < outside.mean() < 0.9
    assert not images[outside].any()
    encoded = (images[..., 0] - 10) / 20
    # Pixels at borders, where a neighbour has another label or is outside, are interpolated.
    near = np.lib.stride_tricks.sliding_window_view(labels, (3, 3), (1, 2))
    inner = near.max((-1, -2)) == near.min((-1, -2))
    inner &= labels[:, 1:-1, 1:-1] != 200
    assert inner.mean() > 0.2
    assert (encoded == labels)[:, 1:-1, 1:-1][inner].all()


def test_random_view_unscaled_copies_pixels():
    sample = blocks()
    image, label = sample["image"], sample["label"]
    view = jax.jit(aug.random_view((20, 30), flip=False))
    for key in jax.random.split(KEY, 5):
        got, ids = view(key, sample).values()
        windows = [
            (y, x)
            for y in range(29)
            for x in range(35)
            if np.array_equal(got, image[y : y + 20, x : x + 30])
            and np.array_equal(ids, label[y : y + 20, x : x + 30])
        ]
        assert windows


def test_random_view_small_images_lie_anywhere():
    sample = {"image": jnp.full((3, 4, 3), 9, jnp.uint8), "label": jnp.ones((3, 4), jnp.uint8)}
    view = aug.random_view((6, 8))
    batch = jax.jit(jax.vmap(view, (0, None)))(jax.random.split(KEY, 256), sample)
    labels = np.asarray(batch["label"])
    assert ((labels == 1).sum((1, 2)) == 12).all()
    corners = {tuple(np.argwhere(each == 1)[0].tolist()) for each in labels}
    assert corners == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize(
    "dtype",
    [jnp.bfloat16, *(pytest.param(t, marks=pytest.mark.slow) for t in (jnp.uint8, jnp.float32))],
)
def test_transforms_preserve_dtypes(dtype):
    batch = batch_of(2)
    batch = {"image": batch["image"].astype(dtype), "label": batch["label"].astype(jnp.int32)}
    out = jax.jit(jax.vmap(ALL))(jax.random.split(KEY, 2), batch)
    assert (out["image"].dtype, out["label"].dtype) == (dtype, jnp.int32)
    assert np.isfinite(np.asarray(out["image"], np.float32)).all()


def test_view_dtype_without_the_fill_value_raises():
    with pytest.raises(InputError, match="uint8 cannot hold its fill value -1"):
        aug.view(blocks(), size=(4, 4), targets=targets.labels(-1))


def test_transforms_depend_on_the_key_only():
    batch, keys = batch_of(4), jax.random.split(KEY, 4)
    transform = jax.jit(aug.vmapped(ALL))
    order = np.array([2, 0, 3, 1])
    out = transform(keys, batch)
    other = transform(keys[order], {name: array[order] for name, array in batch.items()})
    for name, array in out.items():
        np.testing.assert_array_equal(array[order], other[name])
    assert len(np.unique(out["image"], axis=0)) == 4


def test_compose_uses_a_key_for_each_transform():
    seen = []

    def note(key, sample):
        seen.append(jax.random.key_data(key).tolist())
        return sample

    aug.compose(note, note, note)(KEY, {})
    assert len({tuple(each) for each in seen}) == 3


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_sometimes_follows_its_probability(probability):
    def add(key, sample):
        return jax.tree.map(lambda array: array + 1, sample)

    transform = aug.sometimes(probability, add)
    keys = jax.random.split(KEY, 4000)
    sample = {"image": jnp.zeros(()), "label": jnp.zeros(())}
    out = jax.vmap(transform, (0, None))(keys, sample)
    np.testing.assert_array_equal(out["image"], out["label"])
    assert abs(float(out["image"].mean()) - probability) < 4 * np.sqrt(0.25 / 4000)


def test_blur_preserves_constants_and_sums():
    blur = jax.jit(aug.blur, static_argnames="radius")
    flat = jnp.full((9, 11, 3), 77, jnp.uint8)
    np.testing.assert_array_equal(blur(flat, 2.0, radius=5), flat)
    point = jnp.zeros((21, 21, 1)).at[10, 10].set(1000.0)
    spread = blur(point, 1.5, radius=5)
    assert abs(float(spread.sum()) - 1000) < 1e-2
    np.testing.assert_allclose(spread[..., 0], spread[..., 0].T, rtol=1e-5)
    np.testing.assert_array_equal(blur(point, 0.0, radius=5), point)


def test_random_cutmix_area_has_its_expectation():
    labels = jnp.stack([jnp.zeros((64, 64), jnp.int32), jnp.ones((64, 64), jnp.int32)])
    mix = aug.random_cutmix(1.0)
    keys = jax.random.split(KEY, 2000)
    samples = {"image": labels[..., None], "label": labels}
    images, ids = jax.jit(jax.vmap(mix, (0, None)))(keys, samples).values()
    np.testing.assert_array_equal(images[..., 0], ids)
    areas = np.asarray(ids).mean((1, 2))
    # Of a side s = sqrt(u) that is centred uniformly, s - s^2 / 4 stays inside on average.
    u = (np.arange(10_000) + 0.5) / 10_000
    expected = ((np.sqrt(u) - u / 4) ** 2).mean()
    assert abs(areas.mean() - expected) < 4 * areas.std() / np.sqrt(2000) + 0.005


def test_copy_paste_moves_classes_without_ignored_pixels():
    samples = batch_of(2)
    samples["label"] = samples["label"].at[1, :3].set(255)
    mix = aug.random_copy_paste(5, 1.0, never=(1,))
    often, mixed = np.zeros(5), jax.jit(mix)
    images, labels = jax.device_get((samples["image"], samples["label"]))
    for key in jax.random.split(KEY, 40):
        image, label = jax.device_get(mixed(key, samples)).values()
        for index in range(5):
            there = np.asarray(labels[1] == index)
            pasted = np.asarray((image == images[1]).all(-1) & (label == labels[1]))
            if index != 1 and pasted[there].all():
                often[index] += 1
            else:
                kept = np.asarray((image == images[0]).all(-1))
                assert kept[there].all()
        assert not np.asarray(label[:3] == 255).any()
    assert often[1] == 0
    others = np.delete(often, 1)
    assert (others > 8).all()
    assert (others < 32).all()


def test_mosaic_shows_the_corners_that_meet_the_centre():
    samples = batch_of(4, (8, 10))
    sample = aug.mosaic(samples, centre=(3, 7))
    for got, parts in zip(sample.values(), samples.values(), strict=True):
        np.testing.assert_array_equal(got[:3, :7], parts[0][5:, 3:])
        np.testing.assert_array_equal(got[:3, 7:], parts[1][5:, :3])
        np.testing.assert_array_equal(got[3:, :7], parts[2][:5, 3:])
        np.testing.assert_array_equal(got[3:, 7:], parts[3][:5, :3])


def test_mixes_of_probability_zero_return_the_first_image():
    samples = batch_of(4)
    for mix in (aug.random_cutmix(0.0), aug.random_mosaic(0.0), aug.random_copy_paste(5, 0.0)):
        sample = jax.jit(mix)(KEY, samples)
        for name, array in sample.items():
            np.testing.assert_array_equal(array, samples[name][0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: aug.random_view((0, 4)), "size is"),
        (lambda: aug.random_view((4, 4), scale=(2.0, 1.0)), "scale is"),
        (lambda: aug.random_view((4, 4), rotate=-1.0), "must not be negative"),
        (lambda: aug.random_colour(hue=0.6), "hue in 0..0.5"),
        (lambda: aug.random_blur(-1.0), "must not be negative"),
        (lambda: aug.random_cutmix(1.5), "probability lies in"),
        (lambda: aug.sometimes(-0.1, ALL), "probability lies in"),
        (lambda: aug.random_copy_paste(3, never=(3,)), r"classes \[3\] are not in"),
    ],
)
def test_invalid_arguments_raise(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
def test_augmentation_figure_is_written(tmp_path):
    out = tmp_path / "augmentation.jpg"
    command = [sys.executable, "experiments/augmentation", "--out", out]
    root = Path(__file__).parents[3]
    paths = {"PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=os.environ | paths, check=True, capture_output=True)
    assert out.stat().st_size > 50_000
