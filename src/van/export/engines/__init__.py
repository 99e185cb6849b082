"""Inference engines: each computes a network's core, or all of a classifier, with tensors in and out."""
