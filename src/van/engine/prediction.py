"""Running a predictor over images and writing what it finds as it comes: what `van predict` does."""

import json
import sys
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields
from itertools import chain, islice
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from van.data.processes import loading_errors
from van.engine.result import FILE_ENDINGS, RECORDS, FileWriter, FolderWriter, Result, starts
from van.engine.run import check_output, locked, new_folder
from van.engine.task import Task
from van.errors import DataError, VanError

if TYPE_CHECKING:
    from van.engine.predictor import Predictor

_STATE = "predict.json"
_WITH_PICTURES = 100  # images from which on there are none by default
_HEAD = 129  # images that are listed to see whether there are few; more than pictures and loading processes ask for
_FREE = ("output", "resume", "quiet", "workers", "device", "batch_size", "cluster")  # may change on resuming

Found = Iterator[tuple[str, int | None, Result | DataError]]


@dataclass
class Clock:
    """How long results took.

    Attributes:
        waited: Seconds of waiting for images.
        spent: Seconds altogether.
    """

    waited: float = 0.0
    spent: float = 0.0

    def rate(self, count: int, unit: str = "images") -> str:
        """Return images per second and the share of the time spent waiting for images, in words."""
        share = self.waited / max(self.spent, 1e-9)
        return f"{count / max(self.spent, 1e-9):.1f} {unit}/s, {share:.0%} of the time waiting for {unit}"


@loading_errors()
def predict(task: Task, options: Any, changes: dict[str, Any]) -> int:
    """Run weights on images and clips: a line per image, and a folder or a file of results.

    Args:
        task: That of the weights.
        options: Of prediction: an instance of task.predict_options.
        changes: Options of inference that differ from those in the weight file.

    Returns:
        Exit status: 1 if an image could not be read.

    Raises:
        VanError: weights or options cannot be used. Nothing has been written then.
    """
    place = _Place(task, options)
    from tqdm import tqdm

    from van.data.inputs import ImageSources, is_url
    from van.data.loaders import loading_processes
    from van.data.video import Clip
    from van.engine.api import load
    from van.engine.tracking import Tracker, check_tracking

    if options.track:
        check_tracking(task)
    sources = ImageSources(options.images, options.frame_stride)
    images: Iterator[Any] = iter(sources)
    head = list(islice(images, _HEAD))
    few = len(head) if len(head) < _HEAD else None
    if not head:
        raise DataError(f"{' '.join(options.images)}: no images are listed. Give one path or URL a line.")
    clips = [image for image in head if isinstance(image, Clip)]
    _check_clips(options, clips, place)
    predictor = load(options.weights, options.device, options.batch_size, options.engine, options.precision, **changes)
    task.configure(predictor, options)
    tracker = Tracker(predictor) if options.track else None
    predictor = tracker.predictor if tracker else predictor
    # servers answer several processes at once faster than one; a thread decodes clips
    workers = loading_processes(options.workers, 0 if clips else None if any(map(is_url, head)) else few)
    pictures = place.pictures(few is not None and few < _WITH_PICTURES)
    broken = count = frames = done = 0
    stopped = False
    clock = Clock()
    with ExitStack() as stack:
        writer = place.open(stack, predictor, pictures, _state(options, changes, pictures))
        images = chain(head, images)
        if writer:
            stack.callback(writer.close)
            done = _pass(images, writer.records, place) if place.resumed else 0
        if options.cluster:
            from van.engine.cluster import predict_on_ray

            found = predict_on_ray(options, changes, images, pictures, clock)
        else:
            found = _here(predictor, images, workers, pictures, clock)
        # the bar goes to standard error, so that the lines can be piped
        total = sources.total if clips else few or sources.total
        bar = {"total": total, "initial": done, "unit": " frames" if clips else " images", "desc": "Predicting"}
        try:
            for path, frame, result in tqdm(found, **bar, disable=options.quiet or None):
                count += 1
                frames += frame is not None
                if isinstance(result, DataError):
                    broken += 1
                    tqdm.write(f"van predict: {result}", file=sys.stderr)
                    if writer:
                        writer.add_error(path, result, frame)
                    continue
                one = tracker(result) if tracker else result
                if writer:
                    writer.add(one)
                # of clips there would be too many lines beside a folder
                if not (place.file or options.quiet or (place.folder and frame)):
                    where = f"{path}: {one.time:.2f} s" if frame else path
                    tqdm.write(f"{where}: {one.summary()}", file=sys.stdout)
        except KeyboardInterrupt:  # files are completed, and a stream has no other end
            stopped = True
    if predictor.engine is not None and not options.quiet:
        print(f"van predict: computed by {predictor.computed_by}", file=sys.stderr)
    unit = "frames" if frames == count > 0 else "images and frames" if frames else "images"
    if not options.quiet:
        _say(count - broken, unit, done, place, pictures, clock)
    if broken:
        print(f"van predict: {broken} of {count} {unit} could not be read, see above.", file=sys.stderr)
    if stopped:
        raise KeyboardInterrupt
    return 1 if broken else 0


