"""The TFDS builder of CamVid."""
