import pickle
import unicodedata

import numpy as np
import pytest
from PIL import Image

from jaxseg.data import CamVid, Folder, Subset, folder
from jaxseg.data.labels import CAMVID_CLASSES, LabelMap
from jaxseg.data.sources.subset import holdout
from jaxseg.errors import InputError

GREY = np.zeros((6, 8), np.uint8)
COLOUR = np.zeros((6, 8, 3), np.uint8)


def names(source):
    return [record["name"] for record in source]


def test_folder_pairs_images_and_masks(pairs):
    root = pairs(count=3, labels=3)
    source = Folder(root / "images", root / "masks", num_classes=3, classes=("a", "b", "c"))
    assert names(source) == ["0", "1", "2"]
    record = source[1]
    assert np.array_equal(record["image"], np.asarray(Image.open(root / "images" / "1.png")))
    assert np.array_equal(record["label"], np.asarray(Image.open(root / "masks" / "1.png")))
    assert record["image"].dtype == record["label"].dtype == np.uint8
    assert (source.num_classes, source.classes, source.ignore_index) == (3, ("a", "b", "c"), 255)
    assert source.palette.shape == (3, 3)
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again[1]["image"], record["image"])


def test_folder_matches_stems_across_formats(tmp_path, write):
    for name in ("images/x/a.JPG", "images/y/a.png", "images/b.c.tif", "images/d.bmp"):
        write(name, COLOUR)
    for name in ("masks/x/a.png", "masks/y/a.TIFF", "masks/b.c.png", "masks/d.PNG"):
        write(name, GREY)
    write("masks/extra.png", GREY)
    (tmp_path / "images" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "images" / "._d.bmp").write_bytes(b"x")
    source = Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    assert names(source) == ["b.c", "d", "x/a", "y/a"]


def test_folder_follows_links(tmp_path, write):
    write("far/a.png", COLOUR)
    write("masks/near/a.png", GREY)
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "near").symlink_to(tmp_path / "far")
    assert names(Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)) == ["near/a"]


def test_folder_ignores_circular_links(tmp_path, write):
    write("images/a.png", COLOUR)
    write("masks/a.png", GREY)
    for kind in ("images", "masks"):
        (tmp_path / kind / "loop").symlink_to(tmp_path / kind)
    found = names(Folder(tmp_path / "images", tmp_path / "masks", num_classes=2))
    assert found == ["a"]


def test_folder_matches_accents_in_any_normal_form(tmp_path, write):
    write(unicodedata.normalize("NFC", "images/é.png"), COLOUR)
    write(unicodedata.normalize("NFD", "masks/é.png"), GREY)
    assert len(Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)) == 1


def test_folder_split_without_masks_raises(tmp_path, write):
    for name in ("images/train/a.png", "images/train/b.png", "images/val/c.png"):
        write(name, COLOUR)
    for name in ("masks/train/a.png", "masks/train/b.png"):
        write(name, GREY)
    with pytest.raises(InputError, match="val has no folder of masks"):
        folder(tmp_path, "val", num_classes=2)


def test_folder_removes_suffixes(tmp_path, write):
    write("images/a_img.png", COLOUR)
    write("masks/a_mask.png", GREY)
    options = {"num_classes": 2, "image_suffix": "_img", "mask_suffix": "_mask"}
    assert names(Folder(tmp_path / "images", tmp_path / "masks", **options)) == ["a"]


def test_folder_missing_masks_are_counted_and_named(tmp_path, write):
    for i in range(9):
        write(f"images/{i}.png", COLOUR)
    write("masks/3.png", GREY)
    with pytest.raises(InputError, match=r"8 of 9 images have no mask .*0\.png.* and 3 more$"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)


def test_folder_common_mask_suffix_is_suggested(tmp_path, write):
    for i in range(3):
        write(f"images/{i}.png", COLOUR)
        write(f"masks/{i}_mask.png", GREY)
    with pytest.raises(InputError, match="give mask_suffix='_mask'"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)


@pytest.mark.parametrize("kind", ["images", "masks"])
def test_folder_two_files_of_one_stem_raise(tmp_path, write, kind):
    write("images/a.png", COLOUR)
    write("masks/a.png", GREY)
    write(f"{kind}/a.jpg", GREY)
    with pytest.raises(InputError, match=rf"two {kind} have the stem 'a': .*a\.jpg and .*a\.png"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)


