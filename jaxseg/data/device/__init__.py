"""Data sets that live on the devices, and their augmentation in pure JAX."""
