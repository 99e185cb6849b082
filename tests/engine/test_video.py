"""Videos that are written, and objects that are tracked through them."""

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("av")
pytest.importorskip("trackers")

from tests.clips import RATE, MovingShapes

from van.data.video import Clip
from van.engine.registry import get_task
from van.engine.tracking import MotFile, Tracker
from van.engine.video import VideoFile
from van.errors import VanError
from van.tasks.detection.options import DetectionInference
from van.tasks.detection.results import Detections

TIMES = [0, 0.033, 0.066, 0.2, 0.25, 0.9, 1.0, 1.01, 2.0]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


class TestVideoFile:
    @pytest.mark.parametrize("size", [(64, 48), (65, 49)])
    def test_colours_and_uneven_times_come_back(self, size):
        with VideoFile("a.mp4") as video:
            for time in TIMES:
                picture = Image.new("RGB", size, (200, 30, 90))
                picture.paste((20, 200, 40), (0, 0, 20, 20))
                video.add(picture, time)
            assert not Path("a.mp4").exists()
        assert [path.name for path in Path().iterdir()] == ["a.mp4"]
        frames = list(Clip("a.mp4"))
        assert [frame.time for frame in frames] == pytest.approx(TIMES, abs=1e-3)
        assert frames[0].image.size == (size[0] + size[0] % 2, size[1] + size[1] % 2)
        for place, colour in (((10, 10), (20, 200, 40)), ((40, 40), (200, 30, 90))):
            assert frames[-1].image.getpixel(place) == pytest.approx(colour, abs=8)

    def test_codec_and_length_that_players_see(self):
        import av

        with VideoFile("a.mp4") as video:
            for time in TIMES:
                video.add(Image.new("L", (64, 48)), time)
        with av.open("a.mp4") as container:
            stream = container.streams.video[0]
            assert (stream.codec_context.name, stream.codec_context.pix_fmt) == ("h264", "yuv420p")
            assert float(stream.duration * stream.time_base) > TIMES[-1]  # so that the last frame is shown

    def test_another_size_is_fitted_in(self):
        with VideoFile("a.mp4") as video:
            for i, size in enumerate(((64, 48), (64, 48), (32, 48))):
                video.add(Image.new("RGB", size, (200, 30, 90)), i)
        last = list(Clip("a.mp4"))[-1].image
        assert last.size == (64, 48)
        assert [last.getpixel((x, 24)) for x in (32, 3)] == [
            pytest.approx(colour, abs=8) for colour in ((200, 30, 90), (255, 255, 255))
        ]

    def test_nothing_and_other_names(self):
        VideoFile("a.mp4").close()
        assert not list(Path().iterdir())
        with pytest.raises(VanError, match=r"ends in \.mp4"):
            VideoFile("a.avi")


def predictor(threshold: float, task: str = "detection") -> SimpleNamespace:
    """What a tracker needs of a predictor."""
    return SimpleNamespace(task=get_task(task), inference=DetectionInference(score_threshold=threshold))


def found(boxes: np.ndarray, scores: np.ndarray, number: int, clip: str = "a.mp4") -> Detections:
    """Result of a frame."""
    labels = np.zeros(len(boxes), int)
    options = {"class_names": ["a"], "size": (96, 128), "path": clip, "frame": number, "time": (number - 1) / RATE}
    return Detections(boxes=boxes, scores=scores, labels=labels, **options)


class TestTracker:
    @pytest.mark.parametrize("seed", [0, 1, 2])
    def test_shapes_that_cross_keep_their_ids(self, seed):
        """True boxes as a detector would find them: shaken, some weak, some missing, some false."""
        from trackers.eval import evaluate_mot_sequence

        shapes = MovingShapes(seed=seed)
        shapes.write(Path("a.mp4"))
        rng, track, file = np.random.default_rng(seed), Tracker(predictor(0.5)), MotFile(Path("found.txt"))
        for number, boxes in enumerate(shapes.boxes, 1):
            here = rng.random(len(boxes)) > 0.05
            boxes = boxes[here] + rng.normal(0, 0.7, (here.sum(), 4))
            scores = np.where(rng.random(len(boxes)) < 0.15, 0.2, rng.uniform(0.55, 0.95, len(boxes)))
            corner = rng.uniform(0, 80, 2)
            false = [[*corner, *(corner + 12)]]
            result = track(found(np.vstack([boxes, false]), np.append(scores, 0.3), number))
            assert (result.scores >= 0.5).sum() + (result.track_ids > 0).sum() >= len(result)
            file.add(result)
        file.close()
        metrics = evaluate_mot_sequence("a.mp4.txt", "found.txt", metrics=["CLEAR", "Identity"])
        assert metrics.CLEAR.IDSW <= 1
        assert metrics.CLEAR.MOTA > 0.85
        assert metrics.Identity.IDF1 > 0.85

    def test_order_classes_and_weak_boxes(self):
        track = Tracker(predictor(0.5))
        assert track.predictor.inference.score_threshold == 0.1
        boxes = np.array([[10, 10, 30, 30], [60, 60, 90, 90], [100, 5, 110, 20]], float)
        first = track(found(boxes, np.array([0.9, 0.8, 0.3]), 1))
        assert (first.track_ids.tolist(), first.scores.tolist()) == ([-1, -1], [0.9, 0.8])
        second = track(found(boxes[[1, 0, 2]], np.array([0.9, 0.6, 0.3]), 2))
        assert sorted(second.track_ids.tolist()) == [1, 2]
        weak = found(boxes, np.array([0.2, 0.8, 0.3]), 3)
        weak.labels[0] = 1  # the class plays no part
        third = track(weak)
        assert dict(zip(third.track_ids.tolist(), third.boxes[:, 0].tolist(), strict=True)) == dict(
            zip(second.track_ids.tolist(), second.boxes[:, 0].tolist(), strict=True)
        )
        assert third.scores.tolist() == [0.2, 0.8]  # in the order of the detector
        assert third.labels.tolist() == [1, 0]

    def test_each_clip_has_its_own_and_empty_frames_are_none(self):
        track = Tracker(predictor(0.5))
        one, none = np.array([[10, 10, 30, 30]], float), np.empty((0, 4))
        for clip in ("a.mp4", "b.mp4", "b.mp4"):
            ids = [track(found(boxes, np.full(len(boxes), 0.9), number, clip)).track_ids.tolist() for number, boxes in
                   enumerate((none, one, one, none, one), 1)]  # fmt: skip
            assert ids == [[], [-1], [1], [], [1]]

    def test_results_without_boxes(self):
        with pytest.raises(VanError, match="track needs results with boxes"):
            Tracker(predictor(0.5, "semantic"))
