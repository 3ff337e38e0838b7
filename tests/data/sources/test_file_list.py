"""Tests lists of images and masks, valid and malicious."""

import numpy as np
import pytest

from jaxseg.data import FileList, read_list
from jaxseg.errors import InputError


@pytest.fixture
def root(pairs, write):
    root = pairs(count=3)
    write("images/a b.png", np.zeros((6, 8, 3), np.uint8))
    return root


def names(root, text):
    (root / "list.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    return [name for name, _, _ in read_list(root, root / "list.txt")]


def test_file_list_keeps_its_order(root):
    text = "# all\r\nimages/2.png masks/2.png\r\n\r\n  images/a b.png\tmasks/0.png\nimages/1.png   masks/1.png"
    assert names(root, text) == ["images/2", "images/a b", "images/1"]
    source = FileList(root, root / "list.txt", num_classes=3)
    assert [record["image"].shape for record in source] == [(6, 8, 3)] * 3
    assert source[1]["name"] == "images/a b"


@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
def test_file_list_may_begin_with_a_byte_order_mark(root, encoding):
    """PowerShell writes UTF-16."""
    mark = "\ufeff" if encoding in ("utf-16-le", "utf-16-be") else ""
    text = f"{mark}images/a b.png\tmasks/0.png\nimages/1.png masks/1.png\n"
    assert names(root, text.encode(encoding)) == ["images/a b", "images/1"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("/etc/passwd masks/0.png", "must be relative"),
        ("images/0.png ../masks/0.png", r"without \.\."),
        ("images/../../x/0.png masks/0.png", r"without \.\."),
        ("images/0.png linked.png", "leads out of .* through a link"),
        ("images/0.png far/secret.png", "leads out of .* through a link"),
        ("images/0.png masks/\0.png", "must be relative"),
        ("images/0.png masks/9.png", "there is no file"),
        ("images/0.png masks", "there is no file"),
        ("images/0.png", "holds 1 paths"),
        ("images/0.png masks/0.png masks/1.png", "holds 3 paths"),
        ("images/0.png masks/0.png\nimages/0.png masks/1.png", "line 2 of .* listed twice"),
        ("images/0.png masks/0.png\n./images/0.png masks/1.png", "line 2 of .* listed twice"),
        ("# nothing", "is empty"),
        (b"\xff\xfe\x00", "cannot be read"),
    ],
)
def test_file_list_invalid_lines_raise(root, tmp_path_factory, text, message):
    far = tmp_path_factory.mktemp("far")
    (far / "secret.png").write_bytes((root / "masks" / "0.png").read_bytes())
    (root / "linked.png").symlink_to(far / "secret.png")
    (root / "far").symlink_to(far)
    with pytest.raises(InputError, match=message):
        names(root, text)
