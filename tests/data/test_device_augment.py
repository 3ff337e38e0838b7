"""Augmentation on the device: what its random parameters do, and that nothing but its key decides."""

import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg.data import device_augment as aug
from jaxseg.errors import InputError

KEY = jax.random.key(0)


def blocks(size=(48, 64), channels=3):
    """An image whose pixels tell their label: image = 20 label + 10."""
    ids = np.random.default_rng(0).integers(0, 12, (size[0] // 16, size[1] // 16))
    label = np.kron(ids, np.ones((16, 16), int)).astype(np.uint8)
    return jnp.asarray(np.repeat((20 * label + 10)[..., None], channels, -1)), jnp.asarray(label)


def batch_of(count, size=(16, 24), seed=0):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (count, *size, 3), dtype=np.uint8)
    return jnp.asarray(images), jnp.asarray(rng.integers(0, 5, (count, *size)).astype(np.uint8))


ALL = aug.compose(
    aug.random_view((16, 24), scale=(0.5, 2.0), rotate=30.0, elastic=2.0),
    aug.random_colour(),
    aug.random_blur(1.0),
)


@pytest.mark.parametrize("channels", [1, 3, pytest.param(4, marks=pytest.mark.slow)])
def test_image_and_label_stay_together(channels):
    """Where four equal pixels surround a place, the image still tells the label."""
    image, label = blocks(channels=channels)
    view = aug.random_view(
        (40, 40), scale=(0.5, 2.0), rotate=45.0, elastic=2.0, fill=0, ignore_index=200
    )
    keys = jax.random.split(KEY, 8)
    images, labels = jax.jit(jax.vmap(view, (0, None, None)))(keys, image, label)
    images, labels = np.asarray(images).astype(int), np.asarray(labels).astype(int)
    assert images.shape == (8, 40, 40, channels)
    outside = labels == 200
    assert 0.02 < outside.mean() < 0.9
    assert not images[outside].any()
    told = (images[..., 0] - 10) / 20
    # What does not agree lies on a border: a neighbour has another label, or is outside.
    near = np.lib.stride_tricks.sliding_window_view(labels, (3, 3), (1, 2))
    inner = near.max((-1, -2)) == near.min((-1, -2))
    inner &= labels[:, 1:-1, 1:-1] != 200
    assert inner.mean() > 0.2
    assert (told == labels)[:, 1:-1, 1:-1][inner].all()


def test_a_window_is_copied_where_nothing_is_scaled():
    image, label = blocks()
    view = jax.jit(aug.random_view((20, 30), flip=False))
    for key in jax.random.split(KEY, 5):
        got, ids = view(key, image, label)
        windows = [
            (y, x)
            for y in range(29)
            for x in range(35)
            if np.array_equal(got, image[y : y + 20, x : x + 30])
            and np.array_equal(ids, label[y : y + 20, x : x + 30])
        ]
        assert windows


def test_smaller_images_lie_anywhere_in_the_window_and_whole():
    image, label = jnp.full((3, 4, 3), 9, jnp.uint8), jnp.ones((3, 4), jnp.uint8)
    view = aug.random_view((6, 8))
    _, labels = jax.jit(jax.vmap(view, (0, None, None)))(jax.random.split(KEY, 256), image, label)
    labels = np.asarray(labels)
    assert ((labels == 1).sum((1, 2)) == 12).all()
    corners = {tuple(np.argwhere(each == 1)[0].tolist()) for each in labels}
    assert corners == {(y, x) for y in range(4) for x in range(5)}


@pytest.mark.parametrize(
    "dtype",
    [jnp.bfloat16, *(pytest.param(t, marks=pytest.mark.slow) for t in (jnp.uint8, jnp.float32))],
)
def test_images_keep_their_type_and_labels_theirs(dtype):
    images, labels = batch_of(2)
    out, ids = jax.jit(jax.vmap(ALL))(
        jax.random.split(KEY, 2), images.astype(dtype), labels.astype(jnp.int32)
    )
    assert (out.dtype, ids.dtype) == (dtype, jnp.int32)
    assert np.isfinite(np.asarray(out, np.float32)).all()


def test_labels_that_cannot_hold_what_is_ignored_are_refused():
    image, label = blocks()
    with pytest.raises(InputError, match="uint8 cannot hold ignore_index=-1"):
        aug.view(image, label, size=(4, 4), ignore_index=-1)


def test_a_key_decides_alone_whatever_the_batch_and_the_place_in_it():
    images, labels = batch_of(4)
    keys = jax.random.split(KEY, 4)
    batch = jax.jit(aug.vmapped(ALL))
    out, ids = batch(keys, images, labels)
    order = np.array([2, 0, 3, 1])
    other, other_ids = batch(keys[order], images[order], labels[order])
    np.testing.assert_array_equal(out[order], other)
    np.testing.assert_array_equal(ids[order], other_ids)
    assert len(np.unique(out, axis=0)) == 4


def test_compose_gives_each_transform_a_key_of_its_own():
    seen = []

    def note(key, image, label):
        seen.append(jax.random.key_data(key).tolist())
        return image, label

    aug.compose(note, note, note)(KEY, None, None)
    assert len({tuple(each) for each in seen}) == 3


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_sometimes_is_as_often_as_it_says(probability):
    transform = aug.sometimes(probability, lambda key, image, label: (image + 1, label + 1))
    keys = jax.random.split(KEY, 4000)
    image, label = jax.vmap(transform, (0, None, None))(keys, jnp.zeros(()), jnp.zeros(()))
    np.testing.assert_array_equal(image, label)
    assert abs(float(image.mean()) - probability) < 4 * np.sqrt(0.25 / 4000)


def test_blur_keeps_what_is_constant_and_the_mean_far_from_edges():
    blur = jax.jit(aug.blur, static_argnames="radius")
    flat = jnp.full((9, 11, 3), 77, jnp.uint8)
    np.testing.assert_array_equal(blur(flat, 2.0, radius=5), flat)
    point = jnp.zeros((21, 21, 1)).at[10, 10].set(1000.0)
    spread = blur(point, 1.5, radius=5)
    assert abs(float(spread.sum()) - 1000) < 1e-2
    np.testing.assert_allclose(spread[..., 0], spread[..., 0].T, rtol=1e-5)
    np.testing.assert_array_equal(blur(point, 0.0, radius=5), point)


def test_a_box_of_cutmix_has_the_area_that_it_is_drawn_with():
    labels = jnp.stack([jnp.zeros((64, 64), jnp.int32), jnp.ones((64, 64), jnp.int32)])
    mix = aug.random_cutmix(1.0)
    keys = jax.random.split(KEY, 2000)
    images, ids = jax.jit(jax.vmap(mix, (0, None, None)))(keys, labels[..., None], labels)
    np.testing.assert_array_equal(images[..., 0], ids)
    share = np.asarray(ids).mean((1, 2))
    # Of a side s = sqrt(u), centred uniformly, E = s - s^2/4 stays inside; squared and averaged over u: 49/120 - ...
    u = (np.arange(10_000) + 0.5) / 10_000
    expected = ((np.sqrt(u) - u / 4) ** 2).mean()
    assert abs(share.mean() - expected) < 4 * share.std() / np.sqrt(2000) + 0.005


def test_copy_paste_moves_whole_classes_and_never_what_is_ignored():
    images, labels = batch_of(2)
    labels = labels.at[1, :3].set(255)
    mix = aug.random_copy_paste(5, 1.0, never=(1,))
    often, mixed = np.zeros(5), jax.jit(mix)
    images, labels = jax.device_get((images, labels))
    for key in jax.random.split(KEY, 40):
        image, label = jax.device_get(mixed(key, images, labels))
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


def test_a_mosaic_shows_the_corner_of_each_image_that_meets_the_centre():
    images, labels = batch_of(4, (8, 10))
    image, label = aug.mosaic(images, labels, centre=(3, 7))
    for got, parts in ((image, images), (label, labels)):
        np.testing.assert_array_equal(got[:3, :7], parts[0][5:, 3:])
        np.testing.assert_array_equal(got[:3, 7:], parts[1][5:, :3])
        np.testing.assert_array_equal(got[3:, :7], parts[2][:5, 3:])
        np.testing.assert_array_equal(got[3:, 7:], parts[3][:5, :3])


def test_mixes_that_do_not_happen_give_the_first_image():
    images, labels = batch_of(4)
    for mix in (aug.random_cutmix(0.0), aug.random_mosaic(0.0), aug.random_copy_paste(5, 0.0)):
        image, label = jax.jit(mix)(KEY, images, labels)
        np.testing.assert_array_equal(image, images[0])
        np.testing.assert_array_equal(label, labels[0])


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
        (lambda: aug.random_copy_paste(3, never=(3,)), r"classes \[3\] are none"),
    ],
)
def test_what_makes_no_sense_is_refused(make, message):
    with pytest.raises(InputError, match=message):
        make()


@pytest.mark.slow
def test_the_picture_of_every_transform_is_drawn(tmp_path):
    out = tmp_path / "augmentation.jpg"
    command = [sys.executable, "experiments/augmentation", "--out", out]
    root = Path(__file__).parents[2]
    paths = {"PYTHONPATH": str(root)}
    subprocess.run(command, cwd=root, env=os.environ | paths, check=True, capture_output=True)
    assert out.stat().st_size > 50_000
