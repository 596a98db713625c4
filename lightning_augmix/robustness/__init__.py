"""Robustness: a classifier's error on corrupted images, published or computed; its names are the package's own."""
