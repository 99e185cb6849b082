"""Predict classes of images with a trained model and its own preprocessing."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import timm.data
import torch

from van.data.images import ImageLike, mode_for
from van.errors import DataError, VanError, WeightsError
from van.inference.files import ImageFiles, one_or_several, results_in_order
from van.models import read_checkpoint
from van.models.factory import create_model, model_from_checkpoint
from van.models.variants import VARIANTS
from van.models.weights import Checkpoint


@dataclass
class Prediction:
    """The most probable classes of one image, best first.

    Attributes:
        classes: Their names.
        indices: Their numbers.
        probabilities: Their probabilities, 0 to 1.
    """

    classes: list[str]
    indices: list[int]
    probabilities: list[float]


def imagenet_class_names() -> list[str]:
    """Return the descriptions of the 1000 classes of ImageNet-1K."""
    return list(timm.data.ImageNetInfo("imagenet-1k").label_descriptions())


def class_names_of(ckpt: Checkpoint) -> list[str]:
    """Return the class names of a checkpoint; ImageNet-1K's for 1000 classes without names, else numbers."""
    if ckpt.class_names:
        return list(ckpt.class_names)
    if ckpt.num_classes == 1000:
        return imagenet_class_names()
    return [str(i) for i in range(ckpt.num_classes)]


class Predictor:
    """A trained classifier with everything that its weight file says.

    Args:
        weights: Weight file of any known layout, a folder with one such as a run folder, or the name of published
            weights such as "van_b0" or "van_b0.in1k".
        device: Where to compute; None takes a GPU if there is one.
        batch_size: Images per batch.

    Attributes:
        model: The network in evaluation mode.
        class_names: Name of each class.
        preprocessing: timm's data configuration.

    Raises:
        VanError: the weights cannot be read, or have no classifier.
    """

    def __init__(self, weights: str | Path, device: torch.device | str | None = None, batch_size: int = 32) -> None:
        published = str(weights).partition(".")[0] in VARIANTS and not Path(weights).exists()
        ckpt = None if published else read_checkpoint(weights)
        network = create_model(str(weights), pretrained=True) if ckpt is None else model_from_checkpoint(ckpt)
        if network.num_classes == 0:
            raise WeightsError(f"{weights} has no classifier. Give weights that were trained to classify.")
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self.model = network.to(memory_format=torch.channels_last).to(self.device).eval()
        except (RuntimeError, AssertionError, NotImplementedError) as error:
            reason = str(error).strip().split("\n")[0]
            raise VanError(f"The device {str(device)!r} cannot be used here ({reason}). Try cpu.") from error
        self.batch_size = batch_size
        self.class_names = class_names_of(ckpt) if ckpt else imagenet_class_names()
        self.preprocessing = timm.data.resolve_model_data_config(self.model)
        self._mode = mode_for(self.preprocessing["input_size"][0])
        # with separate=False, the default, it is never the triple
        self._transform = cast("Callable[[Any], Any]", timm.data.create_transform(**self.preprocessing))

    @torch.inference_mode()
    def logits(self, batch: torch.Tensor) -> torch.Tensor:
        """Map preprocessed images (B, C, H, W) to logits (B, classes) on the CPU."""
        return self.model(batch.to(self.device)).float().cpu()

    def stream(self, images: Sequence[ImageLike], top_k: int = 5, workers: int = 0) -> Iterator[Prediction | DataError]:
        """Yield the prediction of each image in order, or the error where one cannot be decoded.

        Args:
            images: As in calling the predictor.
            top_k: Classes per image.
            workers: Processes that decode; 0 decodes in this one.
        """
        files = ImageFiles(images, self._transform, self._mode)
        return results_in_order(
            lambda batch: self._rank(self.logits(torch.stack(batch)), top_k), files, self.batch_size, workers
        )

    def _rank(self, logits: torch.Tensor, top_k: int) -> list[Prediction]:
        best = logits.softmax(dim=1).topk(min(top_k, logits.shape[1]), dim=1)
        return [
            Prediction([self.class_names[i] for i in indices], indices, values)
            for indices, values in zip(best.indices.tolist(), best.values.tolist(), strict=True)
        ]

    def __call__(self, images: ImageLike | Sequence[ImageLike], top_k: int = 5) -> Any:
        """Predict one image or several.

        Args:
            images: A path, bytes, an open file, a PIL image, an array (H, W[, C]) or tensor (C, H, W), or a sequence of
                these; an array or tensor with one more dimension is a batch. Not resized, not normalised: that is done
                here.
            top_k: Classes per image.

        Returns:
            A Prediction for one image, a list of them for several.

        Raises:
            DataError: an image cannot be decoded or is not of a known form.
        """
        return one_or_several(images, lambda several: self.stream(several, top_k))
