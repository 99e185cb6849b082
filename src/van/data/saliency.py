"""Salient object detection: images and masks that are bright where an object is salient."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from torchvision import tv_tensors
from torchvision.transforms.v2 import functional

from van.data.folders import Split
from van.data.images import read_image
from van.data.loaders import StepBatches
from van.data.pairs import PairedSplit, check_sizes, find_folders, find_pairs, find_splits, read_mask
from van.data.regions import Regions, regions_of_pixels
from van.errors import DataError

THRESHOLD = 128
"""Brighter pixels of a mask are salient, as in the usual evaluation toolboxes."""

_MASK_FOLDERS = ("masks", "saliency", "mask", "gt", "GT", "annotations", "ground_truth_mask")
_DUTS = {"train": "DUTS-TR", "val": "DUTS-TE"}


@dataclass(frozen=True)
class SaliencySplit(PairedSplit):
    """The images and masks of a split; see `find_saliency`.

    Attributes:
        images: Files of the images.
        masks: Their masks, in the same order.
        unpaired: Files without a counterpart, with what is wrong.
        name: What to call the split: the folder of its masks.
    """

    unpaired: list[tuple[Path, str]] = field(default_factory=list)
    name: str = "The masks"
    class_names: ClassVar[list[str]] = ["salient"]

    def regions(self, index: int) -> Regions:
        """Return the salient pixels as a region; nothing where the mask cannot be read."""
        try:
            return regions_of_pixels(1 - self.salient(index), 1)
        except DataError:
            return Regions(np.zeros(0, int))

    def salient(self, index: int) -> np.ndarray:
        """Read the mask of an index.

        Returns:
            (H, W) uint8: 1 where an object is salient, else 0.

        Raises:
            DataError: the file is broken or not a mask.
        """
        return (read_mask(self.masks[index], grey=True) > THRESHOLD).astype(np.uint8)


def find_saliency(root: str | Path, split: Split) -> SaliencySplit:
    """Find images and masks of a split; see `van.data.pairs.find_folders` for the layouts.

    The folder of the masks is called masks, saliency, mask, gt, GT, annotations or ground_truth_mask. DUTS
    (DUTS-TR/DUTS-TR-Image and DUTS-TR/DUTS-TR-Mask, and the same for DUTS-TE) and the built-in shapes are found too.

    Args:
        root: Folder of the data set.
        split: "train" or "val", or "all" for data without splits.

    Raises:
        DataError: there are no such files.
    """
    folders = find_folders(root, split, _MASK_FOLDERS, _more_folders(split))
    pairs = find_pairs(folders, split)
    return SaliencySplit(pairs.images, pairs.masks, pairs.unpaired, str(folders.masks))


def find_saliency_splits(root: str | Path) -> dict[Split, SaliencySplit]:
    """Return the splits of a data set, train before val, or "all" alone; see `find_saliency`."""
    splits = find_splits(root, _MASK_FOLDERS, {split: _more_folders(split) for split in _DUTS})
    return {split: find_saliency(root, split) for split in splits}


def _more_folders(split: str) -> list[tuple[str, str]]:
    if (name := _DUTS.get(split)) is None:
        return []
    duts = [(f"{before}{name}-Image", f"{before}{name}-Mask") for before in (f"{name}/", "")]
    return [*duts, (f"saliency/images/{split}", f"saliency/masks/{split}")]


class SaliencyDataset(Dataset):
    """Images with their salient pixels.

    An item is the image, a tv_tensors.Image (3, H, W) of uint8, and the mask, a tv_tensors.Mask (H, W) of uint8 that is
    1 where an object is salient.

    Args:
        split: Images and masks.
        transform: Takes and returns image and mask, like torchvision's transforms v2.
    """

    def __init__(self, split: SaliencySplit, transform: Callable[[Any, Any], Any] | None = None) -> None:
        self.split = split
        self.transform = transform

    def name(self, index: int) -> str:
        """Return the path of an image."""
        return str(self.split.images[index])

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, torch.Tensor]:
        image: Any = tv_tensors.Image(functional.pil_to_tensor(read_image(self.split.images[index])))
        mask: Any = tv_tensors.Mask(torch.from_numpy(self.split.salient(index)))
        check_sizes(self.split.images[index], self.split.masks[index], image.shape[-2:], mask.shape)
        return (image, mask) if self.transform is None else self.transform(image, mask)


class SizePasses(StepBatches):
    """Batches of several data sets that hold the same images at different sizes, joined by ConcatDataset.

    A pass takes every image of one data set once, in an order of its own; the next pass is over the next data set.
    Images that do not fill the last batch of a pass are left out of it.

    Args:
        images: Number of images of one data set.
        sizes: Number of data sets.
        batch_size: Images per batch and process.
        steps: Batches per epoch and process; None takes a pass over each data set.
        seed: Of the orders.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.
    """

    def __init__(
        self,
        images: int,
        sizes: int,
        batch_size: int,
        steps: int | None = None,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        super().__init__(images, batch_size, None, seed, processes, rank)
        self.sizes, self._per_pass = sizes, self.steps
        self.steps = steps or sizes * self._per_pass

    def batches(self, epoch: int) -> Iterator[list[tuple[int, int]]]:
        """Return all batches of an epoch over all processes together."""
        whole = self.batch_size * self.num_replicas
        for step in range(epoch * self.steps, (epoch + 1) * self.steps):
            turn, batch = divmod(step, self._per_pass)
            start = turn % self.sizes * self.images
            # with fewer images than a batch has, some are repeated
            places = range(batch * whole, (batch + 1) * whole)
            indices = [start + self.shuffled(turn)[place % self.images] for place in places]
            yield list(enumerate(indices, step * whole))
