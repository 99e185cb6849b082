"""Images with boxes and masks for training and evaluating a detector: parts, transforms, batches of one orientation."""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
import torch.distributed as dist
from lightning import LightningDataModule
from torch import nn
from torch.utils.data import DataLoader, Dataset, DistributedSampler
from torchvision import tv_tensors
from torchvision.ops import masks_to_boxes
from torchvision.transforms import v2

from van.data.coco import CocoDetectionDataset, CocoPart, find_part
from van.data.coco_checks import find_problems, usable
from van.data.shapes import shapes_folder
from van.errors import DataError

OnProblem = Literal["refuse", "skip"]
SHAPES = "shapes"  # the name of the built-in data


@dataclass
class DetectionAugmentation:
    """Random changes of the training images, with boxes and masks in step.

    The short edge that the detector scales images to is an option of the detector, also where several are drawn from.

    Attributes:
        hflip: Probability of a horizontal flip.
        photometric: Probability of each change of brightness, contrast, saturation and hue.
        jitter: Smallest and largest scale of large-scale jitter (Ghiasi et al. 2021, arXiv 2012.07177), such as
            0.1 and 2.0; images are then cut or padded to jitter_size. Null for none.
        jitter_size: Height and width in pixels that scale 1 fits an image into.
        min_box: Boxes whose sides are shorter after all this, in pixels, are left out.
    """

    hflip: float = 0.5
    photometric: float = 0.0
    jitter: tuple[float, float] | None = None
    jitter_size: tuple[int, int] = (1024, 1024)
    min_box: float = 1.0

    def transform(self) -> v2.Transform:
        """Return the changes as one transform of image and target.

        Raises:
            DataError: a value is out of range.
        """
        for name in ("hflip", "photometric"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"augmentation.{name} is {getattr(self, name)}, expected a probability from 0 to 1.")
        if not self.min_box >= 0:
            raise DataError(f"augmentation.min_box is {self.min_box}, expected 0 or more pixels.")
        steps: list[Any] = [v2.RandomHorizontalFlip(self.hflip)]
        if self.photometric:
            steps.append(v2.RandomPhotometricDistort(p=self.photometric))
        if self.jitter is not None:
            if len(self.jitter) != 2 or not 0 < self.jitter[0] <= self.jitter[1]:
                raise DataError(f"augmentation.jitter is {self.jitter}, expected two rising numbers above 0.")
            if len(self.jitter_size) != 2 or min(self.jitter_size) < 1:
                raise DataError(f"augmentation.jitter_size is {self.jitter_size}, expected a height and a width.")
            steps += [
                v2.ScaleJitter(cast(Any, self.jitter_size), cast(Any, self.jitter), antialias=True),
                v2.RandomCrop(cast(Any, self.jitter_size), pad_if_needed=True, fill=cast(Any, _FILL)),
                _BoxesOfMasks(),
            ]
        return v2.Compose([*steps, v2.SanitizeBoundingBoxes(min_size=self.min_box)])


_FILL = {tv_tensors.Image: 127, "others": 0}


