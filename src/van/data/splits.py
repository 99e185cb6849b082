"""Validation splits: the data's own, or a part that is held out, which weights remember."""

import hashlib
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

from van.data.folders import Split
from van.errors import DataError


class Divisible(Protocol):
    """A split whose images can be left out."""

    @property
    def name(self) -> str:
        """What to call it."""
        ...

    def __len__(self) -> int: ...

    def paths(self) -> dict[int, Path]:
        """Return the files of the images by the numbers that `without` takes."""
        ...

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> Any:
        """Return the split without some images."""
        ...


_S = TypeVar("_S", bound=Divisible)


@dataclass(frozen=True)
class Division:
    """How data without a validation split is divided into training and validation.

    Attributes:
        val_fraction: Share of the images held out for validation.
        seed: The same seed holds out the same images.
        folds: Number of equal parts of which one is held out, instead of val_fraction; None for none.
        fold: Which of them, from 1.
    """

    val_fraction: float = 0.2
    seed: int = 0
    folds: int | None = None
    fold: int | None = None

    def held_out(self, count: int) -> list[int]:
        """Return which of so many samples are held out, in order.

        Raises:
            DataError: that would leave nothing to train on or to validate with.
        """
        import numpy as np

        order = np.random.default_rng(self.seed).permutation(count)
        if self.folds is not None and self.fold is not None:
            held = order[self.fold - 1 :: self.folds]
        else:
            held = order[: round(count * self.val_fraction)]
        if not 0 < len(held) < count:
            raise DataError(f"{count} images cannot be divided by {self}. Give more images, or another share.")
        return sorted(held.tolist())

    def __str__(self) -> str:
        if self.folds is not None:
            return f"--folds {self.folds} --fold {self.fold}"
        return f"--val-fraction {self.val_fraction:g}"

    def described(self, names: Iterable[str]) -> dict[str, Any]:
        """Return what weights remember: how, and the number and a digest of the names of all images."""
        named = sorted(names)
        return {**asdict(self), "images": len(named), "digest": digest_of(named)}


def digest_of(names: Iterable[str]) -> str:
    """Return a digest of the names of files; the folders above the last one may change."""
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted("/".join(Path(name).parts[-2:]) for name in names):
        digest.update(f"{name}\n".encode())
    return digest.hexdigest()


def remembered(known: Any, names: Sequence[str]) -> Division | None:
    """Return the division that weights remember, if they were trained on images of these names.

    Args:
        known: What `described` returned for the training data; None where the weights say nothing.
        names: Of the images at hand.
    """
    if not isinstance(known, dict) or known.get("images") != len(names):
        return None
    if known.get("digest", digest := digest_of(names)) != digest:  # older weights have only the count
        return None
    return Division(known["val_fraction"], known["seed"], known.get("folds"), known.get("fold"))


def divide(whole: _S, division: Division) -> tuple[_S, _S]:
    """Divide the images of a split at random into training and validation.

    Raises:
        DataError: there are too few.
    """
    from timm.utils import natural_key

    paths = whole.paths()
    keys = sorted(paths, key=lambda key: natural_key("/".join(paths[key].parts[-2:])))
    try:
        held = {keys[i] for i in division.held_out(len(keys))}
    except DataError as error:
        raise DataError(f"{whole.name}: {error}") from error
    train, val = whole.without(held), whole.without(set(keys) - held)
    if unpaired := getattr(whole, "unpaired", None):
        train = replace(train, unpaired=unpaired)  # files of neither part are complained about once
    return train, val


def training_splits(splits: Mapping[Split, _S], division: Division, data: str) -> tuple[_S, _S, dict[str, Any]]:
    """Return what to train on, what to validate with, and what weights remember of it.

    Args:
        splits: The splits that the data has: train and val, or one of them or all.
        division: What to do about data without a validation split.
        data: What to call the data.

    Raises:
        DataError: there are no training images, or too few, or folds are asked of data with a split of its own.
    """
    if "val" in splits and "train" in splits:
        refuse_folds(division, data)
        return splits["train"], splits["val"], {}
    whole = splits.get("train", splits.get("all"))
    if whole is None:
        raise DataError(f"{data} has a val split but no train split. Add one.")
    train, val = divide(whole, division)
    return train, val, {"split": division.described(map(str, whole.paths().values()))}


def refuse_folds(division: Division, data: str) -> None:
    """Raise DataError if folds are asked of data that has a validation split of its own."""
    if division.folds is not None:
        raise DataError(
            f"{data} has a validation split of its own, which {division} would ignore. Leave the folds out, or give "
            "the data without splits."
        )


def evaluated_split(
    splits: Mapping[Split, _S], asked: Split | None, known: Any, data: str
) -> tuple[_S, Split, list[str]]:
    """Return what to evaluate on: by default the part that the weights were not trained on.

    Args:
        splits: The splits that the data has.
        asked: The split to take; None for the default.
        known: The split that the weights remember.
        data: What to call the data.

    Returns:
        The split, its name, and sentences that say where it comes from.

    Raises:
        DataError: there is no such split.
    """
    available, notes = dict(splits), []
    whole = None if len(splits) > 1 else splits.get("all", splits.get("train"))
    if whole is not None:
        available["all"] = whole
    if whole is not None and asked != "all":
        division = remembered(known, [str(path) for path in whole.paths().values()])
        if division is not None:
            train, val = divide(whole, division)
            available |= {"train": train, "val": val}
            notes.append(held_out_note(data, len(train), len(val)))
        elif known:
            notes.append(other_data_note(data, known["images"], len(whole)))
    name: Split = asked or ("val" if "val" in available else "all")
    if name not in available:
        raise DataError(f"{data} has no split {name!r}, it has {', '.join(available)}. Choose one with --split.")
    return available[name], name, notes


def held_out_note(data: str, train: int, val: int) -> str:
    """Return the sentence that says that weights know what was held out."""
    trained = f"{data} has no splits; the weights were trained on {train} of its {train + val} images"
    return f"{trained}, and {val} were held out."


def other_data_note(data: str, known: int, count: int) -> str:
    """Return the sentence that says that weights know a split of other data."""
    return (
        f"The weights were trained on {known} images with a split of their own; {data} has {count} or other ones, so "
        "all of them are measured, and some may have been trained on."
    )
