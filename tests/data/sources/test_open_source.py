"""Data sources by name: options are read into the source's dataclass, and mistakes are named with a way out."""

import subprocess
import sys
import textwrap

import numpy as np
import pytest

from jaxseg import data
from jaxseg.data.label_spec import LabelOptions
from jaxseg.data.targets import Target
from jaxseg.errors import InputError
from jaxseg.recipe import DataRecipe
from jaxseg.runs import sources

TWO = LabelOptions(num_classes=2)

DEPTH = '''
    """A source of a depth map, as a user would write it."""

    import dataclasses

    import numpy as np

    from jaxseg.data.targets import Target
    from jaxseg.errors import InputError


    class Ramps:
        targets = {"depth": Target("map", 0.0)}

        def __init__(self, length, size, slope):
            self.length, self.size, self.slope = length, size, slope

        def __len__(self):
            return self.length

        def __getitem__(self, index):
            if index == 1:
                raise InputError("ramp 1 is torn")
            depth = self.slope * np.mgrid[: self.size[0], : self.size[1]][0].astype(np.float32)
            image = np.repeat(depth[..., None], 3, -1).astype(np.uint8)
            return {"image": image, "depth": depth, "name": f"ramp-{index}"}


    @dataclasses.dataclass(frozen=True)
    class RampOptions:
        size: tuple[int, int]
        slope: float = 1.0

        def open(self, split, *, root, labels):
            return Ramps({"train": 4, "val": 2, "none": 0}[split], self.size, self.slope)


    @dataclasses.dataclass(frozen=True)
    class Bare:
        def open(self, split, *, root, labels):
            return [3]


    class Plain:
        def open(self, split, *, root, labels):
            return Ramps(4, (2, 2), 1.0)
'''


@pytest.fixture
def ramps(tmp_path, monkeypatch):
    """The module `ramps_of_tests` on the import path."""
    (tmp_path / "ramps_of_tests.py").write_text(textwrap.dedent(DEPTH))
    monkeypatch.syspath_prepend(str(tmp_path))
    yield "ramps_of_tests:RampOptions"
    sys.modules.pop("ramps_of_tests", None)


def test_open_source_own_dataclass_reads_its_options(ramps):
    source = data.open_source(ramps, "train", options={"size": [4, 6], "slope": 2})
    assert source.targets == {"depth": Target("map", 0.0)}
    assert source[0]["depth"].shape == (4, 6)
    assert source[0]["depth"].max() == 6.0


def test_open_source_skip_unreadable_replaces_records(ramps):
    source = data.open_source(ramps, "train", options={"size": [4, 6]}, skip_unreadable=True)
    assert source[1]["name"] == "ramp-2"
    assert source[1]["unreadable"] == ["ramp 1 is torn"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("camvit", {}, "unknown data source 'camvit'; did you mean 'camvid'"),
        ("folder", {"imges": "x"}, "option of data source 'folder' 'imges'; did you mean 'images'"),
        ("shapes", {"size": 64}, r"data\.options\.size cannot be 64"),
        ("shapes", {"size": (64, 64, 3)}, r"data\.options\.size cannot be \(64, 64, 3\)"),
        ("shapes", {"train_length": "many"}, r"data\.options\.train_length cannot be 'many'"),
        ("shapes", {"train_length": 0}, "split 'train' of shapes is empty"),
        ("tfds", {}, r"data\.options\.name is missing"),
        ("file_list", {}, r"data\.options\.list is missing"),
        ("camvid", {}, "needs a root folder"),
        ("folder", {}, "needs a root folder"),
        ("ramps_of_tests:RampOptions", {"slope": 1}, r"data\.options\.size is missing"),
        ("ramps_of_tests:RampOption", {}, "did you mean 'RampOptions'"),
        ("ramps_of_tests:Plain", {}, "is not a dataclass with a method `open`"),
        ("ramps_of_tests:Bare", {}, "an object of type list, which has no `targets`"),
    ],
)
def test_open_source_mistakes_are_named(ramps, name, options, message):
    with pytest.raises(InputError, match=message):
        data.open_source(name, "train", options=options)


def test_open_source_unknown_split_of_shapes_is_named():
    with pytest.raises(InputError, match="did you mean 'train'"):
        data.open_source("shapes", "trian")


def test_open_source_folder_without_classes_raises(tmp_path):
    with pytest.raises(InputError, match=r"needs a number of classes \(--data\.num-classes\)"):
        data.open_source("folder", "train", root=str(tmp_path))


def test_open_source_folder_images_without_masks_raises(tmp_path):
    with pytest.raises(InputError, match="give masks"):
        data.open_source("folder", "train", root=str(tmp_path), labels=TWO, options={"images": "a"})


def test_open_source_folder_of_own_layout_fills_in_the_split(pairs, tmp_path):
    options = {"images": "{split}/images", "masks": "{split}/masks"}
    for split, length in (("train", 2), ("val", 3)):
        pairs(count=length, labels=2, root=split)
        source = data.open_source("folder", split, root=str(tmp_path), labels=TWO, options=options)
        assert len(source) == length


def test_open_source_one_folder_for_all_splits_is_divided(pairs):
    root = str(pairs(count=10, labels=2))
    options = {"images": "images", "masks": "masks"}

    def opened(split):
        return data.open_source("folder", split, root=root, labels=TWO, options=options)

    train, held_out = opened("train"), opened("val")
    assert (len(train), len(held_out)) == (9, 1)
    assert held_out[0]["name"] not in {record["name"] for record in train}
    with pytest.raises(InputError, match="there is no 'test'"):
        opened("test")


def test_open_source_file_list_fills_in_the_split(pairs):
    root = pairs(count=3)
    for split in ("train", "val"):
        (root / f"{split}.txt").write_text("images/1.png masks/1.png")
    recipe = DataRecipe("file_list", str(root), {"list": "{split}.txt"}, num_classes=3)
    assert len(sources.open_source(recipe, "val")) == 1
    with pytest.raises(InputError, match=r"test\.txt cannot be read"):
        sources.open_source(recipe, "test")


def test_open_source_camvid_takes_label_options(tmp_path, write):
    write("train/a.png", np.zeros((3, 4, 3), np.uint8))
    write("trainannot/a.png", np.arange(12, dtype=np.uint8).reshape(3, 4))
    labels = LabelOptions(num_classes=10, reduce_zero_label=True)
    source = data.open_source("camvid", "train", root=str(tmp_path), labels=labels)
    assert source[0]["label"].ravel().tolist() == [255, *range(10), 255]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("num_classes", 2),
        ("classes", ("a", "b")),
        ("ignore_index", 0),
        ("label_map", {1: 0}),
        ("reduce_zero_label", True),
    ],
)
def test_open_source_shapes_refuse_other_labels(field, value):
    with pytest.raises(InputError, match=f"leave out --data.{field.replace('_', '-')}"):
        sources.open_source(DataRecipe(**{field: value}), "train")
    assert sources.open_source(DataRecipe(num_classes=7), "train").num_classes == 7


def test_opening_shapes_does_not_import_tensorflow_datasets():
    code = (
        "import sys; from jaxseg import data; data.open_source('shapes', 'val');"
        "assert not {'tensorflow_datasets', 'grain', 'albumentations'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
