"""What is measured of a detector."""

from van.engine.coco import coco_metrics

BOX = coco_metrics("bbox", "box")
MASK = coco_metrics("segm", "mask", "mask_")
