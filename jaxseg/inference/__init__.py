"""What a trained model says about images: class ids and probabilities at the images' own size."""

from jaxseg.inference.fold import fold_batch_norm
from jaxseg.inference.predict import make_predict, make_probabilities

__all__ = ["fold_batch_norm", "make_predict", "make_probabilities"]
