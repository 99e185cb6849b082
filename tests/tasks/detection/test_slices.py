"""Small objects on large images, in slices: in prediction and evaluation, of detectors and of what uses them."""

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import ndimage
from torch.nn import functional

import van
from van.data.coco import CocoFiles, CocoSplit
from van.errors import VanError

pytest.importorskip("faster_coco_eval")

SIDE = 256  # of what the network sees


class BrightParts(torch.nn.Module):
    """Finds bright red and blue parts, after scaling images to 256 pixels a side as detectors do."""

    options = SimpleNamespace(architecture="bright", nms_threshold=0.5, detections_per_image=100)

    def forward(self, images):
        return [self.one(image.float()[None] / 255) for image in images]

    def one(self, image):
        high, wide = image.shape[-2:]
        factor = min(1.0, SIDE / max(high, wide))
        small = functional.interpolate(image, scale_factor=factor, mode="area") if factor < 1 else image
        boxes, labels, masks = [], [], []
        for label, channel in enumerate((0, 2)):
            parts, _ = ndimage.label((small[0, channel] > 0.9).numpy())
            for number, (rows, columns) in enumerate(ndimage.find_objects(parts), 1):
                boxes.append([edge / factor for edge in (columns.start, rows.start, columns.stop, rows.stop)])
                labels.append(label)
                mask = torch.from_numpy(parts == number).float()[None, None]
                masks.append(functional.interpolate(mask, size=(high, wide))[0])
        found = {"boxes": torch.tensor(boxes).reshape(-1, 4), "labels": torch.tensor(labels, dtype=torch.int64)}
        area = (found["boxes"][:, 2:] - found["boxes"][:, :2]).prod(1)
        masks = torch.stack(masks) if masks else torch.zeros(0, 1, high, wide)
        return {**found, "scores": 0.6 + 0.3 * area / (1 + area), "masks": masks}


# small red and blue parts, some across edges of slices, and a large one that no slice shows whole
SMALL = [(0, 30, 40), (1, 500, 700), (0, 250, 100), (0, 205, 1200), (1, 2040, 2040), (1, 1228, 1027), (0, 1650, 410)]
SMALL = [(label, x, y, x + 6, y + 7) for label, x, y in SMALL]
LARGE = (1, 1104, 1200, 1736, 1904)


@pytest.fixture
def image() -> Image.Image:
    pixels = np.full((2048, 2048, 3), 20, np.uint8)
    for label, x0, y0, x1, y1 in (*SMALL, LARGE):
        pixels[y0:y1, x0:x1, 2 * label] = 255
    return Image.fromarray(pixels)


def predictor_of(folder: Path, **options):
    """A predictor whose network is the one above."""
    predictor = van.load(folder, device="cpu", **options)
    predictor.model, predictor.class_names = BrightParts(), ["red", "blue"]
    return predictor


def found_by(result) -> set[tuple[int, ...]]:
    return {(int(label), *map(round, box)) for label, box in zip(result.labels, result.boxes.tolist(), strict=True)}


@pytest.mark.parametrize("overlap", [None, 0.3])
def test_slices_find_small_objects_that_the_plain_run_misses(run_of, image, overlap):
    plain = predictor_of(run_of("instances").folder)(image)
    assert found_by(plain) == {LARGE}
    result = predictor_of(run_of("instances").folder, slice=(256, 240), overlap=overlap)(image)
    assert len(result) == 1 + len(SMALL)  # each once
    assert found_by(result) == {*SMALL, LARGE}
    assert result.masks.shape == (1 + len(SMALL), 2048, 2048)
    for box, mask in zip(result.boxes.round().astype(int), result.masks, strict=True):
        expected = np.zeros((2048, 2048), bool)
        expected[box[1] : box[3], box[0] : box[2]] = True
        assert (mask == expected).all()
    assert (np.diff(result.scores) <= 0).all()


def test_a_small_image_is_seen_once(run_of, image):
    small = image.crop((0, 0, 300, 200))
    predictor = predictor_of(run_of("instances").folder, slice=(200, 300))
    seen = []
    predictor.model.register_forward_pre_hook(lambda _, inputs: seen.extend(inputs[0]))
    assert len(predictor(small)) == 2
    assert len(seen) == 1


def test_evaluation_counts_what_slices_find(run_of, image):
    Path("images").mkdir()
    image.save("images/large.png")
    annotations = [
        {"id": i, "image_id": 1, "category_id": label + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "iscrowd": 0,
         "area": (x1 - x0) * (y1 - y0), "segmentation": [[x0, y0, x1, y0, x1, y1, x0, y1]]}
        for i, (label, x0, y0, x1, y1) in enumerate((*SMALL, LARGE), 1)
    ]  # fmt: skip
    content = {
        "images": [{"id": 1, "file_name": "large.png", "height": 2048, "width": 2048}], "annotations": annotations,
        "categories": [{"id": 1, "name": "red"}, {"id": 2, "name": "blue"}],
    }  # fmt: skip
    Path("all.json").write_text(json.dumps(content))
    split = CocoSplit(CocoFiles(Path("images"), Path("all.json")))
    values = {}
    for name, options in (("plain", {}), ("slices", {"slice": (256, 256)})):
        predictor = predictor_of(run_of("instances").folder, **options)
        Path(name).mkdir()
        values[name] = predictor.task.evaluation(predictor, split, 0).run(Path(name), name, quiet=True)
    assert values["slices"]["AP"] == values["slices"]["mask_AP"] == pytest.approx(1.0)
    assert values["plain"]["AP"] < 0.3
    assert values["plain"]["APs"] == 0.0


def test_pose_takes_persons_from_slices(run_of, image, monkeypatch):
    from van.engine import api

    weights, detector = run_of("pose").folder, str(run_of("detection").folder)
    loaded = api.load
    changes = []

    def load(weights, *args, **options):
        found = loaded(weights, *args, **options)
        if found.task.name == "detection":
            changes.append(options)
            found.model, found.class_names = BrightParts(), ["person", "blue"]
        return found

    monkeypatch.setattr(api, "load", load)
    person = sum(label == 0 for label, *_ in SMALL)
    for options, expected in (({}, 0), ({"slice": (256, 256), "overlap": 0.3}, person)):
        predictor = loaded(weights, detector=detector, **options)
        assert len(predictor(image)) == expected
    assert changes[1]["slice"] == (256, 256)


def test_options(cli, run_of, data):
    weights = run_of("detection").folder
    options = ["--data", data["detection"], "--workers", 0, "--slice", 32, 40, "--overlap", 0.25]
    status, _, err = cli("evaluate", "--weights", weights, *options, "--output", "m")
    assert status == 0, err
    sliced = json.loads(Path("m/detections.json").read_text())
    status, _, err = cli("evaluate", "--weights", weights, *options[:4], "--output", "plain")
    assert len(sliced) > len(json.loads(Path("plain/detections.json").read_text()))
    for wrong, words in (
        ({"overlap": 0.2}, "there are no slices"),
        ({"slice": (0, 5)}, "slice is"),
        ({"slice": (5, 5), "overlap": 1.0}, "overlap is"),
    ):
        with pytest.raises(VanError, match=words):
            van.load(weights, **wrong)
    with pytest.raises(VanError, match="no detector to see slices"):
        van.load(run_of("pose").folder, slice=(64, 64))
