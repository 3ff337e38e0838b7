"""What a trained model says about images: class ids and probabilities at the images' own size."""

from jaxseg.inference.predict import make_predict, make_probabilities

__all__ = ["make_predict", "make_probabilities"]
