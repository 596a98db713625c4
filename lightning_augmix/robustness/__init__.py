"""Robustness: a classifier's error on corrupted images, published or computed."""
