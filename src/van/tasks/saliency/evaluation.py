"""Measuring saliency: F-, S- and E-measures, mean absolute error, a sheet of maps."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from van.data.saliency import SaliencyDataset, SaliencySplit
from van.engine.evaluation import Evaluation, spread
from van.engine.predictor import Predictor
from van.engine.sums import Sums
from van.engine.suspects import Suspects, pixel_suspects
from van.errors import DataError
from van.networks.segmentation.inference import saliency_maps
from van.tasks.saliency.metrics import METRICS, VALUES, mean_curves, mean_values, measured

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET = 10  # images on the sheet of predictions
_SCALE = (("saliency 0", (0, 0, 0)), ("saliency 0.5", (128, 128, 128)), ("saliency 1", (255, 255, 255)))


class SaliencyEvaluator(Sums):
    """Measures maps one by one and averages over them, over all processes.

    Before that, maps are rounded to 8 bits, as if they were saved.
    """

    def __init__(self) -> None:
        super().__init__(1 + VALUES)  # the first one counts the images

    def update(self, outputs: Sequence[torch.Tensor], masks: Sequence[torch.Tensor]) -> None:
        """Add some images.

        Args:
            outputs: Maps (H, W) of floats from 0 to 1.
            masks: True masks (H, W), 0 where nothing is salient.

        Raises:
            DataError: shapes differ, or a value is out of range.
        """
        for output, mask in zip(outputs, masks, strict=True):
            values = measured(_bytes(torch.as_tensor(output)), torch.as_tensor(mask).cpu().numpy() != 0)
            self.sums += torch.from_numpy(np.concatenate([[1.0], values])).to(self.sums.device)

    def compute(self) -> dict[str, float]:
        """Return the metrics by key; see van.tasks.saliency.metrics.mean_values."""
        sums = self.sums.cpu().numpy()
        return mean_values(sums[1:], int(sums[0]))

    def curves(self) -> dict[str, np.ndarray]:
        """Return F, E, precision and recall (256,) over the thresholds from 1 down to 0."""
        sums = self.sums.cpu().numpy()
        return mean_curves(sums[1:], int(sums[0]))


def _bytes(saliency: torch.Tensor) -> np.ndarray:
    values = saliency.detach().float().cpu().numpy()
    if not (values.min() >= 0 and values.max() <= 1):
        raise DataError(f"A saliency map has values from {values.min():g} to {values.max():g}, expected 0 to 1.")
    return (values * 255).round().astype(np.uint8)


class SaliencyEvaluation(Evaluation):
    """How well the maps of a predictor agree with masks."""

    split: SaliencySplit

    def __init__(self, predictor: Predictor, split: SaliencySplit, workers: int) -> None:
        super().__init__(predictor, split, workers, SaliencyEvaluator(), METRICS)

    def batches(self) -> Iterable[Any]:
        """Return lists of images (3, H, W) and of masks (H, W)."""
        from van.data.loaders import evaluation_loader

        return evaluation_loader(SaliencyDataset(self.split), self.predictor.batch_size, self.workers)

    def update(self, batch: Any) -> None:
        """Measure the maps that the predictor finds on a batch."""
        images, masks = batch
        images = [image.to(self.predictor.device) for image in images]
        self.evaluator.update(saliency_maps(self.predictor.model, images, self.predictor.inference), masks)

    def report(self, values: Mapping[str, float]) -> dict[str, Any]:
        """Return the metrics, and the curves over the thresholds."""
        curves = {name: [round(float(v), 6) for v in curve] for name, curve in self.evaluator.curves().items()}
        return {**super().report(values), "curves": curves}

    def suspects(self) -> Suspects:
        """Return the images whose maps differ most from their masks."""

        def differences() -> Iterator[dict[str, Any]]:
            with torch.inference_mode():
                for images, masks in self.batches():
                    images = [image.to(self.predictor.device) for image in images]
                    found = saliency_maps(self.predictor.model, images, self.predictor.inference)
                    for one, mask in zip(found, masks, strict=True):
                        yield {"score": round(float((one.float().cpu() - mask.float()).abs().mean()), 6)}

        paths = [str(path) for path in self.split.images]
        return pixel_suspects(paths, differences(), self._panels, "the mean absolute error of the map", _SCALE)

    def _panels(self, index: int) -> list[Any]:
        """Return an image, its mask and its map."""
        from van.data.images import read_image
        from van.engine.drawing import saliency_image

        image = read_image(self.split.images[index])
        maps = (self.split.salient(index).astype(float), self.predictor(image).saliency)
        return [image, *(saliency_image(one) for one in maps)]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return a sheet of images with their true masks and their maps."""
        from van.engine.plots import sheet

        groups = [self._panels(place) for place in spread(len(self.split), _SHEET)]
        shown = [metric for metric in METRICS if metric.key in ("max_F", "MAE")]
        line = f"{title}: {', '.join(f'{metric.label} {metric.text(values[metric.key])}' for metric in shown)}"
        return {"predictions": sheet(groups, ("image", "truth", "prediction"), line, _SCALE)}
