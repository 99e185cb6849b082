"""Measuring panoptic segmentation: panoptic quality, that of each class, segments in COCO's format, a sheet."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from van.data.classes import match_classes
from van.data.formats import IGNORED
from van.data.panoptic import PanopticDataset, PanopticSplit, PanopticWriter, panoptic_categories
from van.engine.evaluation import Evaluation, line_of, spread
from van.engine.predictor import Predictor
from van.engine.sums import Sums
from van.engine.suspects import Suspects, disagreement, pixel_suspects
from van.networks.segmentation.inference import panoptic_maps
from van.tasks.panoptic.metrics import METRICS, compared, mean_qualities, qualities
from van.tasks.panoptic.options import PanopticInference

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_SHEET = 10  # images on the sheet of predictions


class PanopticEvaluator(Sums):
    """Matches segments with the true ones, image by image, over all processes.

    Args:
        class_names: Names in the order of the labels.
        isthing: Whether each class is countable; the others are stuff.
    """

    def __init__(self, class_names: Sequence[str], isthing: Sequence[bool]) -> None:
        super().__init__(len(class_names), 4)
        self.class_names = list(class_names)
        self.isthing = list(isthing)

    def update(self, outputs: Sequence[Mapping[str, Any]], targets: Sequence[Mapping[str, Any]]) -> None:
        """Add some images; see van.tasks.panoptic.metrics.compared."""
        for output, target in zip(outputs, targets, strict=True):
            sums = compared(_on_cpu(output), _on_cpu(target), len(self.class_names))
            self.sums += torch.from_numpy(sums).to(self.sums.device)

    def compute(self) -> dict[str, float]:
        """Return PQ, SQ and RQ of all classes, of things and of stuff."""
        return mean_qualities(self.sums.cpu().numpy(), self.isthing)

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, isthing, number of true segments, PQ, SQ and RQ of each class; None where there is nothing."""
        sums = self.sums.cpu().numpy()
        each, occurs = qualities(sums)
        rows = []
        for i, name in enumerate(self.class_names):
            values = [round(value, 6) if occurs[i] else None for value in each[i].tolist()]
            row = {"class": name, "isthing": self.isthing[i], "segments": int(sums[i, 1] + sums[i, 3])}
            rows.append(row | dict(zip(("PQ", "SQ", "RQ"), values, strict=True)))
        return rows


def _on_cpu(image: Mapping[str, Any]) -> dict[str, Any]:
    return {**image, "segmentation": torch.as_tensor(image["segmentation"]).cpu()}


def things_of(isthing: Sequence[bool]) -> set[int]:
    """Return the labels of countable classes."""
    return {label for label, thing in enumerate(isthing) if thing}


def find_segments(
    network: Any, images: Sequence[torch.Tensor], isthing: Sequence[bool], options: PanopticInference
) -> list[dict[str, Any]]:
    """Return the segments of images (3, H, W) on the network's device; see panoptic_maps."""
    thresholds = (options.score_threshold, options.overlap_threshold)
    return panoptic_maps(network, images, things_of(isthing), options.fit, *thresholds)


def kept_segments(found: dict[str, Any], predictor: Predictor) -> dict[str, Any]:
    """Return the segments of an image that options of inference keep; see find_segments."""
    inference, segments = predictor.inference, found["segments"]
    if inference.classes is not None:
        labels = predictor.labels_of(inference.classes)
        segments = [segment for segment in segments if segment["label"] in labels]
        found = {**found, "best_score": max((segment["score"] for segment in segments), default=0.0)}
    if inference.max_detections is not None:
        things = sorted((s for s in segments if s["isthing"]), key=lambda s: -s["score"])[inference.max_detections :]
        segments = [segment for segment in segments if segment not in things]
    if len(segments) == len(found["segments"]):
        return found
    numbers = found["segmentation"]
    ids = torch.tensor([segment["id"] for segment in segments], dtype=numbers.dtype, device=numbers.device)
    return {**found, "segmentation": numbers * torch.isin(numbers, ids), "segments": segments}


