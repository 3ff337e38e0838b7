"""Loading, augmentation and sampling on the host."""
