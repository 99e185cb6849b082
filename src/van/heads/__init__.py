"""Heads on a backbone: detectors, pose."""
