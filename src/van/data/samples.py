"""Labeled images of any origin behind one small interface, and a dataset that decodes and transforms them."""

from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
import torch
from sklearn.model_selection import StratifiedKFold, train_test_split
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from van.data.checks import Problem, count, left_out, said
from van.data.folders import OnBadImage
from van.data.images import ImageLike, read_image
from van.data.kinds import REGRESSION, SINGLE_LABEL, LabelKind
from van.data.loaders import as_is, loading_processes
from van.data.regions import Regions
from van.data.splits import Division
from van.errors import DataError


class Samples(ABC):
    """Labeled images that can be loaded one by one.

    Args:
        labels: Label of each image.
        class_names: Names in the order of the labels; of regression, names of the numbers.
        kind: What labels are.

    Attributes:
        problems: What is wrong with the labels; images with problems have to be left out.
    """

    problems: Sequence[Problem] = ()

    def __init__(self, labels: Sequence[Any], class_names: Sequence[str], kind: LabelKind[Any] = SINGLE_LABEL) -> None:
        self.labels = list(labels)
        self.class_names = list(class_names)
        self.kind = kind

    @abstractmethod
    def load(self, index: int) -> ImageLike:
        """Return the undecoded image of an index."""

    @abstractmethod
    def name(self, index: int) -> str:
        """Return the path of an index, or another name for messages."""

    def signature(self, index: int) -> str:
        """Return what weights remember of an image: its name, with the label where the path does not say it."""
        return self.name(index)

    def __len__(self) -> int:
        return len(self.labels)

    def image_name(self, index: int) -> str:
        """Return the name of an index."""
        return self.name(index)

    def key(self, index: int) -> int:
        """Return what `without` takes for an index: itself."""
        return index

    def regions(self, index: int) -> Regions:
        """Return the label, which the whole image has."""
        return Regions(np.array(self.kind.classes(self.labels[index]), int))

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> "Samples":
        """Return the samples without those of some indices."""
        gone = set(images)
        return SampleSubset(self, [i for i in range(len(self)) if i not in gone]) if gone else self

    def missing_classes(self) -> list[str]:
        """Return the names of the classes without images."""
        if self.kind is REGRESSION:
            return []
        present = self.kind.counts(self.labels)
        return [name for i, name in enumerate(self.class_names) if i not in present]


class SampleSubset(Samples):
    """Some of the samples, with the same classes.

    Args:
        samples: All samples.
        indices: Which of them, in which order.
    """

    def __init__(self, samples: Samples, indices: Sequence[int]) -> None:
        super().__init__([samples.labels[i] for i in indices], samples.class_names, samples.kind)
        self._samples = samples
        self._indices = list(indices)

    def load(self, index: int) -> ImageLike:
        """Return the undecoded image of an index."""
        return self._samples.load(self._indices[index])

    def name(self, index: int) -> str:
        """Return the name of an index."""
        return self._samples.name(self._indices[index])

    def signature(self, index: int) -> str:
        """Return the name of an index, and its label where the path does not say it."""
        return self._samples.signature(self._indices[index])


def split_samples(samples: Samples, division: Division) -> tuple[Samples, Samples]:
    """Split into training and validation samples with the same class frequencies.

    Args:
        samples: What to split.
        division: How.

    Raises:
        DataError: a class is too small, or the fraction leaves one split without some class.
    """
    counts = samples.kind.counts(samples.labels)
    rare = [samples.class_names[c] for c in sorted(counts) if counts[c] < 2]
    if rare:
        raise DataError(
            f"The class {rare[0]!r} has only one image, but a split needs two ({len(rare)} such classes). Add images, "
            "remove the class, or provide train and val folders."
        )
    if samples.kind is not SINGLE_LABEL:
        held = _held_out(samples, division, counts)
        rest = [i for i in range(len(samples)) if i not in held]
        return SampleSubset(samples, rest), SampleSubset(samples, sorted(held))
    try:
        if division.folds is not None and division.fold is not None:
            if (least := min(counts.values())) < division.folds:
                raise ValueError(f"the smallest class has {least} images.")
            folds = StratifiedKFold(division.folds, shuffle=True, random_state=division.seed)
            parts = list(folds.split(range(len(samples)), samples.labels))
            train, val = (part.tolist() for part in parts[division.fold - 1])
        else:
            train, val = train_test_split(
                range(len(samples)),
                test_size=division.val_fraction,
                stratify=samples.labels,
                random_state=division.seed,
            )
    except ValueError as error:
        raise DataError(
            f"{len(samples)} images of {len(counts)} classes cannot be split with {division}: {error} "
            "Choose another fraction, or provide train and val folders."
        ) from error
    return SampleSubset(samples, sorted(train)), SampleSubset(samples, sorted(val))


