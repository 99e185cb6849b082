"""Task networks on a backbone: detectors, segmenters, keypoints, saliency."""
