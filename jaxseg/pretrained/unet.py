"""Names of U-Net's decoder in segmentation_models.pytorch."""

from jaxseg.pretrained.table import Table

TABLE = Table(
    (
        (r"block(\d+)/conv(\d)/conv", r"blocks.\1.conv\2.0"),
        (r"block(\d+)/conv(\d)/norm", r"blocks.\1.conv\2.1"),
        (r"center/conv1/conv", r"center.0.0"),
        (r"center/conv1/norm", r"center.0.1"),
        (r"center/conv2/conv", r"center.1.0"),
        (r"center/conv2/norm", r"center.1.1"),
    )
)
