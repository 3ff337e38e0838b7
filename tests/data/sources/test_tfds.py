import io
import pickle
import shutil
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jaxseg.data import TFDS, CamVid
from jaxseg.data.check import check
from jaxseg.data.labels import CAMVID_CLASSES
from jaxseg.data.sources import tfds_prepare
from jaxseg.errors import InputError

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (10, 6, 8, 3), dtype=np.uint8)
MASKS = RNG.integers(1, 4, (10, 6, 8), dtype=np.uint8)


def png(pixels, palette=False):
    file = io.BytesIO()
    image = Image.fromarray(pixels)
    if palette:
        image.putpalette(list(range(255, -1, -1)) * 3)
    image.save(file, "PNG")
    return file.getvalue()


def one_channel(**options):
    return tfds.features.Image(shape=(None, None, 1), encoding_format="png", **options)


def build(name, others, root, *, splits=("train", "test"), version="1.0.0"):
    """Prepares ten images without TensorFlow; others are features with a function of the index."""
    features = {"image": tfds.features.Image(encoding_format="png")}
    features |= {key: feature for key, (feature, _) in others.items()}

    def examples(self):
        for i in range(10):
            yield i, {"image": png(IMAGES[i]), **{k: value(i) for k, (_, value) in others.items()}}

    body = {
        "name": name,
        "VERSION": tfds.core.Version(version),
        "_info": lambda self: tfds.core.DatasetInfo(
            builder=self, features=tfds.features.FeaturesDict(features)
        ),
        "_split_generators": lambda self, manager: {split: examples(self) for split in splits},
        "_generate_examples": examples,
    }
    with tfds.core.registered.skip_registration():  # the name may be one of TFDS itself
        builder = type("Builder", (tfds.core.GeneratorBasedBuilder,), body)
        builder(data_dir=root, file_format="array_record").download_and_prepare()
    return root


def labels(source):
    return {source[i]["label"].tobytes() for i in range(len(source))}


@pytest.fixture(scope="module")
def streets(tmp_path_factory):
    """A data set with a scalar label, a mask with declared labels and names of records."""
    names = ["road", "kerb", "grass", "other"]
    masks = {
        "segmentation_mask": (
            tfds.features.LabeledImage(labels=names, encoding_format="png"),
            lambda i: png(MASKS[i], palette=True),
        ),
        "file_name": (tfds.features.Text(), lambda i: f"street_{i}"),
        "label": (tfds.features.ClassLabel(num_classes=3), lambda i: 0),
    }
    return build("streets", masks, tmp_path_factory.mktemp("streets"))


def test_tfds_reads_images_masks_and_names(streets):
    source = TFDS("streets", "test", data_dir=streets)
    assert len(source) == 10
    assert (source.num_classes, source.classes) == (4, ("road", "kerb", "grass", "other"))
    for record in (source[i] for i in range(10)):
        i = int(record["name"].removeprefix("street_"))
        assert np.array_equal(record["image"], IMAGES[i])
        assert np.array_equal(record["label"], MASKS[i])  # the indices, not the palette's colours
        assert record["label"].dtype == np.uint8
    assert check(source).ok
    again = pickle.loads(pickle.dumps(source))
    assert np.array_equal(again[3]["image"], source[3]["image"])
    assert "tensorflow" not in sys.modules


def test_tfds_takes_label_options(streets):
    source = TFDS(
        "streets",
        "test",
        data_dir=streets,
        num_classes=2,
        classes="ab",
        label_map={1: 0, 2: 1, 3: 1},
    )
    assert source.classes == ("a", "b")
    assert labels(source) == {(MASKS[i] > 1).astype(np.uint8).tobytes() for i in range(10)}
    assert TFDS("streets", "test", data_dir=streets, num_classes=5).classes == tuple("01234")


def test_tfds_without_val_split_holds_out_a_tenth(streets):
    train, val = (TFDS("streets", split, data_dir=streets) for split in ("train", "val"))
    assert (len(train), len(val)) == (9, 1)
    assert labels(train) | labels(val) == {mask.tobytes() for mask in MASKS}
    assert len(TFDS("streets", "train[:50%]+test", data_dir=streets)) == 15
    for wrong in ("trian", "train[:x]"):
        with pytest.raises(InputError, match="streets"):
            TFDS("streets", wrong, data_dir=streets)


def test_tfds_finds_validation_split(tmp_path):
    masks = {"mask": (one_channel(), lambda i: png(MASKS[i]))}
    build("halves", masks, tmp_path, splits=("train", "validation"))
    train, val = (TFDS("halves", s, data_dir=tmp_path, num_classes=4) for s in ("train", "val"))
    assert (len(train), len(val)) == (10, 10)
    assert (train.split, val.split) == ("train", "validation")
    assert val[0]["name"] == "validation/0"
    with pytest.raises(InputError, match=r"no split 'test', but train, validation"):
        TFDS("halves", "test", data_dir=tmp_path, num_classes=4)
    with pytest.raises(InputError, match="give num_classes"):
        TFDS("halves", "val", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"label 2 in the mask of halves validation\[\d\]"):
        check_all(TFDS("halves", "val", data_dir=tmp_path, num_classes=2))


def check_all(source):
    return [source[i] for i in range(len(source))]


