"""TFDS builders of our own."""
