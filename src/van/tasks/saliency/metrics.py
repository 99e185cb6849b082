"""How well saliency maps agree with the truth, as pysodmetrics measures it."""

from typing import Any

import numpy as np

from van.engine.metric import Metric
from van.errors import DataError

METRICS = (
    Metric("max_F", "max F", ""),
    Metric("mean_F", "mean F", ""),
    Metric("adaptive_F", "adaptive F", ""),
    Metric("weighted_F", "weighted F", ""),
    Metric("S", "S-measure", ""),
    Metric("max_E", "max E", ""),
    Metric("mean_E", "mean E", ""),
    Metric("adaptive_E", "adaptive E", ""),
    Metric("MAE", "MAE", "", higher_is_better=False),
    Metric("max_F_of_means", "max F of means", ""),
)
LEVELS = 256  # thresholds of the curves
_BETA = 0.3  # weight of the precision in F
_EPS = float(np.spacing(1))
_SCALARS = 5
VALUES = _SCALARS + 4 * LEVELS
"""How many numbers `measured` gives."""


def mean_values(sums: np.ndarray, count: int) -> dict[str, float]:
    """Return the metrics by key, from 0 to 1; -1 without images.

    max_F and mean_F (Achanta et al. 2009, precision weighted with 0.3) are the largest and the mean value of the curve
    of F over 256 thresholds, the mean of the images' curves; adaptive_F takes twice a map's mean as threshold.
    max_F_of_means is the largest F of the mean precision and mean recall, which some papers call max-F. weighted_F is
    that of Margolin et al. (CVPR 2014), S that of Fan et al. (ICCV 2017); E that of Fan et al. (IJCAI 2018), with the
    variants of F. MAE is the mean absolute error.

    Args:
        sums: Sum of what `measured` gives for each image, (1029,).
        count: Number of images.
    """
    if not count:
        return {metric.key: -1.0 for metric in METRICS}
    mae, adaptive_f, weighted_f, structure, adaptive_e = (sums[:_SCALARS] / count).tolist()
    f, e, precision, recall = mean_curves(sums, count).values()
    pooled = _f_measure(precision, recall)
    values = [
        f.max(), f.mean(), adaptive_f, weighted_f, structure, e.max(), e.mean(), adaptive_e, mae, pooled.max()
    ]  # fmt: skip
    return {metric.key: float(value) for metric, value in zip(METRICS, values, strict=True)}