def _check_clips(options: Any, clips: Sequence[Any], place: "_Place") -> None:
    """Refuse options that do not go with the sources.

    Raises:
        VanError: there are such options.
    """
    if options.track and not clips:
        raise VanError("track needs clips, but the sources are images. Give a video file, or leave it out.")
    if not clips:
        return
    if options.cluster:
        raise VanError(f"cluster shares images among machines, but {clips[0]} is a clip. Leave it out, or the clip.")
    if place.file and place.file.suffix.lower() == ".csv":
        raise VanError(f"{place.file} is a table of images, but {clips[0]} is a clip. Use a .jsonl file or a folder.")
    if options.resume and (live := next((clip for clip in clips if clip.live), None)):
        raise VanError(f"{live} is a stream, which cannot be continued. Give another --output, without --resume.")


def _here(predictor: "Predictor", images: Iterable[Any], workers: int, keep: bool, clock: Clock) -> Found:
    """Yield path, number of the frame, and result of each image, with the loading processes of this machine."""
    from van.data.video import with_frames

    names: deque[tuple[str, int | None]] = deque()

    def passing() -> Iterator[Any]:
        for image in with_frames(images, predictor.batch_size):
            names.append((str(image), getattr(image, "number", None)))
            yield image

    start = last = perf_counter()
    batches = iter(predictor.loader(passing(), workers, keep))
    while (batch := next(batches, None)) is not None:
        clock.waited += perf_counter() - last
        for result in predictor.results(batch):
            clock.spent = perf_counter() - start
            yield *names.popleft(), result
        last = perf_counter()
        clock.spent = last - start


def _say(good: int, unit: str, done: int, place: "_Place", pictures: bool, clock: Clock) -> None:
    """Print where the results are, and how fast they came, in one line."""
    line = f"{good} {unit.removesuffix('s') if good == 1 else unit}"
    line += f" ({done} were done before)" if place.resumed else ""
    if place.folder:
        what = "pictures" if unit == "images" else "videos" if unit == "frames" else "pictures and videos"
        line += f": {place.folder}: {RECORDS}{f' and the {what}' if pictures else ''}"
    elif place.file:
        line += f": {place.file}"
    # without a file, standard output has the results alone
    print(f"{line}; {clock.rate(good, unit)}", file=sys.stdout if place.folder or place.file else sys.stderr)