def test_folder_empty_or_missing_raises(tmp_path, write):
    write("masks/a.png", GREY)
    with pytest.raises(InputError, match=r"the folder of images .*images does not exist"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"no image \(bmp, jpeg.*images: it is empty"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    (tmp_path / "images" / "a.gif").write_bytes(b"x")
    with pytest.raises(InputError, match="it holds 1 other files"):
        Folder(tmp_path / "images", tmp_path / "masks", num_classes=2)
    with pytest.raises(InputError, match=r"a\.png is not a folder"):
        Folder(tmp_path / "masks" / "a.png", tmp_path / "masks", num_classes=2)


def one(tmp_path, write, image, mask, **options):
    write("images/a.png", image)
    write("masks/a.png", mask)
    return Folder(tmp_path / "images", tmp_path / "masks", **{"num_classes": 2, **options})[0]


def test_folder_different_sizes_raise(tmp_path, write):
    with pytest.raises(InputError, match=r"masks/a\.png is 7x6 pixels .*images/a\.png is 8x6$"):
        one(tmp_path, write, COLOUR, GREY[:, :7])
    with pytest.raises(InputError, match="EXIF"):
        one(tmp_path, write, COLOUR, GREY.T)


def test_folder_label_out_of_range_names_the_file(tmp_path, write):
    mask = GREY.copy()
    mask[0, :3] = 37
    with pytest.raises(InputError, match=r"label 37 in .*masks/a\.png.*0: 45, 37: 3"):
        one(tmp_path, write, COLOUR, mask)


def test_folder_label_map_and_many_classes(tmp_path, write):
    mask = np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000
    record = one(tmp_path, write, COLOUR, mask, num_classes=48_000, ignore_index=-1, label_map=None)
    assert record["label"].dtype == np.int32
    assert np.array_equal(record["label"], mask)
    record = one(
        tmp_path,
        write,
        COLOUR,
        mask,
        label_map={i * 1000: None if i == 0 else i % 2 for i in range(48)},
    )
    expected = np.arange(48).reshape(6, 8) % 2
    expected[0, 0] = 255
    assert np.array_equal(record["label"], expected)


def test_folder_orientation_applies_to_both(tmp_path):
    pixels = np.arange(48, dtype=np.uint8).reshape(6, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    for kind in ("images", "masks"):
        (tmp_path / kind).mkdir()
        Image.fromarray(pixels).save(tmp_path / kind / "a.png", exif=exif)
    record = Folder(tmp_path / "images", tmp_path / "masks", num_classes=48)[0]
    assert record["label"].shape == (8, 6)
    assert np.array_equal(record["image"][..., 0], record["label"])
    assert np.array_equal(record["label"], np.rot90(pixels, -1))


@pytest.mark.parametrize(
    "layout",
    [
        ("images/{}", "masks/{}"),
        ("{}/images", "{}/masks"),
        ("img_dir/{}", "ann_dir/{}"),
        ("images/{}", "annotations/{}"),
        ("{}/images", "{}/labels"),
    ],
)
@pytest.mark.parametrize("train", ["train", "training"])
@pytest.mark.parametrize("val", ["val", "validation"])
def test_folder_finds_common_layouts(tmp_path, write, layout, train, val):
    for kind, pixels in zip(layout, (COLOUR, GREY), strict=True):
        write(f"{kind.format(train)}/a.png", pixels)
        write(f"{kind.format(val)}/b.png", pixels)
    assert names(folder(tmp_path, "train", num_classes=2)) == ["a"]
    assert names(folder(tmp_path, "val", num_classes=2)) == ["b"]
    with pytest.raises(InputError, match=r"no 'test' split .* found: train, val"):
        folder(tmp_path, "test", num_classes=2)


@pytest.mark.parametrize("below", ["", "/train"])
def test_folder_without_val_split_holds_out_a_tenth(tmp_path, write, below):
    for i in range(40):
        write(f"images{below}/{i}.png", COLOUR)
        write(f"masks{below}/{i}.png", GREY)
    train, val = (folder(tmp_path, split, num_classes=2) for split in ("train", "val"))
    assert isinstance(val, Subset)
    assert (len(train), len(val)) == (36, 4)
    assert sorted(names(train) + names(val)) == sorted(map(str, range(40)))
    assert names(folder(tmp_path, "val", num_classes=2)) == names(val)
    with pytest.raises(InputError, match="no 'test' split"):
        folder(tmp_path, "test", num_classes=2)


def test_holdout_does_not_depend_on_the_order(pairs):
    root = pairs(count=20)
    few = names(holdout(Folder(root / "images", root / "masks", num_classes=3), "val"))
    root = pairs(count=22)
    more = names(holdout(Folder(root / "images", root / "masks", num_classes=3), "val"))
    assert len(few) == len(more) == 2
    assert few != ["0", "1"]


def test_holdout_of_one_image_raises(pairs):
    root = pairs(count=1)
    with pytest.raises(InputError, match="one image cannot be divided"):
        folder(root, "train", num_classes=3)
    with pytest.raises(InputError, match="between 0 and 1"):
        folder(pairs(count=3), "train", fraction=1.0, num_classes=3)


def test_folder_unknown_layout_or_split_raises(tmp_path):
    with pytest.raises(InputError, match="does not exist"):
        folder(tmp_path / "gone", "train", num_classes=2)
    with pytest.raises(InputError, match=r"splits found: none\. Expected images/train"):
        folder(tmp_path, "train", num_classes=2)
    with pytest.raises(InputError, match="unknown split 'trian'; did you mean 'train'"):
        folder(tmp_path, "trian", num_classes=2)


def test_camvid_ignores_void(tmp_path, write):
    write("train/a.png", np.zeros((3, 4, 3), np.uint8))
    write("trainannot/a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
    source = CamVid(tmp_path, "train")
    assert source[0]["label"].ravel().tolist() == [*range(11), 255]
    assert (source.num_classes, source.classes) == (11, CAMVID_CLASSES)
    merged = CamVid(
        tmp_path, "train", num_classes=2, ignore_index=9, label_map=dict.fromkeys(range(11), 1)
    )
    assert merged[0]["label"].ravel().tolist() == [1] * 11 + [9]
    assert merged.classes == ("0", "1")
    shifted = CamVid(tmp_path, "train", num_classes=10, label_map=LabelMap(reduce_zero_label=True))
    assert shifted[0]["label"].ravel().tolist() == [255, *range(10), 255]
    with pytest.raises(InputError, match="unknown split 'validation'"):
        CamVid(tmp_path, "validation")
    with pytest.raises(InputError, match=r"the folder of images .*val does not exist"):
        CamVid(tmp_path, "val")


def test_camvid_real_data_set_is_complete(camvid_root):
    assert [len(CamVid(camvid_root, s)) for s in ("train", "val", "test")] == [367, 101, 233]
    record = CamVid(camvid_root, "train")[0]
    assert record["image"].shape == (360, 480, 3)
    assert set(np.unique(record["label"])) <= {*range(11), 255}