def mean_curves(sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """Return F, E, precision and recall (256,) over the thresholds from 1 down to 0, means over the images."""
    curves = (sums[_SCALARS:] / max(count, 1)).reshape(4, LEVELS)
    return dict(zip(("F", "E", "precision", "recall"), curves, strict=True))


def measured(prediction: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Measure one map, stretched so that its smallest value is 0 and its largest 1, as in the published values.

    Args:
        prediction: (H, W) uint8.
        mask: (H, W) bool.

    Returns:
        MAE, adaptive F, weighted F, S, adaptive E; then the curves of F, E, precision and recall over 256 thresholds
        from 1 down to 0: (1029,).
    """
    if prediction.shape != mask.shape or not mask.size:
        raise DataError(f"A saliency map has shape {prediction.shape}, its mask {mask.shape}, expected the same.")
    # each of 256 levels has its value; pixels are counted by level and truth
    levels = np.arange(256) / 255
    low, high = levels[prediction.min()], levels[prediction.max()]
    if high != low:
        levels = (levels - low) / (high - low)
    values = levels[prediction]
    counts = np.bincount(prediction.ravel() + 256 * mask.ravel().astype(np.int64), minlength=512).reshape(2, 256)
    threshold = min(2 * values.mean(), 1)
    adaptive = counts[:, levels >= threshold].sum(1)  # pixels above it that are not salient, and that are
    steps = (levels.clip(0, 1) * 255).astype(np.int64)
    above = np.stack([np.bincount(steps, weights, minlength=256)[::-1].cumsum() for weights in counts])

    salient = int(counts[1].sum())
    precision = above[1] / np.maximum(above.sum(0), 1)
    recall = above[1] / max(salient, 1)
    adaptive_f = _f_measure(adaptive[1] / max(adaptive.sum(), 1), adaptive[1] / max(salient, 1))
    scalars = [
        np.abs(values - mask).mean(),
        float(adaptive_f),
        _weighted_f(values, mask) if salient else 0.0,
        _structure(values, mask),
        float(_alignment(adaptive[1], adaptive[0], salient, mask.size)),
    ]
    curves = (_f_measure(precision, recall), _alignment(above[1], above[0], salient, mask.size), precision, recall)
    return np.concatenate([scalars, *curves])


def _f_measure(precision: Any, recall: Any) -> Any:
    below = _BETA * precision + recall
    return (1 + _BETA) * precision * recall / np.where(below == 0, 1, below)


def _alignment(right: Any, wrong: Any, salient: int, size: int) -> Any:
    """Return the E-measure of binary maps.

    Args:
        right: Pixels of the map that are salient.
        wrong: Pixels of the map that are not.
        salient: Pixels of the truth that are.
        size: All pixels.
    """
    found = right + wrong
    if salient in (0, size):
        total = found if salient else size - found
        return total / (size - 1 + _EPS)
    mean, true_mean = found / size, salient / size
    parts = (
        (right, 1 - mean, 1 - true_mean),
        (wrong, 1 - mean, -true_mean),
        (salient - right, -mean, 1 - true_mean),
        (size - found - (salient - right), -mean, -true_mean),
    )
    total = sum(count * (2 * a * b / (a**2 + b**2 + _EPS) + 1) ** 2 / 4 for count, a, b in parts)
    return total / (size - 1 + _EPS)


def _weighted_f(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the weighted F-measure: errors count by their distance from the object, and spread over it."""
    from scipy import ndimage

    transformed: Any = ndimage.distance_transform_edt(~mask, return_indices=True)
    distance, nearest = transformed
    error = np.abs(values - mask)
    spread = error[tuple(nearest)]  # outside, the error of the nearest pixel of the object
    kernel = np.exp(-(np.arange(-3, 4) ** 2) / 50.0)
    kernel /= kernel.sum()
    for axis in (0, 1):
        spread = ndimage.correlate1d(spread, kernel, axis=axis, mode="constant")
    inside = np.minimum(error[mask], spread[mask])
    outside = (error * (2 - np.exp(np.log(0.5) / 5 * distance)))[~mask]
    right = mask.sum() - inside.sum()
    recall = 1 - inside.mean()
    precision = right / (right + outside.sum() + _EPS)
    return float(2 * recall * precision / (recall + precision + _EPS))


def _structure(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the S-measure: half by object and background, half by the four quarters around the object's centre."""
    share = mask.mean()
    if share in (0, 1):
        return float(values.mean() if share else 1 - values.mean())
    objects = share * _uniform(values[mask]) + (1 - share) * _uniform(1 - values[~mask])
    height, width = mask.shape
    rows, columns = mask.sum(1), mask.sum(0)
    count = rows.sum()
    # rounded to the pixel, and the pixel belongs to the quarters before it
    y = int(np.round((rows * np.arange(height)).sum() / count)) + 1
    x = int(np.round((columns * np.arange(width)).sum() / count)) + 1
    regions = 0.0
    for part in (np.s_[:y, :x], np.s_[:y, x:], np.s_[y:, :x], np.s_[y:, x:]):
        if mask[part].size:
            regions += mask[part].size / mask.size * _similarity(values[part], mask[part])
    return max(0.0, float(objects + regions) / 2)


def _uniform(values: np.ndarray) -> float:
    mean = values.mean()
    deviation = values.std(ddof=1) if values.size > 1 else 0.0
    return float(2 * mean / (mean**2 + 1 + deviation + _EPS))


def _similarity(values: np.ndarray, mask: np.ndarray) -> float:
    """Return the structural similarity of a map and a mask, over all of their pixels."""
    x, y = values.mean(), mask.mean()
    off, mask_off = values - x, mask - y
    count = values.size - 1 + _EPS
    above = 4 * x * y * (off * mask_off).sum() / count
    below = (x**2 + y**2) * ((off**2).sum() + (mask_off**2).sum()) / count
    if above != 0:
        return float(above / (below + _EPS))
    return 1.0 if below == 0 else 0.0