class PanopticEvaluation(Evaluation):
    """Panoptic quality of a predictor; classes of the data are matched with its own by name."""

    columns = ("segments", "PQ", "SQ", "RQ")
    split: PanopticSplit

    def __init__(self, predictor: Predictor, split: PanopticSplit, workers: int) -> None:
        names, isthing = predictor.class_names, predictor.extra["isthing"]
        super().__init__(predictor, split, workers, PanopticEvaluator(names, isthing), METRICS)
        self._writer: PanopticWriter | None = None  # while results are written
        self._own = match_classes(split.class_names, names, str(split.coco.files.annotations))
        # the ids of the data, so that its own programs can read the results
        ids = dict(zip(self._own, split.category_ids, strict=True))
        free = iter(range(max([*ids.values(), 0]) + 1, max([*ids.values(), 0]) + len(names) + 1))
        self._categories = panoptic_categories(names, [ids.get(i) or next(free) for i in range(len(names))], isthing)
        self._files = {image["id"]: image["file_name"] for image in split.images}

    def run(self, folder: Path, title: str, quiet: bool = False) -> dict[str, float]:
        """Measure, and write all segments as they come; see Evaluation.run."""
        with PanopticWriter(folder / "panoptic.json", self._categories) as self._writer:
            return super().run(folder, title, quiet)

    def batches(self) -> Iterable[Any]:
        """Return lists of images (3, H, W) and of their true segments."""
        from van.data.loaders import evaluation_loader

        return evaluation_loader(PanopticDataset(self.split), self.predictor.batch_size, self.workers)

    def update(self, batch: Any) -> None:
        """Match the segments that the predictor finds on a batch."""
        images, targets = batch
        images = [image.to(self.predictor.device) for image in images]
        isthing, inference = self.predictor.extra["isthing"], self.predictor.inference
        found = find_segments(self.predictor.model, images, isthing, inference)
        truth = [{**target, "segments": self._relabeled(target["segments"])} for target in targets]
        self.evaluator.update(found, truth)
        for one, target in zip(found, targets, strict=True):
            number = target["image_id"]
            if self._writer is not None:
                self._writer.add(number, self._files[number], one["segmentation"], one["segments"])

    def _relabeled(self, segments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        return [{**segment, "label": self._own[segment["label"]]} for segment in segments]

    def per_class(self) -> list[dict[str, Any]]:
        """Return name, isthing, number of true segments, PQ, SQ and RQ of each class."""
        return self.evaluator.per_class()

    def lines(self, values: Mapping[str, float]) -> list[str]:
        """Return the metrics of all classes, of things and of stuff, each on a line."""
        return [line_of(self.metrics[i : i + 3], values) for i in (0, 3, 6)]

    def write(self, folder: Path) -> list[str]:
        """Return the names of what run writes."""
        return ["panoptic.json", "panoptic"]

    def suspects(self) -> Suspects:
        """Return the images whose pixels differ most from the classes of their segments."""
        from van.engine.drawing import class_legend

        names = self.predictor.class_names

        def differences() -> Iterator[dict[str, Any]]:
            with torch.inference_mode():
                for images, targets in self.batches():
                    images = [image.to(self.predictor.device) for image in images]
                    found = find_segments(
                        self.predictor.model, images, self.predictor.extra["isthing"], self.predictor.inference
                    )
                    for one, target in zip(found, targets, strict=True):
                        truth = {**target, "segments": self._relabeled(target["segments"])}
                        yield disagreement(_classes(truth), _classes(one), names)

        rule = "the share of the labeled pixels that are predicted as another class, or none, crowd regions aside"
        paths = [str(path) for path in self.split.paths().values()]
        return pixel_suspects(paths, differences(), self._panels, rule, class_legend(names, "no segment"))

    def _panels(self, index: int) -> list[Any]:
        """Return an image, its true and its predicted segments."""
        from van.data.images import read_image
        from van.engine.drawing import draw_segments
        from van.engine.plots import PANEL

        record = self.split.images[index]
        image = read_image(self.split.image_path(record))
        numbers, segments = self.split.truth(record)
        found = self.predictor(image)
        maps: list[tuple[np.ndarray, Any]] = [
            (numbers, self._relabeled(segments)),
            (found.segmentation, found.segments),
        ]
        names = self.predictor.class_names
        return [image, *(draw_segments(image, *one, names, False, PANEL) for one in maps)]

    def plots(self, values: Mapping[str, float], title: str) -> "dict[str, Figure]":
        """Return a sheet of images with their true and predicted segments."""
        from van.engine.drawing import class_legend
        from van.engine.plots import sheet

        names = self.predictor.class_names
        groups = [self._panels(place) for place in spread(len(self.split), _SHEET)]
        line = f"{title}: {METRICS[0].label} {METRICS[0].text(values['PQ'])}"
        headings = ("image", "truth", "prediction")
        return {"predictions": sheet(groups, headings, line, class_legend(names, "no segment"))}


def _classes(image: Mapping[str, Any]) -> np.ndarray:
    """Return the class of each pixel (H, W) of segments, 255 where there is none or a crowd region."""
    numbers = torch.as_tensor(image["segmentation"]).cpu().numpy()
    table = np.full(int(numbers.max(initial=0)) + 1, IGNORED)
    for segment in image["segments"]:
        if segment["id"] < len(table) and not segment.get("iscrowd"):
            table[segment["id"]] = segment["label"]
    return table[numbers]
