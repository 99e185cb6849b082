"""Salient object detection."""