class _BoxesOfMasks(nn.Module):
    """Shrink boxes to what a cut has left of the masks."""

    def forward(self, image: Any, target: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Return the image and the target; objects without a pixel lose their box, for sanitising to leave out."""
        if "masks" not in target or not len(target["masks"]):
            return image, target
        boxes = torch.zeros_like(target["boxes"])
        visible = target["masks"].flatten(1).bool().any(dim=1)
        if visible.any():
            boxes[visible] = masks_to_boxes(target["masks"][visible]).to(boxes) + torch.tensor([0.0, 0.0, 1.0, 1.0])
        return image, {**target, "boxes": cast(Any, tv_tensors.wrap)(boxes, like=target["boxes"])}


def processes_and_rank(processes: int | None = None, rank: int | None = None) -> tuple[int, int]:
    """Return how many processes share the data, and which of them this is; None asks torch.distributed."""
    together = dist.is_available() and dist.is_initialized()
    if processes is None:
        processes = dist.get_world_size() if together else 1
    if rank is None:
        rank = dist.get_rank() if together else 0
    return processes, rank


class OrientedBatches(DistributedSampler):
    """Batches of images that are all wider than high, or all higher than wide, so that little is padded.

    Every process gets as many batches as the others, and other images. In training the order is new in every epoch; of
    each orientation the images left over from whole batches wait for another epoch, unless they are all that there are.
    In evaluation every image comes once, those of like shape together.

    Args:
        ratios: Width divided by height of each image.
        batch_size: Images per batch and process.
        shuffle: True in training.
        seed: Of the order.
        processes: How many share the images; None asks torch.distributed.
        rank: Which of them this is; None asks torch.distributed.

    Raises:
        DataError: there are fewer images than processes.
    """

    # a DistributedSampler that yields lists: Lightning leaves it as it is and tells it the epoch

    def __init__(
        self,
        ratios: Sequence[float],
        batch_size: int,
        shuffle: bool,
        seed: int = 0,
        processes: int | None = None,
        rank: int | None = None,
    ) -> None:
        processes, rank = processes_and_rank(processes, rank)
        super().__init__(cast(Any, ratios), num_replicas=processes, rank=rank, shuffle=shuffle, seed=seed)
        if len(ratios) < processes:
            raise DataError(f"{len(ratios)} images cannot be shared by {processes} devices. Give fewer --devices.")
        self.batch_size = batch_size
        self.ratios = torch.tensor(ratios)
        wide = self.ratios >= 1
        self.groups = [group for group in (wide.nonzero()[:, 0], (~wide).nonzero()[:, 0]) if len(group)]

    def __len__(self) -> int:
        if not self.shuffle:
            whole = -(-len(self.ratios) // (self.num_replicas * self.batch_size))
            return min(whole, len(self.ratios) // self.num_replicas)  # rather one image more than a batch of none
        batches = sum(max(1, len(group) // self.batch_size) for group in self.groups)
        return max(1, batches // self.num_replicas)

    def __iter__(self) -> Iterator[list[int]]:
        return iter(self._random() if self.shuffle else self._ordered())

    def _random(self) -> list[list[int]]:
        generator = torch.Generator().manual_seed(self.seed + self.epoch)
        batches: list[list[int]] = []
        for group in self.groups:
            order = group[torch.randperm(len(group), generator=generator)].tolist()
            size = self.batch_size
            batches += [order[i * size : (i + 1) * size] for i in range(max(1, len(group) // size))]
        places = torch.randperm(len(batches), generator=generator).tolist()
        # fewer batches than processes: some come twice
        count = len(self) * self.num_replicas
        return [batches[places[i % len(places)]] for i in range(self.rank, count, self.num_replicas)]

    def _ordered(self) -> list[list[int]]:
        order = self.ratios.argsort(stable=True)
        own = torch.tensor_split(order, self.num_replicas)[self.rank]
        return [batch.tolist() for batch in torch.tensor_split(own, len(self))]


class _Batches(Dataset):
    """Lists of images and lists of targets for lists of places."""

    def __init__(self, dataset: CocoDetectionDataset) -> None:
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, places: list[int]) -> tuple[list[torch.Tensor], list[dict[str, Any]]]:
        images, targets = zip(*(self.dataset[place] for place in places), strict=True)
        return list(images), list(targets)


def _as_is(batch: Any) -> Any:
    return batch


def _loader(dataset: CocoDetectionDataset, batches: OrientedBatches, workers: int) -> DataLoader:
    return DataLoader(
        _Batches(dataset),
        batch_size=None,
        sampler=batches,
        num_workers=workers,
        collate_fn=_as_is,
        persistent_workers=workers > 0,
    )


def _ratios(dataset: CocoDetectionDataset) -> list[float]:
    return [(image.get("width") or 1) / (image.get("height") or 1) for image in dataset.images]


def data_folder(data: str, root: str | None = None) -> Path:
    """Return the folder of a data set; the built-in shapes are made where they are missing.

    Args:
        data: A folder, or "shapes".
        root: Where the shapes are stored; None takes the folder data.
    """
    return shapes_folder(root) if data == SHAPES else Path(data)


def loading_processes(workers: int | None) -> int:
    """Return the number of loading processes; None takes one per processor, at most 8."""
    return min(8, os.cpu_count() or 1) if workers is None else workers


def usable_part(
    folder: str | Path,
    part: Literal["train", "val"],
    on_problem: OnProblem,
    masks: bool = False,
    decode: bool = False,
    workers: int | None = None,
) -> tuple[CocoPart, list[str]]:
    """Read the annotations of a part, without what cannot be used.

    Args:
        folder: In COCO's layout.
        part: "train" or "val".
        on_problem: What to do with annotations and images that cannot be used: refuse them all, or skip these.
        masks: Whether each object must have a mask.
        decode: Decode every image too; without it damage behind a file's header is not found.
        workers: Processes that read images; None takes one per processor, at most 8.

    Returns:
        The part, and sentences that say what was skipped.

    Raises:
        DataError: the data cannot be read, or cannot be used and should not be skipped.
    """
    whole = CocoPart(find_part(folder, part))
    annotations, images, notes = usable(whole, on_problem, masks, workers)
    kept = whole.without(annotations, images) if annotations or images else whole
    if decode and (broken := find_problems(kept, True, workers, masks)):
        text = "\n".join(map(str, broken[:10])) + (f"\n... and {len(broken) - 10} more" if len(broken) > 10 else "")
        if on_problem == "refuse":
            raise DataError(
                f"{whole.files.annotations}, every image decoded: {len(broken)} problems:\n{text}\n"
                "Replace the files, or leave these out with --on-problem skip."
            )
        kept = kept.without(image_ids={problem.id for problem in broken if problem.id is not None})
        notes = [*notes, f"{whole.files.annotations}: left out {len(broken)} images that do not decode:\n{text}"]
    if not len(kept):
        raise DataError(f"{whole.files.annotations} has no image that can be used. See van check-data {folder}.")
    return kept, notes


def evaluation_batches(part: CocoPart, batch_size: int, workers: int) -> DataLoader:
    """Return every image of a part once, in batches of like shape: lists of images (3, H, W) uint8 and of targets.

    Args:
        part: The annotations.
        batch_size: Images per batch and process.
        workers: Loading processes.
    """
    dataset = CocoDetectionDataset(part)
    return _loader(dataset, OrientedBatches(_ratios(dataset), batch_size, shuffle=False), workers)


class DetectionData(LightningDataModule):
    """Training and validation images of one data set in COCO's format.

    Batches are a list of images (3, H, W) of uint8 and a list of targets; see CocoDetectionDataset. They are shared
    among processes here, so the trainer gets use_distributed_sampler=False.

    Args:
        folder: In COCO's layout; see data_folder for the built-in data.
        augmentation: Random changes of the training images.
        batch_size: Images per step and process.
        masks: Whether masks are learned.
        on_problem: What to do with annotations and images that cannot be used: refuse them all, or skip these.
        decode: Decode every image once, to find the broken ones before training does.
        seed: Of the order.
        workers: Loading processes; None takes one per processor, at most 8.

    Attributes:
        train: Annotations of the training part.
        val: Annotations of the validation part.
        class_names: Names in the order of the labels.
        category_ids: Ids in the data, in the order of the labels.
        notes: Sentences about the data that the user should know.

    Raises:
        DataError: the data cannot be used.
    """

    def __init__(
        self,
        folder: str | Path,
        augmentation: DetectionAugmentation,
        batch_size: int,
        masks: bool = False,
        on_problem: OnProblem = "refuse",
        decode: bool = False,
        seed: int = 0,
        workers: int | None = None,
    ) -> None:
        super().__init__()
        self.batch_size = batch_size
        self.seed = seed
        self.workers = loading_processes(workers)
        self.train, notes = usable_part(folder, "train", on_problem, masks, decode, workers)
        self.val, more = usable_part(folder, "val", on_problem, masks, decode, workers)
        self.notes = notes + more
        self.class_names = self.train.class_names
        self.category_ids = self.train.category_ids
        if (self.val.class_names, self.val.category_ids) != (self.class_names, self.category_ids):
            raise DataError(
                f"{self.val.files.annotations} has other categories than {self.train.files.annotations}. Give both the "
                "same list of categories."
            )
        self._train = CocoDetectionDataset(self.train, augmentation.transform(), masks)
        if not any(self._train.objects(image["id"]) for image in self._train.images):
            raise DataError(
                f"{self.train.files.annotations} has no annotations to learn from. See van check-data {folder}."
            )

    def steps(self, processes: int) -> int:
        """Return how many batches each of so many processes trains on in an epoch."""
        return len(self._train_batches(processes, 0))

    def _train_batches(self, processes: int | None = None, rank: int | None = None) -> OrientedBatches:
        return OrientedBatches(_ratios(self._train), self.batch_size, True, self.seed, processes, rank)

    def train_dataloader(self) -> DataLoader:
        """Return shuffled, augmented batches of one orientation each."""
        return _loader(self._train, self._train_batches(), self.workers)

    def val_dataloader(self) -> DataLoader:
        """Return the images of the validation part as they are."""
        return evaluation_batches(self.val, self.batch_size, self.workers)
