"""Following objects through a clip: ByteTrack (Zhang et al., ECCV 2022) of the package trackers."""

from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, TypeVar

import numpy as np

from van.engine.result import BoxResult, Result
from van.errors import VanError

if TYPE_CHECKING:
    from van.engine.predictor import Predictor
    from van.engine.task import Task

LEAST = 0.1
"""Score from which on boxes continue a track, as in ByteTrack."""

_R = TypeVar("_R")


def check_tracking(task: "Task") -> None:
    """Check that the results of a task can be tracked.

    Raises:
        VanError: they have no boxes, or the package trackers is not installed.
    """
    if not issubclass(task.result, BoxResult):
        raise VanError(f"track needs results with boxes, which those of the task {task} do not have. Leave it out.")
    _bytetrack()


class Tracker:
    """Numbers objects so that the same one has the same number in all frames of a clip.

    Boxes with at least the predictor's score_threshold start tracks, weaker ones from 0.1 on only continue them. A
    track begins with its second frame in a row, and ends when its object has not been seen for a second. Classes play
    no part: a track goes on where the class of its object changes. Each clip has tracks of its own, from 1.

    Args:
        predictor: Makes the results.

    Attributes:
        predictor: The one to take results from, which leaves weak boxes in.

    Raises:
        VanError: the results have no boxes, or the package trackers is not installed.
    """

    def __init__(self, predictor: "Predictor") -> None:
        check_tracking(predictor.task)
        self.threshold: float = predictor.inference.score_threshold
        self.predictor = copy(predictor)
        least = min(LEAST, self.threshold)
        self.predictor.inference = replace(predictor.inference, score_threshold=least)
        self._clip: str | None = None
        self._last = 0
        self._track: Any = None

    def __call__(self, result: _R) -> _R:
        """Return a result with track_ids, without weak boxes that continue no track.

        Images and errors are returned as they are.
        """
        if not isinstance(result, BoxResult) or result.frame is None:
            return result
        import supervision  # pyright: ignore[reportMissingImports]

        if result.path != self._clip or result.frame <= self._last:
            self._track = _bytetrack()(
                track_activation_threshold=self.threshold, high_conf_det_threshold=self.threshold
            )
        self._clip, self._last = result.path, result.frame
        scores = result.confidences()
        ids = np.full(len(result), -1)
        found = supervision.Detections(
            xyxy=result.boxes.astype(np.float32).reshape(-1, 4),
            confidence=scores.astype(np.float32),
            data={"place": np.arange(len(result))},  # they come back in another order
        )
        found = self._track.update(found, timestamp=result.time)
        if len(found):
            ids[found.data["place"]] = np.where(found.tracker_id < 0, -1, found.tracker_id + 1)
        kept = (ids >= 0) | (scores >= self.threshold)
        return replace(replace(result, track_ids=ids).chosen(kept), score_threshold=self.threshold)


def _bytetrack() -> Any:
    try:
        from trackers import ByteTrackTracker  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = f"Tracking needs the package trackers ({error})"
        raise VanError(f"{what}: pip install 'visual-attention-network[tracking]'") from error
    return ByteTrackTracker


class MotFile:
    """Tracks of a clip in the format of MOTChallenge: frame, id, left, top, width, height, score, -1, -1, -1.

    Frames and ids count from 1, pixels from 0. Objects that have no number yet are left out.

    Args:
        path: The file, which appears when it is closed.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._unfinished = path.with_name(f".{path.name}.unfinished")
        self._file: IO[str] = self._unfinished.open("w", encoding="ascii")

    def add(self, result: Result) -> None:
        """Write the tracked objects of a frame."""
        if not isinstance(result, BoxResult) or result.track_ids is None:
            return
        for number, (x1, y1, x2, y2), score in zip(result.track_ids, result.boxes, result.confidences(), strict=True):
            if number > 0:
                box = f"{x1:.2f},{y1:.2f},{x2 - x1:.2f},{y2 - y1:.2f}"
                self._file.write(f"{result.frame},{number},{box},{score:.4f},-1,-1,-1\n")

    def close(self) -> None:
        """Put the file in its place."""
        self._file.close()
        self._unfinished.replace(self.path)
