"""What is measured of a classifier."""

from van.engine.metric import Metric

TOP1 = Metric("top1", "top-1")
TOP5 = Metric("top5", "top-5")


def accuracies(num_classes: int) -> tuple[Metric, ...]:
    """Return what is measured: top-5 says nothing where there are fewer than six classes."""
    return (TOP1, TOP5) if num_classes > 5 else (TOP1,)
