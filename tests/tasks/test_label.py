"""Labels from predictions: written in standard formats, and trained on at once. And results as tables and labels."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import van
from van.data.labels import open_labels
from van.engine.api import train_options
from van.engine.fit import prepare

# what the formats hold is tested in tests/data/test_labels.py
FORMATS = [("detection", "coco"), ("detection", "voc"), ("instances", "yolo"), ("pose", "yolo"), ("semantic", "masks")]
NEED = {"detection": "boxes", "instances": "masks", "pose": "keypoints"}


@pytest.fixture
def photos(tmp_path, data) -> Path:
    """Eight images, two of each name."""
    folder = tmp_path / "photos"
    for i, path in enumerate(sorted((data["detection"] / "val").glob("*"))[:4] * 2):
        place = folder / ("a" if i < 4 else "b") / f"{i % 4}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.open(path).convert("RGB").resize((52, 48)).save(place)
    return folder


def threshold_of(folder, photos, task) -> dict:
    """A threshold that some objects of this hardly trained network pass."""
    if task == "semantic":
        return {}
    images, more = sorted(photos.rglob("*.png")), {}
    if task == "pose":  # a box around which everything is inside the image
        box = {"class": "person", "bbox": [14, 14, 20, 20], "score": 0.9}
        lines = [json.dumps({"image": str(path), "objects": [box]}) for path in images]
        Path("boxes.jsonl").write_text("\n".join(lines) + "\n")
        more = {"keypoint_threshold": 0.0, "boxes": "boxes.jsonl"}
    scores = np.concatenate([r.scores for r in van.load(folder, score_threshold=0.0, **more)(images)])
    return {"score_threshold": float(np.sort(scores)[-min(len(scores), 20)]), **more}


@pytest.mark.parametrize(("task", "to"), FORMATS)
def test_labels_can_be_trained_on_at_once(options_of, run_of, photos, task, to):
    if task != "semantic":
        pytest.importorskip("faster_coco_eval")
    run = run_of(task).folder
    more = threshold_of(run, photos, task)
    folder = van.label(photos, run, "labels", to, workers=0, quiet=True, **more)
    images = [path for path in folder.rglob("*.png") if "images" in path.parent.name.lower()]
    assert len(images) == len({path.stem for path in images}) == 8
    if task == "semantic":
        predictor = van.load(run)
        mask = np.asarray(Image.open(folder / "masks" / "0.png"))
        assert np.array_equal(mask, predictor(photos / "a" / "0.png").labels)
    else:
        (split,) = open_labels(folder, NEED[task]).values()
        kept = van.load(run, **more)(sorted(photos.rglob("*.png")))
        scores = [result.scores >= more["score_threshold"] for result in kept]
        found = len(list(split.all_annotations()))
        assert found == sum(int(one.sum()) for one in scores) > 0
        names = van.load(run).class_names
        assert set(split.class_names) <= set(names)
        if to != "voc":
            assert split.class_names == names
    found, options = train_options(
        task=task, options=options_of(task, data=str(folder), batch_size=2, on_bad_image="skip")
    )
    prepared = prepare(found, options, 1)
    assert next(iter(prepared.data.train_dataloader()))


def test_thresholds_by_class(cli, run_of, photos):
    pytest.importorskip("faster_coco_eval")
    run = run_of("detection").folder
    least = threshold_of(run, photos, "detection")["score_threshold"]
    name = next(n for r in van.load(run, score_threshold=least)(sorted(photos.rglob("*.png"))) for n in r.classes)
    Path("t.json").write_text(json.dumps({name: least}))
    status, out, err = cli("label", photos, "--weights", run, "--output", "out", "--score-threshold", "t.json")
    assert status == 0, err
    assert "van train --task detection --data out" in out
    content = json.loads(Path("out/instances.json").read_text())
    ids = {category["name"]: category["id"] for category in content["categories"]}
    assert {annotation["category_id"] for annotation in content["annotations"]} == {ids[name]}
    assert min(annotation["score"] for annotation in content["annotations"]) >= least - 1e-5


def test_broken_images_are_left_out(cli, run_of, photos):
    (photos / "broken.png").write_bytes(b"no image")
    status, out, err = cli("label", photos, "--weights", run_of("semantic").folder, "--output", "out")
    assert status == 1
    assert "broken.png" in err
    assert "1 of 9 images could not be read" in err
    assert "8 images" in out
    assert len(list(Path("out/masks").iterdir())) == 8


@pytest.mark.parametrize(
    ("task", "arguments", "words"),
    [
        ("semantic", ["--to", "yolo"], "written as masks"),
        ("semantic", ["--score-threshold", "0.3"], "has no scores"),
        ("pose", ["--to", "voc"], "written as coco, yolo"),
        ("saliency", [], "cannot be written as labels"),
        ("classification", [], "cannot be written as labels"),
        ("semantic", ["http://example.org/a.png"], "on a web server"),
        ("semantic", ["photos.tar"], "inside a tar file"),
        ("semantic", ["clip.mp4"], "is a clip"),
        ("detection", ["--score-threshold", "2"], "score_threshold is 2.0"),
        ("detection", ["--score-threshold", "{quux: 0.2}"], "names 'quux'"),
    ],
)
def test_what_cannot_be_done_is_one_sentence_and_writes_nothing(cli, run_of, photos, task, arguments, words):
    if task in NEED:
        pytest.importorskip("faster_coco_eval")
    import tarfile

    with tarfile.open("photos.tar", "w") as tar:
        tar.add(photos / "a" / "0.png", "0.png")
    given = arguments if arguments and not arguments[0].startswith("--") else [photos, *arguments]
    status, _, err = cli("label", *given, "--weights", run_of(task).folder, "--output", "out", "--quiet")
    assert status == 1
    assert words in err
    assert len(err.strip().splitlines()) == 1
    assert not Path("out").exists()
    assert not list(Path().glob(".out*"))


def test_output_is_needed(cli, run_of, photos):
    status, _, err = cli("label", photos, "--weights", run_of("semantic").folder)
    assert status == 1
    assert "No output is given" in err


ROWS = {
    "classification": ["image", "rank", "class", "probability"],
    "detection": ["image", "class", "label", "score", "x1", "y1", "x2", "y2"],
    "instances": ["image", "class", "label", "score", "x1", "y1", "x2", "y2"],
    "semantic": ["image", "class", "share"],
    "panoptic": ["image", "class", "label", "id", "isthing", "score", "area"],
    "saliency": ["image", "salient"],
}


def test_results_are_tables(run_of, photos, task):
    pytest.importorskip("pandas")
    more = {"score_threshold": 0.0} if task in ("detection", "instances", "panoptic") else {}
    path = photos / "a" / "0.png"
    result = van.load(run_of(task).folder, **more)(path)
    table = result.to_pandas()
    if task == "pose":
        names = result.keypoint_names
        assert list(table.columns)[:6] == ["image", "score", "x1", "y1", "x2", "y2"]
        assert table[f"{names[1]}_y"].tolist() == pytest.approx(result.keypoints[:, 1, 1].tolist())
    else:
        assert list(table.columns) == ROWS[task]
    assert len(table) >= (task != "panoptic")
    assert set(table["image"]) <= {str(path)}
    result.frame, result.time = 3, 0.2
    assert list(result.to_pandas().columns)[:3] == ["image", "frame", "time"]
    if hasattr(result, "chosen"):
        result.track_ids = np.arange(len(result))
        assert result.to_pandas()["track"].tolist() == result.track_ids.tolist()
        result.frame = result.track_ids = None
        none = result.chosen(np.zeros(len(result), bool))
        assert list(none.to_pandas().columns) == list(table.columns)
        assert len(none.to_pandas()) == len(none.to_coco()) == len(none.to_yolo()) == 0


def test_results_are_labels(run_of, photos):
    pytest.importorskip("faster_coco_eval")
    path = photos / "a" / "0.png"
    boxes = van.load(run_of("detection").folder, score_threshold=0.0, max_detections=3)(path)
    annotations = boxes.to_coco(7, 11)
    assert [(one["image_id"], one["id"]) for one in annotations] == [(7, 11), (7, 12), (7, 13)]
    (x, y, w, h), area = annotations[0]["bbox"], annotations[0]["area"]
    assert [x, y, x + w, y + h] == pytest.approx(boxes.boxes[0].tolist(), abs=0.02)
    assert area == pytest.approx(w * h, abs=0.01)
    line = [float(word) for word in boxes.to_yolo().splitlines()[0].split()]
    assert line[0] == boxes.labels[0]
    assert line[1:] == pytest.approx([(x + w / 2) / 52, (y + h / 2) / 48, w / 52, h / 48], abs=1e-6)
    masks = van.load(run_of("instances").folder, score_threshold=0.0, max_detections=2)(path)
    assert masks.to_coco()[0]["area"] == masks.masks[0].sum()
    assert len(masks.to_yolo().splitlines()) == 2
    poses = van.load(run_of("pose").folder, keypoint_threshold=0.0)(path)
    (person,) = poses.to_coco()
    inside = [0 <= x <= 52 and 0 <= y <= 48 for x, y, _ in poses.keypoints[0]]
    assert person["keypoints"][2::3] == [2.0 * one for one in inside]
    assert person["num_keypoints"] == sum(inside)
    assert poses.categories[0]["keypoints"] == list(poses.keypoint_names)
    assert len(poses.to_yolo().split()) == 5 + 3 * len(poses.keypoint_names)