class _Place:
    """Where results go: a folder, a file, or the terminal alone.

    Args:
        task: The task.
        options: Of prediction.

    Attributes:
        folder: The folder, once it is open.
        file: The file.
        resumed: Whether there are results of an interrupted run.

    Raises:
        VanError: the output cannot be used.
    """

    def __init__(self, task: Task, options: Any) -> None:
        output = options.output
        path = Path(output or "")
        self.task, self.options = task, options
        self.folder: Path | None = None
        self.file = path if path.suffix.lower() in FILE_ENDINGS else None
        self._to_folder = self.file is None and (task.results_in_folder or output is not None)
        kind = task.result
        if self.file and path.suffix.lower() == ".csv" and kind is not Result and kind.row is Result.row:
            raise VanError(f"A {kind.__name__} object does not fit in a CSV row. Use a .jsonl file or a folder.")
        if options.pictures and not self._to_folder:
            raise VanError("pictures need a folder. Name one with --output, or leave out --pictures.")
        self._state = path.with_name(f".{path.name}.{_STATE}") if self.file else path / _STATE
        self.resumed = bool(options.resume and (path if self.file else self._state).exists())
        if self.resumed:
            self._before = self._read()
        elif self.file:
            if path.exists():
                raise VanError(f"{output} exists. Give another --output, or continue it with --resume.")
        elif self._to_folder:
            check_output(output)

    def pictures(self, few: bool) -> bool:
        """Return whether to write pictures.

        Args:
            few: Whether there are so few images that there are pictures by default.
        """
        if not self._to_folder:
            return False
        if self.options.pictures is not None:
            return self.options.pictures
        return self._before["pictures"] if self.resumed else few

    def open(self, stack: ExitStack, predictor: "Predictor", pictures: bool, state: dict[str, Any]) -> Any:
        """Return what writes results; None for the terminal alone.

        Args:
            stack: Ends what has to be ended.
            predictor: Makes the results.
            pictures: Whether to write pictures.
            state: What must be the same when the run is continued.

        Raises:
            VanError: it is not, or another process writes there.
        """
        if not (self._to_folder or self.file):
            return None
        if self.resumed:
            _compare(self._before, state, str(self.options.output))
        if self.file:
            self.file.parent.mkdir(parents=True, exist_ok=True)
            stack.enter_context(locked(self.file.parent, f".{self.file.name}.lock", "predict"))
        else:
            name = Path(self.options.weights).resolve()
            about = f"predict-{name.parent.name if name.is_file() else name.name}"
            self.folder = Path(self.options.output) if self.resumed else new_folder(self.options.output, about)
            self._state = self.folder / _STATE
            stack.enter_context(locked(self.folder, ".lock", "predict"))
        if not self.resumed:
            from van.files import write_text

            write_text(self._state, json.dumps(state, indent=1, ensure_ascii=True) + "\n")
        if self.file:
            return FileWriter(self.file, self.resumed)
        assert self.folder is not None  # noqa: S101 - for pyright
        writer: type[FolderWriter] = self.task.writer
        return writer(self.folder, predictor, pictures, self.resumed)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._state.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise VanError(
                f"{self.options.output} cannot be continued: {self._state} cannot be read ({error}). Give another "
                "--output, without --resume."
            ) from error


def _state(options: Any, changes: dict[str, Any], pictures: bool) -> dict[str, Any]:
    """Return what must be the same when a run is continued: options, and the content of the files they name."""
    from van.data.video import without_password

    names = [f.name for f in fields(type(options)) if f.name not in (*_FREE, "pictures")]
    state: dict[str, Any] = {name: getattr(options, name) for name in names if name not in changes}
    state |= {**changes, "pictures": pictures, "images": [without_password(image) for image in options.images]}
    state["checksums"] = {
        name: _checksum(value) for name, value in state.items() if isinstance(value, str) and Path(value).exists()
    }
    return json.loads(json.dumps(state))  # as it is read again: lists, not tuples


def _checksum(path: str) -> str:
    from van.files import checksum
    from van.models.weight_file import file_in

    return checksum(file_in(Path(path)))


def _compare(before: dict[str, Any], now: dict[str, Any], output: str) -> None:
    """Raise VanError where a run would go on with other options than it began with."""
    for name in {**before, **now}:
        old, new = before.get(name), now.get(name)
        if old == new:
            continue
        again = "Continue with the options that it was started with, or give another --output"
        if name == "checksums" and old and new:
            changed = next(key for key in {**old, **new} if old.get(key) != new.get(key))
            raise VanError(f"{now[changed]} has changed since {output} was begun. {again}.")
        raise VanError(f"{name} is {new}, but {old} in {output}. {again}.")


def _pass(images: Iterator[Any], records: Iterable[dict[str, Any]], place: _Place) -> int:
    """Pass over the images and clips that have records, and return how many records there are.

    Raises:
        VanError: the images are not those of the records.
    """
    passed = [0]  # records, frames of clips among them

    def counted() -> Iterator[dict[str, Any]]:
        for passed[0], record in enumerate(records, 1):
            yield record

    for done, (_, record) in enumerate(starts(counted())):
        image = next(images, None)
        if image is None or _text(str(image)) != _text(str(record.get("image"))):
            raise VanError(
                f"The images are not those that {place.options.output} was begun with: number {done + 1} was "
                f"{record.get('image')}, and is {'missing' if image is None else image} now. Give another --output."
            )
    return passed[0]


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()
