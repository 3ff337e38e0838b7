"""Tests data sets on the device: loading, memory checks, and the batches that are made of them."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.device.augment import compose, random_mosaic, random_view
from jaxseg.errors import InputError

KEY = jax.random.key(0)


def test_load_keeps_records_and_order():
    source = data.Shapes(5, (16, 24), seed=3)
    loaded = data.load(source)
    for index in range(5):
        record = source[index]
        np.testing.assert_array_equal(loaded.dataset.arrays["image"][index], record["image"])
        np.testing.assert_array_equal(loaded.dataset.arrays["label"][index], record["label"])
        assert loaded.names[index] == record["name"]
    assert loaded.unreadable == ()


class Odd:
    """A source with one record of another size."""

    targets = data.targets.labels(-1)

    def __init__(self, size=(8, 9)):
        self.size = size

    def __len__(self):
        return 4

    def __getitem__(self, index):
        size = self.size if index == 2 else (8, 9)
        if size == (0, 0):
            raise InputError("torn.png cannot be read")
        label = np.zeros(size, np.uint8)
        return {"image": np.zeros((*size, 3), np.uint8), "label": label, "name": f"odd-{index}"}


def test_load_widens_masks_for_the_fill_value():
    assert data.load(Odd()).dataset.arrays["label"].dtype == np.int32


def test_load_different_sizes_are_named():
    with pytest.raises(
        InputError, match="odd-0 is 8 x 9 x 3 uint8 and that of odd-2 is 8 x 7 x 3 uint8"
    ):
        data.load(Odd((8, 7)))


def test_load_reports_each_unreadable_record_once():
    loaded = data.load(data.SkipUnreadable(Odd((0, 0))))
    assert loaded.unreadable == ("torn.png cannot be read",)
    assert loaded.names == ("odd-0", "odd-1", "odd-3", "odd-3")


def devices(count, **stats):
    return [SimpleNamespace(memory_stats=lambda: stats or None, process_index=0)] * count


def test_load_shards_if_replicas_do_not_fit():
    """Five images of 288 bytes are 1,440 bytes replicated; six over three devices are 576 bytes on each."""
    source = data.Shapes(5, (8, 9))
    assert not data.load(source, devices=devices(3)).dataset.is_sharded
    assert not data.load(
        source, devices=devices(3, bytes_limit=2000, bytes_in_use=560)
    ).dataset.is_sharded
    dataset = data.load(source, devices=devices(3, bytes_limit=2000, bytes_in_use=561)).dataset
    assert dataset.is_sharded
    assert (len(dataset), len(dataset.arrays["image"])) == (5, 6)
    assert data.load(source, devices=devices(3, bytes_limit=576)).dataset.is_sharded


def test_load_ignores_devices_of_other_processes():
    """Only their process can query their memory."""
    other = SimpleNamespace(process_index=1)
    mine = devices(1, bytes_limit=1440)
    assert not data.load(data.Shapes(5, (8, 9)), devices=[*mine, other]).dataset.is_sharded


def test_load_follows_the_agreement_of_processes():
    source, three = data.Shapes(5, (8, 9)), devices(3)
    assert data.load(source, devices=three, agree=lambda fits: not fits).dataset.is_sharded
    assert not data.load(source, devices=three, agree=lambda fits: fits).dataset.is_sharded


def test_load_too_large_raises_with_both_numbers():
    message = r"sharded over 3 devices, the data set needs 576 bytes on each, but .* has 575 of 600 available"
    with pytest.raises(InputError, match=message):
        data.load(data.Shapes(5, (8, 9)), devices=devices(3, bytes_limit=600, bytes_in_use=25))


@pytest.mark.parametrize(
    "mixes", [(), pytest.param([random_mosaic()], marks=pytest.mark.slow)], ids=["alone", "mosaic"]
)
@pytest.mark.slow
def test_feed_depends_on_positions_not_on_batches(mixes):
    dataset = data.load(data.Shapes(9, (16, 16))).dataset
    feed = jax.jit(data.make_feed(random_view((16, 16), scale=(0.5, 2.0)), mixes))

    def stream(batch_size, steps):
        schedule = data.make_sampler(9, batch_size)(KEY, 0, steps)
        batches = [
            feed(dataset, {k: v[:, i] for k, v in schedule.items()}, KEY) for i in range(steps)
        ]
        return np.concatenate([batch["image"] for batch in batches])

    np.testing.assert_array_equal(stream(4, 5)[:18], stream(6, 3))
    first, second = stream(9, 2)[:9], stream(9, 2)[9:]
    assert not any(np.array_equal(image, other) for image in first for other in second)


def test_feed_samples_partners_from_the_whole_set():
    """The pixels of an image are its index, so that the quarters of a mosaic show the sampled images."""
    numbers = jnp.arange(20, dtype=jnp.uint8)[:, None, None] * jnp.ones((20, 8, 8), jnp.uint8)
    feed = jax.jit(data.make_feed(compose(), [random_mosaic(1.0)]))
    schedule = data.make_sampler(20, 20)(KEY, 0, 10)
    shown = [
        feed(
            data.DeviceDataset({"image": numbers[..., None], "label": numbers}),
            {k: v[:, i] for k, v in schedule.items()},
            KEY,
        )
        for i in range(10)
    ]
    labels = np.concatenate([each["label"] for each in shown])
    np.testing.assert_array_equal(labels[:, 0, 0], schedule["index"].T.ravel())
    partners = np.concatenate([labels[:, 0, 7], labels[:, 7, 0], labels[:, 7, 7]])
    count = np.bincount(partners, minlength=20)
    assert ((count - 30) ** 2 / 30).sum() < 43.8  # chi-square with 19 degrees of freedom, 0.1 %


def test_sampler_processes_share_a_batch():
    whole = data.make_sampler(7, 6)(KEY, 2, 3)
    parts = [data.make_sampler(7, 6, shard=(index, 3))(KEY, 2, 3) for index in range(3)]
    for name, array in whole.items():
        np.testing.assert_array_equal(np.concatenate([part[name] for part in parts]), array)
    with pytest.raises(InputError, match="batches of 6 for 4 processes"):
        data.make_sampler(7, 6, shard=(0, 4))


def test_shuffled_orders_differ_between_epochs_and_keys():
    order = data.shuffled(50)
    orders = {
        tuple(order(key, epoch).tolist()) for key in jax.random.split(KEY, 2) for epoch in (0, 1)
    }
    assert len(orders) == 4
