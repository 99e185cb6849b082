"""What the label of an image can be: one class, any number of classes, or numbers."""

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch

from van.data.formats import TargetKind

_L = TypeVar("_L")


class LabelKind(Generic[_L]):
    """One kind of labels, and what differs among the kinds.

    Attributes:
        name: Name of the kind, as options and weight files have it.
        unknown: Label of an image whose own cannot be read.
    """

    name: TargetKind
    unknown: _L

    def target(self, label: _L, count: int) -> Any:
        """Return what the loss takes.

        Args:
            label: The label of an image.
            count: Number of classes, or of numbers.
        """
        raise NotImplementedError

    def classes(self, label: _L) -> tuple[int, ...]:
        """Return the classes that a label names."""
        raise NotImplementedError

    def renumbered(self, label: _L, places: Sequence[int]) -> _L:
        """Return a label where class (or number) i has become places[i]."""
        raise NotImplementedError

    def order(self, labels: Sequence[_L], names: Sequence[str]) -> np.ndarray:
        """Return a number for each image, (N,): images with similar numbers have similar labels.

        Args:
            labels: Of the images.
            names: Of the classes or numbers, whose order makes no difference.
        """
        raise NotImplementedError

    def cells(self, label: _L, count: int) -> list[float]:
        """Return what a CSV file has for a label: 1 or 0 for each class, or the numbers."""
        present = self.classes(label)
        return [int(number in present) for number in range(count)]

    def text(self, label: _L, names: Sequence[str]) -> str:
        """Return a label in words, whatever the order of the names is."""
        return "|".join(sorted(names[number] for number in self.classes(label)))

    def counts(self, labels: Iterable[_L]) -> Counter[int]:
        """Return the number of images of each class."""
        return Counter(number for label in labels for number in self.classes(label))

    def __repr__(self) -> str:
        return self.name


def _ranks(names: Sequence[str]) -> np.ndarray:
    """Return the place of each name among all in alphabetical order, (names,)."""
    return np.argsort(np.argsort(np.array(names)))


class _SingleLabel(LabelKind[int]):
    """The number of a class."""

    name = "single-label"
    unknown = -1

    def target(self, label: int, count: int) -> int:
        """Return the number of the class."""
        return label

    def classes(self, label: int) -> tuple[int, ...]:
        """Return the class; nothing where it cannot be read."""
        return (label,) if label >= 0 else ()

    def renumbered(self, label: int, places: Sequence[int]) -> int:
        """Return the new number of the class."""
        return places[label]

    def order(self, labels: Sequence[int], names: Sequence[str]) -> np.ndarray:
        """Return the classes."""
        return _ranks(names)[np.asarray(labels)]


class _MultiLabel(LabelKind[tuple[int, ...]]):
    """The numbers of all classes that are on an image, in ascending order; there may be none."""

    name = "multi-label"
    unknown = ()

    def target(self, label: tuple[int, ...], count: int) -> torch.Tensor:
        """Return 1 for each class that is there, else 0, (count,)."""
        target = torch.zeros(count)
        target[list(label)] = 1.0
        return target

    def classes(self, label: tuple[int, ...]) -> tuple[int, ...]:
        """Return the classes."""
        return label

    def renumbered(self, label: tuple[int, ...], places: Sequence[int]) -> tuple[int, ...]:
        """Return the new numbers of the classes."""
        return tuple(sorted(places[number] for number in label))

    def order(self, labels: Sequence[tuple[int, ...]], names: Sequence[str]) -> np.ndarray:
        """Return the rarest class of each image; -1 without any."""
        counts, ranks = self.counts(labels), _ranks(names).tolist()
        by_rarity = {number: (count, ranks[number]) for number, count in counts.items()}
        return np.array([min((by_rarity[number] for number in label), default=(0, -1))[1] for label in labels])


class _Regression(LabelKind[tuple[float, ...]]):
    """Numbers, such as an age."""

    name = "regression"
    unknown = ()

    def target(self, label: tuple[float, ...], count: int) -> torch.Tensor:
        """Return the numbers, (count,)."""
        return torch.tensor(label)

    def classes(self, label: tuple[float, ...]) -> tuple[int, ...]:
        """Return nothing: there are no classes."""
        return ()

    def renumbered(self, label: tuple[float, ...], places: Sequence[int]) -> tuple[float, ...]:
        """Return the numbers in the new order."""
        moved = dict(zip(places, label, strict=True))
        return tuple(moved[place] for place in range(len(label)))

    def order(self, labels: Sequence[tuple[float, ...]], names: Sequence[str]) -> np.ndarray:
        """Return the number of each image whose name comes first."""
        return np.array(labels)[:, list(names).index(min(names))]

    def cells(self, label: tuple[float, ...], count: int) -> list[float]:
        """Return the numbers."""
        return list(label)

    def text(self, label: tuple[float, ...], names: Sequence[str]) -> str:
        """Return the numbers with their names."""
        return " ".join(f"{name}={value!r}" for name, value in sorted(zip(names, label, strict=True)))


SINGLE_LABEL, MULTI_LABEL, REGRESSION = _SingleLabel(), _MultiLabel(), _Regression()
KINDS: dict[TargetKind, LabelKind[Any]] = {kind.name: kind for kind in (SINGLE_LABEL, MULTI_LABEL, REGRESSION)}
