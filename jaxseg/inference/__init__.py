"""Inference: predictions, large images, test-time augmentation, uncertainty, and networks made smaller."""

from jaxseg.inference.fold_batch_norm import fold_batch_norm
from jaxseg.inference.monte_carlo_dropout import MonteCarloDropout
from jaxseg.inference.predict import make_predict, predict
from jaxseg.inference.sliding_window import SlidingWindow
from jaxseg.inference.test_time_augmentation import TestTimeAugmentation

__all__ = [
    "MonteCarloDropout",
    "SlidingWindow",
    "TestTimeAugmentation",
    "fold_batch_norm",
    "make_predict",
    "predict",
]
