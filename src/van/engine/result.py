"""What was found on an image: a result draws, saves and serializes itself. And where results of many images go."""

import csv
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, replace
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from van.errors import VanError

if TYPE_CHECKING:
    import numpy as np
    from PIL.Image import Image
    from typing_extensions import Self

PICTURE_QUALITY = 92  # of JPEG
RECORDS = "predictions.jsonl"
_LONGEST_NAME = 150  # bytes; file systems take 255, with what is appended


@dataclass(kw_only=True)
class Result:
    """What was found on one image.

    Attributes:
        class_names: Names in the order of the labels.
        size: Height and width of the image in pixels.
        path: File of the image, or the clip; None for arrays and images in memory.
        image: The decoded image, for drawing.
        frame: Number of the frame in its clip, from 1; None for images.
        time: Seconds since the first frame of the clip; None for images.
    """

    class_names: Sequence[str] = field(repr=False)
    size: tuple[int, int]
    path: str | None = None
    image: "Image | None" = field(default=None, repr=False)
    frame: int | None = None
    time: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return everything as JSON can hold it; the keys are documented in docs/results.md."""
        place = {} if self.frame is None else {"frame": self.frame, "time": self.time}
        return {"image": self.path, **place, "height": self.size[0], "width": self.size[1]}

    def row(self) -> dict[str, Any]:
        """Return the result as one line of a table.

        Raises:
            VanError: this type of result does not fit on a line.
        """
        raise VanError(f"A {type(self).__name__} object does not fit in a CSV row. Use a .jsonl file or a folder.")

    def table(self) -> dict[str, list[Any]]:
        """Return the result as columns of a table; by default those of the one row that it fits in.

        Raises:
            VanError: this type of result is no table.
        """
        return {name: [value] for name, value in self.row().items()}

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row for each object, class or segment; its columns are in docs/results.md.

        Raises:
            VanError: the package pandas is not installed.
        """
        try:
            import pandas  # pyright: ignore[reportMissingImports,reportMissingModuleSource]
        except ImportError as error:
            raise VanError("to_pandas needs the package pandas: pip install pandas") from error
        table = pandas.DataFrame(self.table())
        if self.frame is not None:
            table.insert(1, "frame", self.frame)
            table.insert(2, "time", self.time)
        return table

    def summary(self) -> str:
        """Return what was found in a few words."""
        raise NotImplementedError

    def maps(self) -> "dict[str, Image]":
        """Return what has a value for each pixel, as images without loss; the keys are in docs/results.md."""
        return {}

    def draw(self) -> "Image":
        """Return a picture of the result: the image with what was found on it."""
        raise NotImplementedError

    def save(self, folder: str | Path, name: str | None = None, picture: bool = True) -> dict[str, str]:
        """Write the picture, and maps where the result has them.

        Args:
            folder: Made where it is missing.
            name: File name without ending; None takes that of the image.
            picture: Whether to write the picture; maps are always written.

        Returns:
            The names of the files by what they are, such as {"picture": "cat.jpg"}.
        """
        name = name or file_stem(self.path)
        Path(folder).mkdir(parents=True, exist_ok=True)
        if not picture:
            return {}
        self.draw().convert("RGB").save(Path(folder) / f"{name}.jpg", quality=PICTURE_QUALITY)
        return {"picture": f"{name}.jpg"}

    def shown(self) -> "Image":
        """Return the image to draw on.

        Raises:
            VanError: the result has no image: it was made without keeping it.
        """
        if self.image is None:
            raise VanError("This result has no image to draw on: it was made with keep_images=False.")
        return self.image


