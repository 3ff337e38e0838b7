"""TFDS data sets by name; tensorflow_datasets is imported when one is opened."""

import dataclasses
from typing import Any

from jaxseg.data.label_spec import LabelOptions


@dataclasses.dataclass(frozen=True)
class TFDSOptions:
    """A TFDS data set with an image and a mask; the root is the TFDS data directory."""

    name: str
    """The data set, such as oxford_iiit_pet, name/config or name/config:version."""
    manual_dir: str | None = None
    """The folder of the files that a data set wants downloaded by hand."""
    image_key: str = "image"
    """The feature that holds the image."""
    mask_key: str | None = None
    """The feature that holds the mask, if it does not have a usual name."""

    def open(self, split: str, *, root: str | None, labels: LabelOptions) -> Any:
        """Opens a split, which is prepared first if necessary."""
        from jaxseg.data.sources.tfds_dataset import TFDS

        return TFDS(
            self.name,
            split,
            data_dir=root,
            manual_dir=self.manual_dir,
            image_key=self.image_key,
            mask_key=self.mask_key,
            **labels.arguments(),
        )


SOURCES = {"tfds": TFDSOptions}
