"""Problems of a data set, whatever its format, and what to do about them before training."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from PIL import ExifTags, Image
from torch.utils.data import Dataset

from van.data.folders import OnBadImage, refuse_special
from van.data.images import read_image
from van.errors import DataError

MOST_SKIPPED = 0.1
"""Fraction of the images of a split that may be left out because they cannot be used."""

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
        source: Place of the annotation in a file of a format without ids, such as "a.txt, line 3".
    """

    file: str
    what: str
    image: int | None = None
    annotation: int | None = None
    fatal: bool = False
    source: str | None = None

    def __str__(self) -> str:
        number = "" if self.annotation is None else f", annotation {self.annotation}"
        return f"{self.source or self.file + number}: {self.what}"


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


def listed(problems: Sequence[object]) -> str:
    """Return the first ten problems, one per line, and how many more there are."""
    more = f"\n... and {len(problems) - _LISTED} more" if len(problems) > _LISTED else ""
    return "\n".join(map(str, problems[:_LISTED])) + more


class LeftOut(str):
    """A sentence about what was left out of a split and why.

    Attributes:
        problems: All problems that it tells of.
    """

    problems: Sequence[Problem] = ()


def refuse_too_many(name: str, bad: int, total: int, problems: Iterable[object]) -> None:
    """Refuse to leave out more than a tenth of the images of a split; a single one can always be left out.

    Args:
        name: What to call the split.
        bad: Number of images that cannot be used.
        total: Number of images.
        problems: What is wrong with some of them.

    Raises:
        DataError: there are too many.
    """
    if bad > max(1, MOST_SKIPPED * total):
        raise DataError(
            f"{name}: {bad} of {total} images cannot be used, more than the {MOST_SKIPPED:.0%} that "
            f"--on-bad-image skip leaves out:\n{listed(list(problems))}\nCorrect the data; van check-data lists all."
        )


def left_out(
    name: str, total: int, problems: Sequence[Problem], on_bad_image: OnBadImage
) -> tuple[set[int], set[int], list[str]]:
    """Decide what a split can do without, or refuse it.

    Args:
        name: What to call the split.
        total: Number of its images.
        problems: What was found.
        on_bad_image: "error" raises an error if there is any problem, "skip" leaves out what has one.

    Returns:
        Images and annotations to leave out, and a note about them if there are any.

    Raises:
        DataError: there are problems and on_bad_image is "error", one is fatal, or too many images have one.
    """
    if not problems:
        return set(), set(), []
    fatal = [problem for problem in problems if problem.fatal]
    shown = problems if on_bad_image == "error" else fatal
    if shown:
        skip = "" if fatal else ", or leave out what has problems with --on-bad-image skip"
        head = f"{name} has {count(len(shown), 'problem')}:"
        raise DataError(f"{head}\n{listed(shown)}\nCorrect the data{skip}; van check-data lists all.")
    images = {problem.image for problem in problems if problem.image is not None}
    annotations = {problem.annotation for problem in problems if problem.annotation is not None}
    dropped = f"{len(images)} of {total} images"
    if annotations:
        dropped += f" and {count(len(annotations), 'annotation')}"
    if len(images) == total:
        raise DataError(f"{name} has nothing left without {dropped} that have problems:\n{listed(problems)}")
    refuse_too_many(name, len(images), total, (p for p in problems if p.image is not None))
    what = count(len(problems), "problem")
    note = LeftOut(f"{name}: left out {dropped} because of {what}:\n{listed(problems)}")
    note.problems = problems
    return images, annotations, [note]


def without_problems(split: _S, problems: Sequence[Problem], on_bad_image: OnBadImage) -> tuple[_S, list[str]]:
    """Return a split without what has problems, and a note about that, or refuse it; see left_out."""
    images, annotations, notes = left_out(split.name, len(split), problems, on_bad_image)
    return (split.without(images, annotations) if notes else split), notes


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
            width, height = (None if self.decode else header_size(path)) or read_image(path).size
        except DataError as error:
            return said(error, path), 0, 0
        return "", width, height


def said(error: DataError, file: str) -> str:
    """Return what an error says about a file, without the name of the file and the full stop."""
    return str(error).removeprefix(file).lstrip(":, ").rstrip(".")


def header_size(path: str) -> tuple[int, int] | None:
    """Return width and height without decoding, with EXIF's rotation; None if that does not work."""
    try:
        refuse_special(path)
        with Image.open(path) as image:
            # a PNG without EXIF would be decoded completely to look for it
            turned = "exif" in image.info and image.getexif().get(ExifTags.Base.Orientation, 1) >= 5
            return (image.height, image.width) if turned else image.size
    except Exception:  # Pillow raises anything on broken files; read_image has the message
        return None
