"""A trained network that says what is on images: one class for all tasks."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader

from van.data.images import ImageLike
from van.data.inputs import ImageFiles, PreparedImage, in_batches
from van.data.loaders import as_is
from van.data.processes import loading_errors
from van.data.video import Clip
from van.engine.device import pick_device, to_device
from van.engine.engines import default_engine, device_for, put_in_place
from van.engine.options import Inference, at_least
from van.engine.result import Result
from van.engine.task import Task
from van.engine.upgrade import upgraded
from van.errors import DataError, VanError, nearest
from van.models.weight_file import Header


class Predictor:
    """A network with everything that its weight file says. `van.load` makes it.

    Args:
        task: What the network was trained for.
        network: The network.
        header: What its weight file says.
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Images per batch.
        changes: Options of inference that differ from those in the weight file; None is no change.
        engine: What computes the network, a key of van.engine.engines.ENGINES; None is torch, or the one of a file.
        precision: float32, bfloat16 or float16; None is float32, or that of an exported file.
        file: Exported file that holds the weights; None takes those of the network.

    Attributes:
        task: What the network was trained for; print it, or read task.name.
        model: The network, in evaluation mode.
        class_names: Names in the order of the labels.
        device: Where it computes.
        engine: What computes the network in its place; None where that is PyTorch in float32.
        inference: Options of inference.
        extra: What else the weight file says, such as names of keypoints.
        header: What the weight file says.
        state: What the task keeps for this predictor, such as a second network.
        asked: Engine and precision that were asked for, where they are not those of a file; a second network takes the
            same ones.
        mode: PIL mode of the images that the task prepares.

    Raises:
        VanError: the device or the engine is not available, or an option is unknown, out of range or does not go with
            the network.
    """

    def __init__(
        self,
        task: Task,
        network: nn.Module,
        header: Header,
        device: torch.device | str | None = None,
        batch_size: int = 8,
        changes: dict[str, Any] | None = None,
        engine: str | None = None,
        precision: str | None = None,
        file: Path | None = None,
    ) -> None:
        at_least("batch_size", batch_size, 1)
        self.task = task
        self.class_names = list(header.class_names or ())
        self.extra = header.extra
        self.header = header
        self.batch_size = batch_size
        stored = upgraded({"inference": header.extra.get("inference") or {}}, task.name)["inference"]
        self.inference: Any = _changed(task.inference, stored, changes or {})
        self.inference.check()
        engine = default_engine(engine, file)
        self.device = pick_device(device_for(engine, device))
        self.model: Any = network
        self.state: dict[str, Any] = {}
        self.mode = "RGB"
        plain = engine == "torch" and precision in (None, "float32") and file is None
        self.engine: Any = None
        self.asked = {} if plain or file else {"engine": engine, "precision": precision}
        task.ready(self)
        if file and self.model is not network and "boxes" in self.model.core_outputs:
            raise VanError(
                f"{file.name} holds the suppression and selection of boxes with the options that it was exported with: "
                "iou and max_detections cannot be changed. Change them with the weight file, or leave them out."
            )
        self.model = to_device(self.model, self.device)
        if not plain:
            self.engine = put_in_place(self.model, engine, precision, self.device, file, header)

    def labels_of(self, classes: Sequence[str] | None) -> list[int]:
        """Return the labels of classes by their names; none for None.

        Raises:
            VanError: a name is unknown.
        """
        known = self.class_names
        for name in classes or ():
            if name not in known:
                listed = ", ".join(known[:10]) + (", ..." if len(known) > 10 else "")
                raise VanError(f"classes has {name!r}, expected some of {listed}.{nearest(name, known)}")
        return [known.index(name) for name in classes or ()]

    @torch.inference_mode()
    def predict(self, items: Sequence[Any], sizes: Sequence[tuple[int, int]]) -> list[Result]:
        """Return what is on a batch of prepared images; see Task.predict."""
        return self.task.predict(self, items, sizes)

    def stream(
        self, images: Iterable[ImageLike | Clip], workers: int = 0, keep_images: bool = True
    ) -> Iterator[Result | DataError]:
        """Yield the result of each image in order, or the error where one cannot be decoded.

        Each image is decoded once, and no more of them are taken than are about to be looked at: images may be a
        generator of any length.

        Args:
            images: As in calling the predictor, and van.data.video.Clip objects, which stand for their frames.
            workers: Processes that decode; 0 decodes in this one.
            keep_images: Whether results keep their image, which drawing needs.
        """
        with loading_errors():
            for batch in self.loader(images, workers, keep_images):
                yield from self.results(batch)

    def video(self, source: str | Path, frame_stride: int = 1, track: bool = False) -> Iterator[Result]:
        """Yield the result of each frame of a clip; result.frame and result.time say which one it is.

        A thread decodes beside the network, and memory does not grow with the length of the clip.

        Args:
            source: A video file, an animated GIF, a stream ("rtsp://...") or a camera ("camera:0"); see
                van.data.video.Clip.
            frame_stride: Take every frame (1), every second one (2), ...
            track: Give objects that are the same in several frames the same number: result.track_ids.

        Raises:
            DataError: the clip cannot be opened, or breaks off; the results of all frames before have been given then.
            VanError: a package is missing, or the results have no boxes to track.
        """
        at_least("frame_stride", frame_stride, 1)
        clip = Clip(source, frame_stride)
        if track:
            from van.engine.tracking import Tracker

            tracker = Tracker(self)
            return self._raising(map(tracker, tracker.predictor.stream([clip])))
        return self._raising(self.stream([clip]))

    @staticmethod
    def _raising(results: Iterable[Result | DataError]) -> Iterator[Result]:
        for result in results:
            if isinstance(result, DataError):
                raise result
            yield result

    def loader(self, images: Iterable[Any], workers: int = 0, keep_images: bool = True) -> Iterable[Any]:
        """Return batches of decoded images for `results`; arguments as in stream."""
        files = ImageFiles(self.task.prepare(self), self.mode, keep_images)
        # images of any sizes and errors stay side by side
        batches: Any = in_batches(images, self.batch_size, workers > 0)
        return DataLoader(files, batch_sampler=batches, num_workers=workers, collate_fn=as_is)

    def results(self, batch: Sequence[PreparedImage | DataError]) -> Iterator[Result | DataError]:
        """Yield the result of each image of a batch of `loader` in order, or its error."""
        good = [one for one in batch if not isinstance(one, DataError)]
        found = iter(self.predict([one.item for one in good], [one.size for one in good]) if good else ())
        for one in batch:
            if isinstance(one, DataError):
                yield one
                continue
            result = next(found)
            result.path, result.image, result.frame, result.time = one.path, one.image, one.frame, one.time
            yield result

    def __call__(self, images: ImageLike | Sequence[ImageLike]) -> Any:
        """Return what is on one image or several.

        Args:
            images: A path, a URL (http or https), bytes, an open file, a PIL image, an array (H, W[, C]) or tensor
                (C, H, W), or a sequence of these; an array or tensor with one more dimension is a batch. Not resized,
                not normalized.

        Returns:
            A Result for one image, a list of them for several.

        Raises:
            DataError: an image cannot be decoded or is not of a known form.
        """
        single = isinstance(images, str | Path | bytes | Image.Image | np.ndarray | torch.Tensor)
        one = (single or hasattr(images, "read")) and getattr(images, "ndim", 3) != 4
        several: list[Any] = [images] if one else list(images)  # type: ignore[arg-type]
        results = list(self._raising(self.stream(several)))
        return results[0] if one else results

    def __repr__(self) -> str:
        return f"<{self.task} predictor, {len(self.class_names)} classes, on {self.device}, {self.computed_by}>"

    @property
    def computed_by(self) -> str:
        """Name and precision of the engine, such as "openvino, bfloat16"."""
        return str(self.engine or "torch, float32")


def _changed(kind: type[Inference], stored: dict[str, Any], changes: dict[str, Any]) -> Inference:
    """Return the options of inference of a weight file with what the caller changes."""
    names = [f.name for f in fields(kind)]
    for name in changes:
        if name not in names:
            hint = nearest(name, names)
            raise VanError(f"There is no option {name!r} for these weights, expected one of {', '.join(names)}.{hint}")
    options = kind(**{name: value for name, value in stored.items() if name in names})
    return options.changed({name: value for name, value in changes.items() if value is not None})
