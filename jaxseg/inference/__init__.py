"""Inference: predictions of trained models at the images' own size."""

from jaxseg.inference.fold_batch_norm import fold_batch_norm
from jaxseg.inference.predict import make_predict, predict

__all__ = ["fold_batch_norm", "make_predict", "predict"]
