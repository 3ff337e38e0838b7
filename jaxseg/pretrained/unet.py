"""Names of U-Net's decoder in segmentation_models.pytorch."""

from jaxseg.pretrained.table import Table

TABLE = Table(
    (
        (r"block(\d+)/conv(\d)/conv", r"blocks.\1.conv\2.0"),
        (r"block(\d+)/conv(\d)/norm", r"blocks.\1.conv\2.1"),
    )
)
