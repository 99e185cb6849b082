"""Detection and instance segmentation: torchvision's detectors, ATSS and GFL, DETRs. The options import without torch.

A detector is one module with a subclass of DetectorOptions, and its line in van.networks.registry.
"""
