"""U-Net with a ResNet-18 encoder on CamVid, from scratch: 11 classes, void ignored, 360 x 480 pixels.

    jaxseg train experiments/camvid_unet.py --data.root DIR

DIR holds SegNet's layout: train/, trainannot/, val/, valannot/, test/, testannot/. The same file serves a CPU, one
GPU or several; `--train.epochs` sets how long. After training the best checkpoint is evaluated on the test split.

Measured so far, on a CPU alone: with `--train.epochs 10` on 2 cores in 20 minutes (JAX 0.10.2, float32, seed 0) to a
validation mIoU of 0.3257 and a test mIoU of 0.3066 (11 classes, full images). The 30 epochs below have not been run to
their end.
"""

from jaxseg.recipe import (
    AugmentRecipe,
    DataRecipe,
    LossRecipe,
    ModelRecipe,
    OptimizerRecipe,
    Recipe,
    TrainRecipe,
)

recipe = Recipe(
    model=ModelRecipe(name="unet", encoder="resnet18"),
    data=DataRecipe(source="camvid", test_split="test", workers=1),
    augment=AugmentRecipe(crop_size=(256, 320), scale=(0.5, 2.0), photometric=True),
    loss=LossRecipe(weights={"cross_entropy": 1.0, "dice": 0.5}),
    optimizer=OptimizerRecipe(learning_rate=2e-3, schedule="poly"),
    train=TrainRecipe(epochs=30, batch_size=8),
)
