"""Classes of unequal size in training: weights of classes, and how often each image is seen."""

import csv
import io
import json
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from scipy.sparse import csr_array

from van.errors import DataError, nearest

BALANCED = "balanced"
REPEAT_THRESHOLD = 0.001
"""Share of the images below which a class is repeated, as LVIS has it."""


# ------------------------------------------------------------------------------------------------ values by class


def read_by_class(path: str | Path) -> dict[str, float]:
    """Read a number for each class from a file.

    Args:
        path: JSON with an object of class names and numbers, or CSV with a class and a number a line; a first line that
            has no number is taken for a heading.

    Raises:
        DataError: it cannot be read, or is of another form.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix.lower() == ".csv":
            rows = [row for row in csv.reader(io.StringIO(text)) if any(cell.strip() for cell in row)]
            if rows and len(rows[0]) == 2 and not _is_number(rows[0][1]):
                rows = rows[1:]
            if wrong := next((row for row in rows if len(row) != 2), None):
                raise ValueError(f"{','.join(wrong)!r} has no class and number")
            content: Any = {name.strip(): float(value) for name, value in rows}
            if len(content) < len(rows):
                raise ValueError("a class is named twice")
        else:
            content = json.loads(text)
        return {str(name): float(value) for name, value in content.items()}
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}). Check the path.") from error
    except (AttributeError, TypeError, ValueError) as error:
        raise DataError(
            f'{path} does not say a number for each class ({error}). Expected JSON such as {{"cat": 2.0, "dog": 0.5}}, '
            "or a .csv file with a class and a number a line."
        ) from error


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def by_class(values: Mapping[str, float], class_names: Sequence[str], what: str, default: float) -> np.ndarray:
    """Return a number for each label, (classes,).

    Args:
        values: Numbers by class name.
        class_names: Names in the order of the labels.
        what: What to call the numbers in messages.
        default: Number of the classes that are not named.

    Raises:
        DataError: a class is unknown.
    """
    result = np.full(len(class_names), default)
    for name, value in values.items():
        if name not in class_names:
            listed = ", ".join(class_names[:10]) + (", ..." if len(class_names) > 10 else "")
            raise DataError(f"{what} names {name!r}, expected some of {listed}.{nearest(name, list(class_names))}")
        result[list(class_names).index(name)] = value
    return result


def class_weights(
    given: str | Mapping[str, float], class_names: Sequence[str], contents: Callable[[], csr_array]
) -> np.ndarray:
    """Return the weight of each class in the loss, (classes,).

    Args:
        given: "balanced", a file (see read_by_class), or weights by class name, where other classes have weight 1.
            Balanced weights are those of scikit-learn: n / (K * n_c), where n_c of all n images, objects or pixels are
            of class c, and K is the number of classes that occur. Classes that do not occur have weight 1.
        class_names: Names in the order of the labels.
        contents: Returns how much of each class is on each image; called for balanced weights only.

    Raises:
        DataError: a file cannot be read, a class is unknown, or a weight is out of range.
    """
    if given == BALANCED:
        counts = np.asarray(contents().sum(axis=0), dtype=float)
        there = counts > 0
        return np.divide(counts.sum() / max(1, there.sum()), counts, out=np.ones(len(counts)), where=there)
    values = read_by_class(given) if isinstance(given, str) else given
    weights = by_class(values, class_names, "class_weights", 1.0)
    for name, weight in zip(class_names, weights.tolist(), strict=True):
        if not (math.isfinite(weight) and weight >= 0):
            raise DataError(f"class_weights has {weight} for {name}, expected a number of at least 0.")
    if not weights.any():
        raise DataError("class_weights has 0 for all classes. Give one of them a weight above 0.")
    return weights


# ------------------------------------------------------------------------------------------------ sampling


def contents_of(images: Iterable[Mapping[int, float]], classes: int) -> csr_array:
    """Return how much of each class is on each image, (images, classes).

    Args:
        images: For each image objects, pixels or 1 by label.
        classes: Number of classes.
    """
    rows, columns, values, count = [], [], [], 0
    for row, image in enumerate(images):
        count = row + 1
        for label, value in image.items():
            rows.append(row)
            columns.append(label)
            values.append(value)
    return csr_array((values, (rows, columns)), shape=(count, classes), dtype=float)


def image_factors(contents: csr_array, how: str, threshold: float = REPEAT_THRESHOLD) -> np.ndarray:
    """Return how often each image is seen in a pass, (images,).

    Args:
        contents: How much of each class is on each image; see contents_of.
        how: balanced: as often as if a class were drawn first, then an image with it (Shen et al., 2016, arXiv
            1512.05830); a pass is as long as without. repeat-factor: an image of a class that is on a share f of the
            images max(1, sqrt(threshold / f)) times, by its rarest class (Gupta et al., 2019, arXiv 1908.03195).
            Images without any class are seen once.
        threshold: See repeat-factor.
    """
    present = csr_array(contents > 0, dtype=float)
    images = np.asarray(present.sum(axis=0), dtype=float)  # with each class
    if how == "repeat-factor":
        share = images / max(1, cast(Any, present).shape[0])
        repeats = np.maximum(1.0, np.sqrt(np.divide(threshold, share, out=np.zeros_like(share), where=share > 0)))
        # all factors are at least 1, so the zeros of the sparse matrix never win
        return np.maximum(1.0, csr_array(present * repeats).max(axis=1).toarray().ravel())
    empty = np.asarray(present.sum(axis=1)).ravel() == 0
    per_class = np.divide(1.0, images, out=np.zeros_like(images), where=images > 0)
    drawn = present @ per_class
    return np.where(empty, 1.0, drawn * (~empty).sum() / max(1, (images > 0).sum()))


class Repeats:
    """Passes in which images are seen more or less than once.

    A factor of 2.3 shows an image twice or three times in a pass, 2.3 times on average: factors are added up in an
    order that is random among images of the same factor, and each place where the sum passes a whole number (plus one
    random offset for all) is a sample. So a pass always has the same length.

    Args:
        factors: How often each image is seen in a pass, on average; their sum is rounded to the length of a pass.

    Attributes:
        length: Samples in a pass.
    """

    def __init__(self, factors: Sequence[float] | np.ndarray) -> None:
        given = np.asarray(factors, dtype=float)
        self.length = max(1, round(float(given.sum())))
        self.factors = given * (self.length / given.sum())

    def order(self, generator: torch.Generator) -> list[int]:
        """Return the indices of a pass in random order."""
        order = torch.randperm(len(self.factors), generator=generator).numpy()
        order = order[np.argsort(self.factors[order], kind="stable")]
        offset = float(torch.rand((), generator=generator, dtype=torch.float64))
        ends = np.floor(np.cumsum(self.factors[order]) + offset).astype(int)
        ends[-1] = self.length  # whatever rounding has left
        seen = np.repeat(order, np.diff(ends, prepend=0))
        return seen[torch.randperm(self.length, generator=generator).numpy()].tolist()