@dataclass(kw_only=True)
class BoxResult(Result):
    """Objects with boxes, best first. They can be tracked through a clip.

    Attributes:
        boxes: Corners x1, y1, x2, y2 in pixels, shape (N, 4).
        scores: From 0 to 1, shape (N,).
        score_threshold: Boxes with a lower score were left out.
        best_score: Score of the best box, left out or not; None where there was none.
        track_ids: Number of each object in its clip, from 1, and -1 where it has none yet, shape (N,); None where
            objects are not tracked.
    """

    boxes: "np.ndarray"
    scores: "np.ndarray"
    score_threshold: float = 0.0
    best_score: float | None = None
    track_ids: "np.ndarray | None" = None

    def __len__(self) -> int:
        return len(self.scores)

    def confidences(self) -> "np.ndarray":
        """Return the score of each box, shape (N,), which score_threshold is about."""
        return self.scores

    def chosen(self, which: "np.ndarray") -> "Self":
        """Return some of them.

        Args:
            which: Their indices, or a bool for each.
        """
        import numpy as np

        arrays = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{name: array[which] for name, array in arrays.items() if isinstance(array, np.ndarray)})

    def to_pandas(self) -> Any:
        """Return a pandas.DataFrame with a row for each object; see Result.to_pandas."""
        table = super().to_pandas()
        return table if self.track_ids is None else table.assign(track=self.track_ids)

    def numbered(self, objects: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return dictionaries of the objects with their track, None where they have none yet."""
        if self.track_ids is None:
            return objects
        ids = [None if number < 0 else number for number in self.track_ids.tolist()]
        return [{"track": number, **one} for number, one in zip(ids, objects, strict=True)]


def file_stem(image: str | None) -> str:
    """Return a name for files that belong to an image: that of its file without ending, fit for any folder.

    Args:
        image: Its path, URL, or place in a tar file; None for images in memory.
    """
    text = urlsplit(image).path if image and "://" in image else image or ""
    stem = "".join(c if c.isprintable() and c not in "/\\:" else "_" for c in Path(text).stem).strip()
    while len(stem.encode()) > _LONGEST_NAME:
        stem = stem[:-1]
    return stem if stem.strip(".") else "image"


class Records:
    """A file that grows by whole records: a line of JSON (.jsonl) or a row of a table (.csv) for each image.

    Each record is handed to the system before the next one is made. A kill leaves at most a part of a record at the
    end, which is cut off when the file is continued; so are the records of the last clip, which may not be complete.

    Args:
        path: The file.
        resume: Continue a file that exists.

    Raises:
        VanError: the file exists and is not to be continued.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.path = Path(path)
        self._csv = self.path.suffix.lower() == ".csv"
        self._columns: list[str] = []
        self._waiting: list[dict[str, Any]] = []
        if self.path.exists() and not resume:
            raise VanError(f"{path} exists. Give another --output.")
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("ab" if resume else "xb", buffering=0)
        if resume:
            self._file.truncate(_whole(self.path, self._csv))
            if self._csv:
                with self.path.open(newline="", encoding="utf-8") as file:
                    self._columns = next(csv.reader(file), [])

    def __iter__(self) -> Iterator[dict[str, Any]]:
        """Iterate over the records that are in the file."""
        if self._csv:
            with self.path.open(newline="", encoding="utf-8") as file:
                yield from csv.DictReader(file)
        else:
            yield from read_records(self.path)

    def add(self, record: dict[str, Any]) -> None:
        """Write a record; in a table one of an error waits for the columns, which come with the first other one."""
        if not self._csv:
            # names of files that are no text hold surrogates, whose escapes JSON has too
            self._write((json.dumps(record, ensure_ascii=False) + "\n").encode("utf-8", "backslashreplace"))
        elif not self._columns and set(record) == {"image", "error"}:
            self._waiting.append(record)
        else:
            self._rows(self._columns or list(record), [*self._waiting, record])

    def close(self) -> None:
        """Write what still waits for columns, and close the file."""
        if self._waiting:  # no image could be read
            self._rows(["image", "error"], self._waiting)
        self._file.close()

    def _rows(self, columns: list[str], rows: list[dict[str, Any]]) -> None:
        import io

        text = io.StringIO(newline="")
        table = csv.DictWriter(text, columns, lineterminator="\n")
        if not self._columns:
            table.writeheader()
        table.writerows(rows)
        self._columns, self._waiting = columns, []
        self._write(text.getvalue().encode("utf-8", "backslashreplace"))

    def _write(self, content: bytes) -> None:
        left = memoryview(content)
        while left:
            left = left[self._file.write(left) :]


def read_records(path: str | Path) -> Iterator[dict[str, Any]]:
    """Yield the records of a .jsonl file. What a kill has left of one at its end is no record.

    Raises:
        VanError: a line before the end is no JSON object.
    """
    with Path(path).open("rb") as file:
        for number, line in enumerate(file, 1):
            try:
                record = json.loads(line)
                if not isinstance(record, dict):
                    raise ValueError("no object")
            except ValueError as error:
                if not line.endswith(b"\n"):
                    return
                raise VanError(
                    f"{path}: line {number} is not a JSON object ({error}). Write the file again."
                ) from error
            yield record


def starts(records: Iterable[dict[str, Any]]) -> Iterator[tuple[int, dict[str, Any]]]:
    """Yield the number and the record of each image, and of the first frame of each clip.

    Args:
        records: Of a .jsonl file.
    """
    clip, last = None, 0
    for number, record in enumerate(records):
        frame = record.get("frame")
        if frame is None or record["image"] != clip or frame <= last:
            yield number, record
        clip, last = (None, 0) if frame is None else (record["image"], frame)


def _whole(path: Path, table: bool) -> int:
    """Return where the last whole record of a file ends, without those of a clip at the end."""
    number, last = max(starts(() if table else read_records(path)), key=itemgetter(0), default=(0, {}))
    cut = number if "frame" in last else None
    end = quotes = place = 0
    with path.open("rb") as file:
        for number, line in enumerate(file):  # a row has several where a text in quotes has
            if number == cut:
                break
            place += len(line)
            quotes += line.count(b'"') if table else 0
            if line.endswith(b"\n") and quotes % 2 == 0:
                end = place
    return end


class FolderWriter:
    """Writes results into a folder: a record of each in predictions.jsonl, pictures, and maps where results have them.

    The pictures of a clip are a video, and its tracks a file in the format of MOTChallenge; both appear when the clip
    ends. Maps of frames are not written.

    Args:
        folder: An existing folder.
        about: The predictor that makes the results.
        pictures: Whether to write pictures and videos.
        resume: Continue after the records that are there.

    Attributes:
        records: The records.
        count: How many there are.
    """

    def __init__(self, folder: Path, about: Any, pictures: bool = True, resume: bool = False) -> None:
        self.folder = folder
        self.about = about
        self.pictures = pictures
        self._named = pictures or about.task.result.save is not Result.save  # else there are no files to name
        self._taken: set[str] = set()
        self._clip: _ClipFiles | None = None
        self.records = Records(folder / RECORDS, resume)
        self.count = 0
        for number, record in starts(self.records) if resume else ():
            self.count = number + 1
            if "frame" in record:
                self._name(record["image"])
            elif "error" not in record:
                self._restore(record)

    def add(self, result: Result) -> None:
        """Write a result."""
        self.count += 1
        if result.frame is not None:
            self._add_frame(result)
            return
        self._end_clip()
        # files come first: where there is a record, there is everything
        files = self._save(result)
        self.records.add({**result.to_dict(), **files})

    def add_error(self, path: str, error: Exception, frame: int | None = None) -> None:
        """Note that an image, or a frame of a clip, could not be read."""
        self.count += 1
        if frame in (None, 1):
            self._end_clip()
        self.records.add(_error(path, error, frame))

    def close(self) -> None:
        """Close the files."""
        try:
            self._end_clip()
        finally:
            self.records.close()

    def _add_frame(self, result: Result) -> None:
        if self._clip is None or not self._clip.holds(result):
            self._end_clip()
            self._clip = _ClipFiles(self.folder / self._name(result.path), result, self.pictures)
        self._clip.add(result)
        self.records.add(result.to_dict())

    def _end_clip(self) -> None:
        clip, self._clip = self._clip, None
        if clip:
            clip.close()

    def _save(self, result: Result) -> dict[str, str]:
        """Write the files of a result, and return their names by what they are."""
        return result.save(self.folder, self._name(result.path), self.pictures) if self._named else {}

    def _restore(self, record: dict[str, Any]) -> None:
        """Take note of a record that was there before."""
        if self._named:
            self._name(record["image"])

    def _name(self, image: str | None) -> str:
        """Return a file name that no other result has; some file systems do not tell capitals apart."""
        stem = file_stem(image)
        number, name = 1, stem
        while name.lower() in self._taken:
            number += 1
            name = f"{stem}-{number}"
        self._taken.add(name.lower())
        return name


class _ClipFiles:
    """The files of a clip: NAME.mp4 and, of tracked objects, NAME.txt.

    Args:
        path: Their path without ending.
        first: Result of the first frame.
        pictures: Whether to write the video.
    """

    def __init__(self, path: Path, first: Result, pictures: bool) -> None:
        from van.engine.tracking import MotFile
        from van.engine.video import VideoFile

        self._last = (first.path, 0)
        self._video = VideoFile(path.with_name(f"{path.name}.mp4")) if pictures else None
        tracked = getattr(first, "track_ids", None) is not None
        self._tracks = MotFile(path.with_name(f"{path.name}.txt")) if tracked else None

    def holds(self, result: Result) -> bool:
        """Whether a result is of a later frame of this clip."""
        return result.path == self._last[0] and (result.frame or 0) > self._last[1]

    def add(self, result: Result) -> None:
        """Write a frame."""
        self._last = (result.path, result.frame or 0)
        if self._video:
            self._video.add(result.draw(), result.time or 0.0)
        if self._tracks:
            self._tracks.add(result)

    def close(self) -> None:
        """Put the files in their places."""
        if self._tracks:
            self._tracks.close()
        if self._video:
            self._video.close()


def _error(path: str, error: Exception, frame: int | None) -> dict[str, Any]:
    """Return the record of what could not be read."""
    return {"image": path, **({} if frame is None else {"frame": frame}), "error": str(error)}


class FileWriter:
    """Writes results into one file as they come: a line of JSON (.jsonl) or a row of a table (.csv) for each image.

    Args:
        path: The file, .jsonl, .json or .csv.
        resume: Continue a file that exists.

    Attributes:
        records: The records.

    Raises:
        VanError: the file exists and is not to be continued.
    """

    def __init__(self, path: str | Path, resume: bool = False) -> None:
        self.records = Records(path, resume)
        self._csv = Path(path).suffix.lower() == ".csv"

    def add(self, result: Result) -> None:
        """Write a result."""
        self.records.add({**result.row(), "error": ""} if self._csv else result.to_dict())

    def add_error(self, path: str, error: Exception, frame: int | None = None) -> None:
        """Write that an image, or a frame of a clip, could not be read."""
        self.records.add(_error(path, error, frame))

    def close(self) -> None:
        """Close the file."""
        self.records.close()


FILE_ENDINGS = (".csv", ".jsonl", ".json")
