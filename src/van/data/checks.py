"""Problems of a data set, whatever its format, and what to do about them before training."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import ExifTags, Image
from torch.utils.data import Dataset

from van.data.folders import OnProblem
from van.data.images import read_image
from van.errors import DataError

_LISTED = 10  # problems in a message


@dataclass(frozen=True)
class Problem:
    """What is wrong with an image, an annotation, or a split as a whole.

    Attributes:
        file: Path of the file with the problem, or the folder or name of what is meant as a whole.
        what: What is wrong, starting in lower case and without a full stop.
        image: Image to leave out: its id where images have ids, else its index. None if that would not help.
        annotation: Id of the annotation to leave out instead.
        fatal: Whether leaving out images and annotations does not help.
    """

    file: str
    what: str
    image: int | None = None
    annotation: int | None = None
    fatal: bool = False

    def __str__(self) -> str:
        return f"{self.file}{'' if self.annotation is None else f', annotation {self.annotation}'}: {self.what}"


class Checked(Protocol):
    """A split that can leave out images."""

    @property
    def name(self) -> str:
        """What to call the split: its annotation file or folder."""
        ...

    def __len__(self) -> int: ...

    def without(self, images: Collection[int], annotations: Collection[int] = ()) -> Any:
        """Return the split without some images and annotations."""
        ...


_S = TypeVar("_S", bound=Checked)


def count(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "2 images"."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


def listed(problems: Sequence[Problem]) -> str:
    """Return the first ten problems, one per line, and how many more there are."""
    more = f"\n... and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "\n".join(map(str, problems[:_LISTED])) + more


def without_problems(split: _S, problems: Sequence[Problem], on_problem: OnProblem) -> tuple[_S, list[str]]:
    """Return a split without what has problems, or refuse it.

    Args:
        split: What was checked.
        problems: What was found.
        on_problem: "refuse" raises an error if there is any problem, "skip" leaves out what has one.

    Returns:
        The split, and notes that say what was left out and why.

    Raises:
        DataError: there are problems and on_problem is "refuse", one is fatal, or nothing is left.
    """
    if not problems:
        return split, []
    fatal = [problem for problem in problems if problem.fatal]
    shown = problems if on_problem == "refuse" else fatal
    if shown:
        skip = "" if fatal else ", or skip what has problems with --on-problem skip"
        head = f"{split.name} has {count(len(shown), 'problem')}:"
        raise DataError(f"{head}\n{listed(shown)}\nCorrect the data{skip}; van check-data lists all.")
    images = {problem.image for problem in problems if problem.image is not None}
    annotations = {problem.annotation for problem in problems if problem.annotation is not None}
    kept = split.without(images, annotations)
    dropped = f"{len(images)} of {len(split)} images"
    if annotations:
        dropped += f" and {count(len(annotations), 'annotation')}"
    if not len(kept):
        raise DataError(f"{split.name} has nothing left without {dropped} that have problems:\n{listed(problems)}")
    return kept, [f"{split.name}: left out {dropped} because of {count(len(problems), 'problem')}:\n{listed(problems)}"]


class ImageSizes(Dataset):
    """For each path an error or an empty string, and width and height as the image is shown.

    Args:
        paths: Of the images.
        decode: Decode the pixels; otherwise only headers are read.
    """

    def __init__(self, paths: list[str], decode: bool) -> None:
        self.paths = paths
        self.decode = decode

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> tuple[str, int, int]:
        path = self.paths[index]
        try:
            width, height = (None if self.decode else _header_size(path)) or read_image(path).size
        except DataError as error:
            return said(error, path), 0, 0
        return "", width, height


def said(error: DataError, file: str) -> str:
    """Return what an error says about a file, without the name of the file and the full stop."""
    return str(error).removeprefix(file).lstrip(":, ").rstrip(".")


def _header_size(path: str) -> tuple[int, int] | None:
    """Return width and height without decoding, with EXIF's rotation; None if that does not work."""
    try:
        with Image.open(path) as image:
            # a PNG without EXIF would be decoded completely to look for it
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow raises anything on broken files; read_image has the message
        return None
