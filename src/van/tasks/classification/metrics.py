"""What is measured of a classifier."""

from van.engine.metric import Metric

TOP1 = Metric("top1", "top-1")
TOP5 = Metric("top5", "top-5")
MULTI_LABEL = (Metric("mAP", "mAP"), Metric("F1_micro", "F1 (micro)"), Metric("F1_macro", "F1 (macro)"))
REGRESSION = (Metric("R2", "R2", ""), Metric("MAE", "MAE", "", higher_is_better=False))


def accuracies(num_classes: int) -> tuple[Metric, ...]:
    """Return what is measured: top-5 says nothing where there are fewer than six classes."""
    return (TOP1, TOP5) if num_classes > 5 else (TOP1,)