def _held_out(samples: Samples, division: Division, counts: Counter[int]) -> set[int]:
    """Return which images are held out: of images in the order of their labels, random ones at even distances.

    A class that would be left without training images gets one back.
    """
    count = len(samples)
    order = np.random.default_rng(division.seed).permutation(count)
    order = order[np.argsort(samples.kind.order(samples.labels, samples.class_names)[order], kind="stable")]
    if division.folds is not None and division.fold is not None:
        places = np.arange(division.fold - 1, count, division.folds)
    else:
        held = round(count * division.val_fraction)
        places = ((np.arange(held) + 0.5) * count / max(1, held)).astype(int)
    if not 0 < len(places) < count:
        raise DataError(f"{count} images cannot be divided by {division}. Give more images, or another share.")
    chosen = set(order[places].tolist())
    inside = samples.kind.counts(samples.labels[i] for i in chosen)
    for i in sorted(chosen):
        classes = samples.kind.classes(samples.labels[i])
        if len(chosen) > 1 and any(inside[c] == counts[c] for c in classes):
            chosen.discard(i)
            inside.subtract(classes)
    return chosen


class ImageDataset(Dataset):
    """Decoded and transformed samples.

    Args:
        samples: The labeled images.
        transform: Turns a PIL image into a tensor (C, H, W).
        mode: PIL mode to decode to, "RGB" or "L".
    """

    def __init__(self, samples: Samples, transform: Callable[[Any], torch.Tensor], mode: str = "RGB") -> None:
        self.samples = samples
        self.transform = transform
        self.mode = mode

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> tuple[torch.Tensor, Any]:
        samples = self.samples
        image = read_image(samples.load(index), self.mode, samples.name(index))
        return self.transform(image), samples.kind.target(samples.labels[index], len(samples.class_names))


class _Errors(Dataset):
    """What is wrong with each sample: an error, or an empty string."""

    def __init__(self, samples: Samples) -> None:
        self.samples = samples

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> str:
        name = self.samples.name(index)
        try:
            read_image(self.samples.load(index), name=name)
        except DataError as error:
            return said(error, name)
        return ""


def find_problems(samples: Samples, decode: bool = True, workers: int | None = None, few: int = 2) -> list[Problem]:
    """List everything that would stop or spoil training.

    Args:
        samples: What to check.
        decode: Decode every image.
        workers: Loading processes; None takes one per processor, at most 8, and none for few images.
        few: Smallest number of images that a class needs: a split into train and val takes two.
    """
    bad = {problem.image for problem in samples.problems}
    good = samples.without([image for image in bad if image is not None])
    problems = list(samples.problems)
    if samples.kind is REGRESSION:
        problems += [
            Problem(name, f"all images have the same number, {values[0]:g}")
            for name, values in zip(samples.class_names, zip(*good.labels, strict=True), strict=False)
            if few and len(set(values)) == 1
        ]
    else:
        counts = samples.kind.counts(good.labels)
        problems += [
            Problem(name, f"the class has {count(counts[label], 'image')}, expected at least {few}")
            for label, name in enumerate(samples.class_names)
            if counts[label] < few
        ]
    if decode:
        processes = loading_processes(workers, len(samples))
        loader = DataLoader(_Errors(samples), batch_size=None, num_workers=processes, collate_fn=as_is)
        errors = tqdm(loader, desc="Checking images", unit=" images", total=len(samples), leave=False, disable=None)
        found = ((index, what) for index, what in enumerate(errors) if what and index not in bad)
        problems += [Problem(samples.name(index), what, index) for index, what in found]
    return problems


def readable_samples(samples: Samples, name: str, on_bad_image: OnBadImage) -> tuple[Samples, list[str]]:
    """Return the samples without those whose labels have problems; arguments, result and errors as usable_samples."""
    images, _, notes = left_out(name, len(samples), samples.problems, on_bad_image)
    return samples.without(images), notes


def usable_samples(
    samples: Samples, name: str, on_bad_image: OnBadImage, workers: int | None = None
) -> tuple[Samples, list[str]]:
    """Decode all images, and return the samples without those that cannot be used.

    Args:
        samples: What to check.
        name: What to call them.
        on_bad_image: What to do about images that cannot be used: error refuses them, skip leaves them out.
        workers: Loading processes; see find_problems.

    Returns:
        The samples, and a note that says what was left out if anything was.

    Raises:
        DataError: there are images that cannot be used, and on_bad_image is "error" or they are too many.
    """
    problems = find_problems(samples, workers=workers, few=0)
    images, _, notes = left_out(name, len(samples), problems, on_bad_image)
    return samples.without(images), notes
