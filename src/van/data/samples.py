"""Labelled images of any origin behind one small interface, and a dataset that decodes and transforms them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import torch
from sklearn.model_selection import train_test_split
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.images import ImageLike, read_image
from van.errors import DataError


class Samples(ABC):
    """Labelled images that can be loaded one by one.

    Args:
        labels: Class number of each image.
        class_names: Name of each class number.
    """

    def __init__(self, labels: Sequence[int], class_names: Sequence[str]) -> None:
        self.labels = list(labels)
        self.class_names = list(class_names)

    @abstractmethod
    def load(self, index: int) -> ImageLike:
        """Return the undecoded image of an index."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the path of an index, or what else a message should call it."""

    def __len__(self) -> int:
        return len(self.labels)

    def missing_classes(self) -> list[str]:
        """Return the names of the classes without any image."""
        present = set(self.labels)
        return [name for i, name in enumerate(self.class_names) if i not in present]


class SampleSubset(Samples):
    """Some of the samples, with the same classes.

    Args:
        samples: All samples.
        indices: Which of them, in which order.
    """

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        super().__init__([samples.labels[i] for i in indices], samples.class_names)
        self._samples = samples
        self._indices = list(indices)

    def load(self, index: int) -> ImageLike:
        """Return the undecoded image of an index."""
        return self._samples.load(self._indices[index])

    def name(self, index: int) -> str:
        """Return the name of an index."""
        return self._samples.name(self._indices[index])


def split_samples(samples: Samples, fraction: float, seed: int) -> tuple[Samples, Samples]:
    """Split into a training and a validation split with the same share of every class.

    Args:
        samples: What to split.
        fraction: Share of the validation split, between 0 and 1.
        seed: The same seed gives the same split.

    Raises:
        DataError: a class is too small, or the fraction leaves a split without some class.
    """
    counts = Counter(samples.labels)
    rare = [samples.class_names[c] for c in sorted(counts) if counts[c] < 2]
    if rare:
        raise DataError(
            f"The class {rare[0]!r} has one image, a split needs two ({len(rare)} such classes). Add images, remove "
            "the class, or give the data as train and val folders."
        )
    try:
        train, val = train_test_split(
            range(len(samples)), test_size=fraction, stratify=samples.labels, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{len(samples)} images of {len(counts)} classes cannot be split with --val-fraction {fraction}: {error} "
            "Choose another fraction, or give the data as train and val folders."
        ) from error
    return SampleSubset(samples, sorted(train)), SampleSubset(samples, sorted(val))


class ImageDataset(Dataset):
    """Decoded and transformed samples for a DataLoader.

    Args:
        samples: The labelled images.
        transform: Turns a PIL image into a tensor (C, H, W).
        mode: PIL mode to decode to, "RGB" or "L".
    """

    def __init__(self, samples: Samples, transform: Callable[[Any], torch.Tensor], mode: str = "RGB") -> None:
        self.samples = samples
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        image = read_image(self.samples.load(index), self.mode, self.samples.name(index))
        return self.transform(image), self.samples.labels[index]


class _ErrorDataset(Dataset):
    """For each sample what is wrong with it, or an empty string."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> str:
        try:
            read_image(self.samples.load(index), name=self.samples.name(index))
        except DataError as error:
            return str(error)
        return ""


def check_images(samples: Samples, workers: int) -> None:
    """Decode every image once, with a progress bar.

    Args:
        samples: What to check.
        workers: Processes that decode, at least 1.

    Raises:
        DataError: some cannot be decoded; the message lists the first 20.
    """
    # always in processes of their own: a tar file opened here would share its position with later workers
    loader = DataLoader(_ErrorDataset(samples), batch_size=None, num_workers=max(1, workers))
    errors = [error for error in tqdm(loader, desc="Checking images", unit=" images", total=len(samples)) if error]
    if errors:
        more = f"\n... and {len(errors) - 20} more" if len(errors) > 20 else ""
        raise DataError(f"{len(errors)} of {len(samples)} images are unusable:\n" + "\n".join(errors[:20]) + more)
