import base64
import html
import io
import math
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from jaxseg import metrics
from jaxseg.data.sources.shapes import PALETTE, Shapes
from jaxseg.errors import InputError
from jaxseg.report import colorize, select, write_report
from jaxseg.report import semantic as sections
from jaxseg.tasks import Semantic
from jaxseg.tasks.task import Example

VOID = {"meta", "img", "br", "link"}


class Page(HTMLParser):
    """Checks that tags are balanced and collects text, images and references."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.images, self.references, self.tags = [], [], [], [], []
        self.feed(text)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.tags.append(tag)
        if tag == "img":
            self.images.append(attrs)
        self.references += [
            value for name, value in attrs.items() if name in ("src", "href", "action")
        ]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("style", "script"):
            self.text.append(data.strip())


def decode(image):
    kind, data = re.fullmatch(r"data:image/(\w+);base64,(.*)", image["src"]).groups()
    picture = Image.open(io.BytesIO(base64.b64decode(data)))
    assert picture.format.lower() == kind
    return np.asarray(picture.convert("RGB"))


def history(epochs=3):
    rows = []
    for step in range(1, 10 * epochs + 1):
        rows.append(
            {
                "kind": "train",
                "step": step,
                "loss": 2 / step,
                "learning_rate": 1e-3,
                "images_per_second": 70.0,
            }
        )
        if step % 10 == 0:
            scores = {
                "mean_iou": step / 100,
                "pixel_accuracy": step / 50,
                "mean_accuracy": step / 60,
                "iou": [0.5, None],
            }
            rows.append(
                {
                    "kind": "validation",
                    "epoch": step // 10,
                    "step": step,
                    "loss": 1 / step,
                    **scores,
                }
            )
    return rows


@pytest.fixture
def examples():
    source = Shapes(6, (24, 32), seed=5)
    return [
        Example(
            r["name"],
            r["image"],
            r["label"].astype(np.int32),
            np.roll(r["label"], 1, 0).astype(np.int32),
            i / 6,
        )
        for i, r in enumerate(source)
    ]


@pytest.fixture
def counts():
    return np.random.default_rng(0).integers(0, 1000, (7, 7)) + np.diag(np.full(7, 5000))


def write(path, counts, *, classes=None, palette=None, **options):
    """The page of a semantic run with these counts."""
    counts = np.asarray(counts)
    names = [f"class {k}" for k in range(len(counts))] if classes is None else classes
    if palette is None:
        palette = np.arange(3 * len(counts), dtype=np.uint8).reshape(-1, 3)
    colors = tuple(map(tuple, palette.tolist()))
    task = Semantic(len(counts), classes=tuple(names), palette=colors)
    shown = Semantic(len(PALETTE), palette=tuple(map(tuple, PALETTE.tolist())))
    options = {"title": "A run", "history": history(), "draw": shown.draw, **options}
    path = write_report(
        path / "report.html",
        cards=sections.cards(counts),
        score_curves={"mean IoU": "mean_iou", "pixel accuracy": "pixel_accuracy"},
        sections=sections.sections(counts, task.classes, task.colors),
        legend="".join(f"<li>{html.escape(name)}</li>" for name in names),
        score_title="mIoU",
        **options,
    )
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_shows_the_scores_of_the_counts(tmp_path, counts):
    page = write(tmp_path, counts)
    for score in (metrics.mean_iou, metrics.pixel_accuracy, metrics.mean_accuracy):
        assert f"{float(score(counts)):.4f}" in page.text
    for value in (*metrics.iou(counts), *metrics.dice(counts)):
        assert f"{float(value):.4f}" in page.text
    shares = 100 * counts / counts.sum(1, keepdims=True)
    for share in shares[shares >= 0.05]:
        assert f"{share:.1f}" in page.text
    assert page.tags.count("svg") == 4


def test_nothing_is_loaded_from_outside(tmp_path, counts, examples):
    page = write(tmp_path, counts, best=examples[:2], worst=examples[2:], palette=PALETTE)
    assert page.references
    assert all(reference.startswith("data:image/") for reference in page.references)
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert not re.search(r"url\(|@import|<script|<link|https?://", text)


def test_images_are_the_ones_given(tmp_path, counts, examples):
    page = write(tmp_path, counts, best=examples[:1], worst=examples[1:2], palette=PALETTE)
    assert [image["alt"] for image in page.images] == ["image", "truth", "prediction"] * 2
    image, truth, prediction = map(decode, page.images[:3])
    np.testing.assert_array_equal(image, examples[0].image)
    np.testing.assert_array_equal(truth, colorize(examples[0].truth, PALETTE))
    np.testing.assert_array_equal(prediction, colorize(examples[0].prediction, PALETTE))
    assert {"shapes-5-000000", "mIoU 0.000", "mIoU 0.167"} <= set(page.text)


def test_large_and_unusual_images_are_made_to_fit(tmp_path, counts):
    labels = np.zeros((1000, 1500), np.int32)
    examples = [
        Example("photo", np.zeros((1000, 1500, 3), np.uint8), labels, labels, 1.0),
        Example("grey", np.zeros((30, 40), np.uint8), labels[:30, :40], labels[:30, :40], 1.0),
        Example(
            "five channels",
            np.random.default_rng(0).random((30, 40, 5)),
            labels[:30, :40],
            labels[:30, :40],
            math.nan,
        ),
        Example("constant", np.full((3, 4, 2), -7.0), labels[:3, :4], labels[:3, :4], 1.0),
    ]
    page = write(tmp_path, counts, best=examples)
    sizes = [decode(image).shape for image in page.images]
    assert sizes[0] == sizes[1] == sizes[2]
    assert max(sizes[0]) <= 480
    assert sizes[3:9] == [(30, 40, 3)] * 6
    assert "mIoU n/a" in page.text


def test_names_are_escaped(tmp_path):
    evil = '"><script>alert(1)</script>&'
    image = np.zeros((2, 2, 3), np.uint8)
    example = Example(evil, image, image[..., 0].astype(int), image[..., 0].astype(int), 0.5)
    page = write(
        tmp_path,
        np.ones((2, 2), np.int64),
        title=evil,
        classes=[evil, "$title"],
        best=[example],
        facts={evil: evil, "recipe": {evil: {evil: evil}}},
    )
    assert "script" not in page.tags
    assert page.text.count(evil) >= 7
    assert "$title" in page.text


@pytest.mark.parametrize(
    "rows", [[], history()[:1], [{"kind": "train"}, {"kind": "other", "step": 1}]]
)
def test_an_empty_run_has_a_report(tmp_path, rows):
    page = write(tmp_path, np.zeros((3, 3), np.int64), history=rows)
    assert page.text.count("n/a") == 3 + 3 * 5
    assert "nothing recorded" in page.text


def test_losses_that_are_not_finite_are_left_out(tmp_path, counts):
    rows = [
        {
            "kind": "validation",
            "epoch": 1,
            "step": 1,
            "loss": math.nan,
            "mean_iou": math.nan,
            "pixel_accuracy": None,
        }
    ]
    page = write(tmp_path, counts, history=rows)
    assert "Lowest validation loss" not in page.text
    page = write(
        tmp_path,
        counts,
        history=[*rows, {"kind": "validation", "epoch": 2, "step": 2, "loss": 0.125}],
    )
    assert "0.125" in page.text


def test_absent_classes_have_no_score(tmp_path):
    counts = np.array([[8, 0, 2], [0, 0, 0], [0, 0, 5]])
    page = write(tmp_path, counts)
    assert "over 2 of 3 classes" in page.text
    assert page.text.count("n/a") == 4
    assert f"{np.mean([0.8, 5 / 7]):.4f}" in page.text


def test_many_classes_are_an_image_and_a_list(tmp_path):
    counts = np.eye(150, dtype=np.int64) * 100
    counts[3, 7] = 300
    page = write(tmp_path, counts)
    assert len(page.images) == 1
    assert "75.0 %" in page.text
    assert page.tags.count("tr") == 151 + 2


def test_counts_beyond_float32_and_one_class(tmp_path):
    page = write(tmp_path, np.array([[2**60, 0], [1, 2**40]]))
    assert f"{2**60 + 2**40 + 1:,}" in " ".join(page.text)
    assert "1.0000" in write(tmp_path, np.array([[4]])).text


def test_facts_are_shown_as_they_are_read(tmp_path, counts):
    facts = {
        "parameters": 14_329_415,
        "recipe": {
            "model": {"name": "unet", "options": {}},
            "data": {"size": (64, 96), "root": None, "lr": 2e-3, "on": True},
        },
    }
    page = write(tmp_path, counts, facts=facts)
    for text in ("14,329,415", "model.name", "unet", "64, 96", "data.root", "none", "0.002", "yes"):
        assert text in page.text


def test_an_existing_report_is_replaced_and_nothing_else_is_left(tmp_path, counts):
    write(tmp_path / "deep" / "run", counts)
    write(tmp_path / "deep" / "run", counts, title="Again")
    assert [file.name for file in (tmp_path / "deep" / "run").iterdir()] == ["report.html"]
    assert "Again" in (tmp_path / "deep" / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        {"counts": np.zeros((2, 3), np.int64)},
        {"counts": np.zeros((2, 2))},
        {"counts": np.zeros((2, 2), np.int64), "classes": ["one"]},
    ],
)
def test_parts_that_do_not_fit(tmp_path, options):
    with pytest.raises(InputError, match="expected integers"):
        write(tmp_path, **options)
    assert not list(tmp_path.iterdir())


def test_an_example_whose_parts_differ_in_size(tmp_path, counts, examples):
    wrong = examples[0]._replace(truth=np.zeros((3, 3), int))
    with pytest.raises(InputError, match="shapes-5-000000: an image"):
        write(tmp_path, counts, best=[wrong], palette=PALETTE)


@pytest.mark.parametrize(
    ("scores", "best", "worst"),
    [
        ([0.5, 0.1, 0.9, 0.3, 0.7], [0.9, 0.7], [0.1, 0.3]),
        ([0.2, 0.8, 0.5], [0.8, 0.5], [0.2]),
        ([0.4], [0.4], []),
        ([math.nan], [], []),
        ([math.nan, 0.6, 0.6, 0.6, 0.6, 0.6], [0.6, 0.6], [0.6, 0.6]),
        ([], [], []),
    ],
)
def test_the_best_and_the_worst_are_chosen(scores, best, worst):
    pixel = np.zeros((1, 1), np.uint8)
    high, low = select(
        (Example(str(i), pixel, pixel, pixel, s) for i, s in enumerate(scores)), count=2
    )
    assert [example.score for example in high] == best
    assert [example.score for example in low] == worst
    assert not {example.name for example in high} & {example.name for example in low}
