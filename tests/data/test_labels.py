import json
import pickle

import numpy as np
import pytest

from jaxseg.data.label_spec import LabelSpec
from jaxseg.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, LabelMap, ids_from_colors, palette
from jaxseg.errors import InputError


def test_palette_equals_voc():
    voc = [(0, 0, 0), (128, 0, 0), (0, 128, 0), (128, 128, 0), (0, 0, 128), (128, 0, 128)]
    assert palette(6).tolist() == [list(color) for color in voc]
    assert palette(21)[20].tolist() == [0, 64, 128]
    assert palette(1).shape == (2, 3)
    assert len(np.unique(palette(256), axis=0)) == 256


def test_camvid_palette_has_a_colour_for_each_class():
    assert len(CAMVID_CLASSES) == 11
    assert CAMVID_PALETTE.shape == (11, 3)
    assert len(np.unique(CAMVID_PALETTE, axis=0)) == 11


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32, np.int64, ">u2"])
def test_label_map_equals_a_loop(dtype):
    ids = {0: 3, 4: 0, 7: 0, 200: 1, 9: None}
    labels = np.random.default_rng(0).choice([0, 4, 7, 200, 9, 255, 31], (40, 30)).astype(dtype)
    expected = [{**ids, 255: 255, 31: 255}[int(i)] for i in labels.flat]
    expected = [255 if i is None else i for i in expected]
    mapped = LabelMap(ids, ignored=(31,))(labels)
    assert mapped.dtype == np.int32
    assert mapped.ravel().tolist() == expected


def test_label_map_of_sparse_and_negative_ids():
    labels = np.array([[-7, 0], [1_000_000, 5]], np.int32)
    mapped = LabelMap({-7: 0, 0: 1, 1_000_000: 2, 5: None})(labels, ignore_index=-1)
    assert mapped.tolist() == [[0, 1], [2, -1]]


def test_label_map_reduces_zero_label():
    labels = np.array([0, 1, 2, 150, 255], np.uint8)
    assert LabelMap(reduce_zero_label=True)(labels).tolist() == [255, 0, 1, 149, 255]


def test_label_map_may_map_ignore_index():
    assert LabelMap({0: 0, 255: 1})(np.array([0, 255], np.uint8)).tolist() == [0, 1]


def test_label_map_survives_json_and_pickle():
    written = json.loads(json.dumps({0: 0, 255: 1}))
    assert LabelMap(written) == LabelMap({0: 0, 255: 1})
    assert pickle.loads(pickle.dumps(LabelMap(written))) == LabelMap(written)


def test_label_map_unknown_id_is_named_with_counts():
    labels = np.array([[0, 0, 5], [5, 1, 9]], np.uint8)
    with pytest.raises(InputError, match=r"label 5 in b\.png .* 0: 2, 1: 1, 5: 2, 9: 1"):
        LabelMap({0: 0, 1: 1})(labels, name="b.png")


@pytest.mark.parametrize(
    "arguments",
    [
        {"ids": {0: 1}, "reduce_zero_label": True},
        {"ids": {"road": 1}},
        {"ids": {0: "road"}},
        {"ids": [0, 1]},
        {"ids": {}},
        {"ignored": 7},
    ],
)
def test_label_map_invalid_arguments_raise(arguments):
    with pytest.raises(InputError):
        LabelMap(**arguments)


@pytest.mark.parametrize(
    ("num_classes", "ignore_index", "dtype"),
    [
        (1, 255, np.uint8),
        (255, 255, np.uint8),
        (256, 0, np.uint8),
        (300, -1, np.int32),
        (11, -1, np.int32),
        (11, 1000, np.int32),
    ],
)
def test_label_spec_dtype_holds_every_label(num_classes, ignore_index, dtype):
    spec = LabelSpec(num_classes, ignore_index=ignore_index)
    top = spec.num_labels - 1
    encoded = spec.encode(np.array([[0, top, ignore_index]], np.int32), "a.png")
    assert encoded.dtype == dtype
    assert encoded.tolist() == [[0, top, ignore_index]]


def test_label_spec_one_class_has_two_labels():
    spec = LabelSpec(1, classes=("road",))
    assert spec.classes == ("background", "road")
    assert spec.palette.shape == (2, 3)
    with pytest.raises(InputError, match="label 2 in a"):
        spec.encode(np.array([[0, 1, 2]]), "a")


def test_label_spec_label_out_of_range_is_named():
    with pytest.raises(
        InputError, match=r"label 37 in x/a\.png, but num_classes=12 and ignore_index=255; .*37: 2"
    ):
        LabelSpec(12).encode(np.array([[0, 37, 37, 255]], np.uint8), "x/a.png")
    with pytest.raises(InputError, match="label -4 in a"):
        LabelSpec(12).encode(np.array([[0, -4]], np.int32), "a")
    with pytest.raises(InputError, match=r"label 12 in a.*after the label map"):
        LabelSpec(12, label_map={0: 12}).encode(np.zeros((1, 1), np.uint8), "a")


def test_label_spec_errors_suggest_a_correction():
    with pytest.raises(InputError, match=r"label map \{0: 0, 255: 1\}"):
        LabelSpec(2, ignore_index=-1).encode(np.array([[0, 255]], np.uint8), "a.png")
    with pytest.raises(InputError, match=r"blurred .* JPEG"):
        LabelSpec(2).encode(np.arange(200, dtype=np.uint8)[None], "a.jpg")


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_classes": 0},
        {"num_classes": 256},
        {"num_classes": 3, "classes": ("a", "b")},
        {"num_classes": 3, "palette": np.zeros((2, 3))},
        {"num_classes": 3, "label_map": {"a": 1}},
    ],
)
def test_label_spec_inconsistent_arguments_raise(arguments):
    with pytest.raises(InputError):
        LabelSpec(**arguments)


def test_ids_from_colors_maps_each_colour():
    colors = {(0, 0, 0): 0, (128, 64, 128): 7, (1, 2, 3): 300}
    mask = np.array([[(0, 0, 0), (128, 64, 128)], [(1, 2, 3), (0, 0, 0)]], np.uint8)
    assert ids_from_colors(mask, colors).tolist() == [[0, 7], [300, 0]]
    assert ids_from_colors(mask[:1], colors).dtype == np.uint8
    mask[0, 0] = 9
    with pytest.raises(InputError, match=r"1 colours .* \(9, 9, 9\)"):
        ids_from_colors(mask, colors)
    assert ids_from_colors(mask, colors, other=255)[0, 0] == 255


def test_label_map_ids_that_are_absent_change_nothing():
    labels = np.array([5, 6, 5], np.uint8)
    assert LabelMap({5: 1, 6: 0, 0: 3, 9: 4})(labels).tolist() == [1, 0, 1]