def test_tfds_mask_may_be_a_tensor(tmp_path):
    feature = tfds.features.Tensor(shape=(6, 8, 1), dtype=np.int32)
    build(
        "tensors", {"anything": (feature, lambda i: MASKS[i].astype(np.int32)[..., None])}, tmp_path
    )
    source = TFDS("tensors", "test", data_dir=tmp_path, num_classes=4)
    assert source.mask_key == "anything"
    assert labels(source) == {mask.tobytes() for mask in MASKS}


def test_tfds_missing_feature_lists_all(tmp_path):
    masks = {key: (one_channel(), lambda i: png(MASKS[i])) for key in ("left", "right")}
    build("pairs", masks, tmp_path)
    options = {"data_dir": tmp_path, "num_classes": 4}
    with pytest.raises(
        InputError,
        match=r"has several candidates for the mask, or none.*give mask_key\. Features: image \(Image .*left.*right",
    ):
        TFDS("pairs", "test", **options)
    with pytest.raises(InputError, match=r"no mask 'middle'.*left.*right"):
        TFDS("pairs", "test", mask_key="middle", **options)
    with pytest.raises(InputError, match=r"no image 'photo': give image_key\. Features: image"):
        TFDS("pairs", "test", image_key="photo", **options)
    assert TFDS("pairs", "test", mask_key="right", **options).mask_key == "right"


def test_tfds_unreadable_records_are_named(tmp_path):
    def mask(i):
        return (
            b"nonsense" if i == 4 else png(np.zeros((5, 5), np.uint8)) if i == 6 else png(MASKS[i])
        )

    build("spoilt", {"mask": (one_channel(), mask)}, tmp_path)
    problems = check(TFDS("spoilt", "test", data_dir=tmp_path, num_classes=4)).problems
    assert len(problems) == 2
    assert all("mask of spoilt test[" in problem for problem in problems)


def test_tfds_pets_have_a_label_map(tmp_path):
    others = {
        "segmentation_mask": (one_channel(), lambda i: png(MASKS[i])),
        "label": (tfds.features.ClassLabel(num_classes=37), lambda i: i),
        "species": (tfds.features.ClassLabel(num_classes=2), lambda i: 0),
        "file_name": (tfds.features.Text(), lambda i: f"Abyssinian_{i}.jpg"),
        "head_bbox": (
            tfds.features.BBoxFeature(),
            lambda i: tfds.features.BBox(0.0, 0.0, 1.0, 1.0),
        ),
    }
    build("oxford_iiit_pet", others, tmp_path, version="4.0.0")
    source = TFDS("oxford_iiit_pet", "test", data_dir=tmp_path)
    assert source.classes == ("pet", "background", "border")
    assert labels(source) == {(mask - 1).tobytes() for mask in MASKS}
    binary = TFDS(
        "oxford_iiit_pet", "test", data_dir=tmp_path, num_classes=1, label_map={1: 1, 2: 0, 3: 1}
    )
    assert labels(binary) == {(mask != 2).astype(np.uint8).tobytes() for mask in MASKS}


def test_tfds_unknown_or_unprepared_raises(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="did you mean 'oxford_iiit_pet'"):
        TFDS("oxford_iit_pet", "train", data_dir=tmp_path)
    with pytest.raises(InputError, match="did you mean 'camvid'"):
        TFDS("canvid", "train", data_dir=tmp_path)
    with pytest.raises(InputError, match="Parsing builder name"):
        TFDS("oxford pet!", "train", data_dir=tmp_path)
    monkeypatch.setattr(tfds_prepare.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(
        InputError, match=r"tfds-prepare.*tfds build oxford_iiit_pet --file_format=array_record"
    ):
        TFDS("oxford_iiit_pet", "train", data_dir=tmp_path)
    with pytest.raises(InputError, match=r"manual_dir, but .*manual is not a folder\. Put"):
        TFDS("camvid", "train", data_dir=tmp_path)


def test_tfds_camvid_equals_files(camvid_root, tmp_path):
    raw = tmp_path / "raw"
    for split in ("train", "val", "test"):
        for folder in (split, f"{split}annot"):
            (raw / folder).mkdir(parents=True)
            for file in sorted((camvid_root / folder).iterdir())[:4]:
                shutil.copy(file, raw / folder)
    compare_with_files(raw, tmp_path / "tfds", {"train": 4, "val": 4, "test": 4})
    merged = TFDS(
        "camvid",
        "val",
        data_dir=tmp_path / "tfds",
        num_classes=2,
        label_map=dict.fromkeys(range(11), 1),
    )
    assert set(np.unique(merged[0]["label"])) == {1, 255}


@pytest.mark.slow
def test_tfds_all_of_camvid_equals_files(camvid_root, tmp_path):
    compare_with_files(camvid_root, tmp_path, {"train": 367, "val": 101, "test": 233})


def compare_with_files(raw, data_dir, lengths):
    for split, length in lengths.items():
        prepared = TFDS("camvid", split, data_dir=data_dir, manual_dir=raw)
        files = CamVid(raw, split)
        assert len(prepared) == len(files) == length
        assert prepared.classes == files.classes == CAMVID_CLASSES
        assert np.array_equal(prepared.palette, files.palette)
        by_name = {record["name"]: record for record in check_all(prepared)}
        for record in check_all(files):
            for key in ("image", "label"):
                assert np.array_equal(by_name[record["name"]][key], record[key])
    assert "tensorflow" not in sys.modules
