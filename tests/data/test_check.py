import numpy as np
import pytest

from jaxseg.data import CamVid, Folder
from jaxseg.data.check import check, check_sample
from jaxseg.data.sources.shapes import Shapes
from jaxseg.data.targets import labels
from jaxseg.errors import InputError


def source(root, **options):
    return Folder(root / "images", root / "masks", **{"num_classes": 3, **options})


def test_check_valid_data_set_counts_pixels(pairs):
    root = pairs(count=5, labels=2)
    found = check(source(root, classes=("a", "b", "c")))
    masks = np.stack([source(root)[i]["label"] for i in range(5)])
    assert found.ok
    assert found.count == 5
    assert found.pixels == ((masks == 0).sum(), (masks == 1).sum(), 0)
    assert found.images == (5, 5, 0)
    assert found.ignored == 0
    assert found.sizes == {(6, 8): 5}
    assert found.notes == ("absent from the labels of 5 images: c",)


def test_check_lists_every_problem(pairs, write, tmp_path):
    root = pairs(count=6)
    (root / "images" / "1.png").write_bytes(b"")
    (root / "images" / "2.png").write_bytes((root / "images" / "2.png").read_bytes()[:90])
    write("masks/3.png", np.zeros((5, 5), np.uint8))
    write("masks/4.png", np.full((6, 8), 77, np.uint8))
    write("masks/5.png", np.random.default_rng(0).integers(0, 9, (6, 8, 3), dtype=np.uint8))
    done = []
    found = check(source(root), on_image=done.append)
    assert not found.ok
    assert [next(i for i in range(6) if f"{i}.png" in p) for p in found.problems] == [1, 2, 3, 4, 5]
    assert done == [1, 2, 3, 4, 5, 6]
    with pytest.raises(InputError, match=r"1\.png is empty"):
        check_sample(source(root))


@pytest.mark.parametrize("num_classes", [1, 2, 5])
def test_check_sample_binary_masks_of_255_raise(tmp_path, write, num_classes):
    for i in range(3):
        write(f"images/{i}.png", np.zeros((4, 4, 3), np.uint8))
        write(f"masks/{i}.png", np.eye(4, dtype=np.uint8) * 255)
    spoilt = source(tmp_path, num_classes=num_classes)
    with pytest.raises(InputError, match=r"train on nothing.*label map \{0: 0, 255: 1\}"):
        check_sample(spoilt)
    assert len(check(spoilt).problems) == 1
    mended = source(tmp_path, num_classes=num_classes, label_map={0: 0, 255: 1})
    assert check_sample(mended).pixels[:2] == (36, 12)


def test_check_sample_void_border_is_accepted(tmp_path, write):
    write("images/0.png", np.zeros((4, 4, 3), np.uint8))
    write("masks/0.png", np.diag([0, 255, 1, 1]).astype(np.uint8))
    assert check_sample(source(tmp_path, num_classes=2)).ignored == 1


def test_check_sample_only_ignored_labels_raise(tmp_path, write):
    write("images/0.png", np.zeros((4, 4, 3), np.uint8))
    write("masks/0.png", np.full((4, 4), 255, np.uint8))
    with pytest.raises(InputError, match=r"every pixel of all 1 images .* is ignored"):
        check_sample(source(tmp_path))


def test_check_sample_is_spread_over_the_data_set():
    class Counting:
        num_classes, classes, targets, ignore_index = 2, ("a", "b"), labels(), 255

        def __init__(self):
            self.seen = []

        def __len__(self):
            return 1000

        def __getitem__(self, index):
            self.seen.append(index)
            return {"image": np.zeros((2, 2, 3), np.uint8), "label": np.eye(2, dtype=np.uint8)}

    counting = Counting()
    assert check_sample(counting, count=11).count == 11
    assert sorted(counting.seen)[:2] == [0, 100]
    assert max(counting.seen) == 999


def test_check_sample_shapes_are_valid():
    found = check_sample(Shapes(8, (32, 32), seed=0))
    assert found.ok
    assert found.count == 8


def test_check_raises_other_errors():
    class Broken(Shapes):
        def __getitem__(self, index):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        check(Broken(2, (32, 32), seed=0))


@pytest.mark.slow
def test_check_real_camvid_is_valid(camvid_root):
    for split in ("train", "val", "test"):
        found = check(CamVid(camvid_root, split))
        assert found.ok
        assert found.sizes == {(360, 480): found.count}
        assert all(found.pixels)
