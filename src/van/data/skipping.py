"""Training that goes on where single images cannot be used."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from van.data.checks import LeftOut, refuse_too_many
from van.errors import DataError
from van.files import write_text

SKIPPED = "skipped.txt"
"""File in a run folder that lists what was left out: a line for each file or annotation, with what is wrong."""


class Skipping(Dataset):
    """A data set in which the next sample takes the place of one that cannot be used.

    Which one it is depends on the index alone, so that runs with the same seed stay the same. What is skipped is
    written to a file, and counted in memory that all loading processes share.

    Args:
        dataset: Raises DataError for a sample that cannot be used.
        file: A line is appended to it for each sample that is skipped; see skipped_lines.
        images: Which image each sample is part of, by any number; None where every sample is an image of its own.
        name: What to call the data set in an error.

    Attributes:
        bad: Which images were skipped so far, bool (N,).
    """

    def __init__(
        self, dataset: Any, file: Path, images: Sequence[int] | None = None, name: str = "The training split"
    ) -> None:
        self.dataset = dataset
        self.file = file
        self._title = name
        _, places = np.unique(range(len(dataset)) if images is None else images, return_inverse=True)
        self._image_of = places
        self.bad = torch.zeros(int(places.max(initial=-1)) + 1, dtype=torch.bool).share_memory_()
        self._errors: list[DataError] = []  # those that this process has met

    def __len__(self) -> int:
        return len(self.dataset)

    def __getattr__(self, name: str) -> Any:
        if name == "dataset":  # not there yet while unpickling
            raise AttributeError(name)
        return getattr(self.dataset, name)

    def __getitem__(self, index: int) -> Any:
        """Return a sample, or the first one after it that can be used.

        Raises:
            DataError: more images cannot be used than may be skipped; see van.data.checks.MOST_SKIPPED.
        """
        for place in range(index, index + len(self)):
            try:
                return self.dataset[place % len(self)]
            except DataError as error:
                self._skip(int(self._image_of[place % len(self)]), error)
        raise DataError(f"{self._title} has no sample that can be used.")

    def _skip(self, image: int, error: DataError) -> None:
        if not self.bad[image]:
            self.bad[image] = True
            self._errors.append(error)
            append_skipped(self.file, [error])
            refuse_too_many(self._title, int(self.bad.sum()), len(self.bad), self._errors)


def append_skipped(file: Path, problems: Iterable[object]) -> None:
    """Append a line for each problem to a list of what was skipped; several processes may do so at once."""
    text = "".join(f"{' '.join(str(problem).split())}\n" for problem in problems)
    if text:
        with file.open("a", encoding="utf-8") as opened:  # one write: lines of other processes cannot come between
            opened.write(text)


def append_left_out(file: Path, notes: Iterable[object]) -> None:
    """Append what notes about a data set say was left out of it; other notes are passed over."""
    append_skipped(file, [problem for note in notes if isinstance(note, LeftOut) for problem in note.problems])


def skipped_lines(file: Path) -> Iterator[str]:
    """Yield what was skipped, each line once: several processes, and resumed runs, find the same file."""
    if file.is_file():
        yield from dict.fromkeys(file.read_text(encoding="utf-8").splitlines())


def finish_skipped(file: Path) -> list[str]:
    """Remove repeated lines from a list of what was skipped, and return the others."""
    lines = list(skipped_lines(file))
    if lines:
        write_text(file, "\n".join(lines) + "\n")
    return lines
