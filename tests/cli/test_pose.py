import csv
import json

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from van.inference.detection import Detections
from van.models.task_weights import read_task_weights

from van.cli import command_parser, main
from van.cli.recipes import recipe_folder
from van.data.shapes import make_shapes

pytest.importorskip("faster_coco_eval")

RECIPES = sorted((recipe_folder() / "pose").glob("*.yaml"))
FIGURES = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]
TINY = [
    *("--config", "pose/van_b0_shapes", "--epochs", "2", "--batch-size", "8", "--workers", "0"),
    *("--model.backbone-args", '{"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}'),
    *("--model.image-size", "64", "64", "--model.channels", "8", "--optimization.warmup-epochs", "0"),
]


@pytest.fixture(scope="module")
def figures(tmp_path_factory):
    """A small set of stick figures."""
    folder = tmp_path_factory.mktemp("data") / "figures"
    make_shapes(folder, images=40, size=64)
    return folder


@pytest.fixture(scope="module")
def run(figures, tmp_path_factory):
    """The run folder of a small pose network."""
    folder = tmp_path_factory.mktemp("run")
    assert main(["train", *TINY, "--data", str(figures), "--output", str(folder)]) == 0
    return folder


def truth_of(figures):
    return json.loads((figures / "annotations" / "person_keypoints_val.json").read_text())


class TestTrain:
    def test_run_folder_holds_everything(self, run):
        expected = "weights.safetensors metrics.csv evaluation.json keypoint_results.json config.yaml curves.png"
        assert {*expected.split(), "predictions.png"} <= {path.name for path in run.iterdir()}
        assert {path.name for path in (run / "checkpoints").iterdir()} == {"best.ckpt", "last.ckpt"}
        for name in ("curves.png", "predictions.png"):
            with Image.open(run / name) as picture:
                assert np.asarray(picture.convert("L")).std() > 5

    def test_loss_falls(self, run):
        with (run / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        assert list(rows[0]) == ["epoch", "lr", "train_loss", "val_loss", "val_ap", "val_ap50", "seconds"]
        assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])

    def test_weights_say_all_that_prediction_needs(self, run):
        weights = read_task_weights(run)
        best = torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        assert weights.task == "pose"
        assert weights.class_names == ["person"]
        assert weights.model["image_size"] == [64, 64]
        assert weights.extra["keypoint_names"][:2] == ["nose", "left_eye"]
        assert weights.extra["flip_pairs"][0] == [1, 2]
        assert all(torch.equal(value, best[f"model.{key}"]) for key, value in weights.tensors.items())

    def test_goes_on(self, van, figures, tmp_path):
        assert van("train", *TINY, "--data", figures, "--epochs", "1", "--output", "new")[0] == 0
        status, out, _ = van("train", "--resume", "new", "--epochs", "2")
        assert status == 0
        assert "Continuing new" in out
        assert len((tmp_path / "new" / "metrics.csv").read_text().splitlines()) == 3

    def test_starts_from_a_backbone(self, van, figures, trained):
        options = ("--data", figures, "--pretrained", trained, "--epochs", "1", "--output", "new")
        status, out, err = van("train", *TINY, *options)
        assert status == 0, err
        assert f"Starting from {trained}" in out
        assert "norm_eps" in read_task_weights("new").model["backbone_args"]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--keypoints", "5"], "keypoints is 5"),
            (["--model.image-size", "60", "64"], "multiples of 32"),
            (["--augmentation.flip", "2"], "flip is 2"),
            (["--optimization.optimizer", "none"], "optimizer 'none'"),
            (["--data", "nowhere"], "nowhere"),
        ],
    )
    def test_wrong_options_leave_nothing(self, van, figures, tmp_path, options, message):
        status, _, err = van("train", *TINY, "--data", figures, *options, "--output", "new")
        assert status in (1, 2)
        assert message in err
        assert not (tmp_path / "new").exists()

    def test_bad_annotations_are_refused_or_skipped(self, van, figures, tmp_path):
        import shutil

        shutil.copytree(figures, tmp_path / "bad")
        path = tmp_path / "bad" / "annotations" / "person_keypoints_train.json"
        content = json.loads(path.read_text())
        content["annotations"][0]["keypoints"] = content["annotations"][0]["keypoints"][:-3]
        path.write_text(json.dumps(content))
        status, _, err = van("train", *TINY, "--data", "bad", "--output", "new")
        assert status == 1
        assert f"annotation {content['annotations'][0]['id']}" in err
        assert "skip" in err
        options = ("--on-problem", "skip", "--epochs", "1", "--output", "new")
        status, out, _ = van("train", *TINY, "--data", "bad", *options)
        assert status == 0
        assert "Note: " in out


class TestEvaluate:
    def test_ten_figures_and_results_json(self, van, run, figures, tmp_path):
        status, out, _ = van("evaluate", "--weights", run, "--data", figures, "--workers", "0", "--output", "new")
        assert status == 0
        report = json.loads((tmp_path / "new" / "evaluation.json").read_text())
        assert list(report["keypoints"]) == FIGURES
        assert report["keypoints"] == json.loads((run / "evaluation.json").read_text())["keypoints"]
        assert report["flip_test"] is True
        for name in FIGURES:
            assert f"  {name} " in out
        results = json.loads((tmp_path / "new" / "keypoint_results.json").read_text())
        persons = [a for a in truth_of(figures)["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
        assert sorted(r["image_id"] for r in results) == sorted(a["image_id"] for a in persons)
        assert {len(r["keypoints"]) for r in results} == {51}

    def test_detector_boxes(self, van, run, figures, tmp_path):
        truth = truth_of(figures)
        persons = [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]
        found = [
            {"image_id": a["image_id"], "category_id": c, "bbox": a["bbox"], "score": s}
            for a in persons
            for c, s in ((1, 0.9), (1, 0.6), (1, 0.2), (2, 0.9))
        ]
        (tmp_path / "boxes.json").write_text(json.dumps(found))
        options = ("--boxes", "boxes.json", "--min-score", "0.5", "--workers", "0", "--output", "new")
        status, _, err = van("evaluate", "--weights", run, "--data", figures, *options)
        assert status == 0, err
        # the second box of each person gives the same pose, which is left out
        results = json.loads((tmp_path / "new" / "keypoint_results.json").read_text())
        assert len(results) == len(persons)
        report = json.loads((tmp_path / "new" / "evaluation.json").read_text())
        assert report["boxes"] == "boxes.json"
        again = ("--boxes", "boxes.json", "--duplicates", "1", "--no-flip-test", "--workers", "0", "--output", "all")
        assert van("evaluate", "--weights", run, "--data", figures, *again)[0] == 0
        assert len(json.loads((tmp_path / "all" / "keypoint_results.json").read_text())) == 3 * len(persons)

    def test_other_keypoints_are_refused(self, van, run, figures, tmp_path):
        import shutil

        shutil.copytree(figures, tmp_path / "other")
        path = tmp_path / "other" / "annotations" / "person_keypoints_val.json"
        path.write_text(path.read_text().replace('"nose"', '"beak"'))
        status, _, err = van("evaluate", "--weights", run, "--data", "other", "--output", "new")
        assert status == 1
        assert "beak" in err
        assert not (tmp_path / "new").exists()


class TestPredict:
    def test_whole_images(self, van, run, figures, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"nothing")
        status, out, err = van("predict", figures / "val", "broken.jpg", "--weights", run, "--output", "new")
        assert status == 1
        assert "broken.jpg" in err
        assert "8 persons on 8 images" in out
        entries = json.loads((tmp_path / "new" / "predictions.json").read_text())
        assert len(entries) == 9
        assert "error" in entries[-1]
        first = entries[0]
        assert first["persons"][0]["bbox"] == [0, 0, first["width"], first["height"]]
        assert list(first["persons"][0]["keypoints"])[:2] == ["nose", "left_eye"]
        with Image.open(tmp_path / "new" / first["picture"]) as picture:
            assert max(picture.size) >= 480

    def test_boxes_of_coco_results(self, van, run, figures, tmp_path):
        number = truth_of(figures)["images"][0]["id"]
        found = [
            {"image_id": number, "category_id": c, "bbox": b, "score": s}
            for c, b, s in ((1, [2, 3, 20, 40], 0.9), (1, [30, 3, 20, 40], 0.1), (5, [2, 3, 20, 30], 0.9))
        ]
        (tmp_path / "boxes.json").write_text(json.dumps(found))
        options = ("--boxes", "boxes.json", "--output", "new")
        status, out, _ = van("predict", figures / "val", "--weights", run, *options)
        assert status == 0
        assert "1 persons on 8 images" in out
        entries = json.loads((tmp_path / "new" / "predictions.json").read_text())
        assert [[p["bbox"] for p in e["persons"]] for e in entries] == [[[2, 3, 20, 40]]] + [[]] * 7

    def test_boxes_of_van_predict(self, van, run, figures, tmp_path):
        paths = sorted((figures / "val").iterdir())[:2]
        box = {"class": "person", "category_id": 1, "bbox": [2, 3, 20, 40], "score": 0.9}
        content = [
            {"image": str(paths[0]), "objects": [box, {**box, "class": "circle"}]},
            {"image": str(paths[1]), "error": "broken"},
        ]
        (tmp_path / "boxes.json").write_text(json.dumps(content))
        status, out, _ = van("predict", *paths, "--weights", run, "--boxes", "boxes.json", "--output", "new")
        assert status == 0
        assert "1 persons on 2 images" in out

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("{", "not JSON"),
            ('[{"image_id": 12345, "category_id": 1, "bbox": [1, 2, 3, 4], "score": 1}]', "none of these"),
            ('[{"image_id": 33, "category_id": 1, "bbox": [1, 2, 3], "score": 1}]', "entry 0"),
            ("[3]", "entry 0"),
            ('[{"bbox": [1, 2, 3, 4]}]', "entry 0"),
        ],
    )
    def test_other_boxes_are_refused(self, van, run, figures, tmp_path, content, message):
        (tmp_path / "boxes.json").write_text(content)
        options = ("--boxes", "boxes.json", "--output", "new")
        status, _, err = van("predict", figures / "val", "--weights", run, *options)
        assert status == 1
        assert message in err
        assert not (tmp_path / "new").exists()

    def test_detector(self, van, run, figures, tmp_path, monkeypatch):
        class Detector:
            class_names = ("circle", "person")

            def __init__(self, weights, device, batch_size, score_threshold):
                assert (weights, score_threshold) == ("detector.safetensors", 0.4)

            def __call__(self, image):
                boxes = np.array([[1, 2, 21, 42], [3, 3, 9, 9]], dtype=np.float32)
                scores = np.array([0.9, 0.8], dtype=np.float32)
                return Detections((image.height, image.width), boxes, np.array([1, 0]), scores)

        monkeypatch.setattr("van.inference.detection.DetectionPredictor", Detector)
        options = ("--weights", run, "--detector", "detector.safetensors", "--min-score", "0.4")
        path = sorted((figures / "val").iterdir())[0]
        assert van("predict", path, *options, "--output", "new")[0] == 0
        entries = json.loads((tmp_path / "new" / "predictions.json").read_text())
        assert [p["bbox"] for p in entries[0]["persons"]] == [[1, 2, 20, 40]]
        assert entries[0]["persons"][0]["score"] <= 0.9
        Detector.class_names = ("circle", "square")
        status, _, err = van("predict", path, *options, "--output", "other")
        assert status == 1
        assert "circle, square" in err

    def test_boxes_and_detector_exclude_each_other(self, van, run, figures):
        status, _, err = van("predict", figures / "val", "--weights", run, "--boxes", "a", "--detector", "b")
        assert status == 1
        assert "Give one of them" in err

    def test_images_of_the_same_name_keep_their_pictures(self, van, run, tmp_path):
        for name in ("a/x.png", "b/x.png", "b/X.jpg"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            Image.new("RGB", (40, 40)).save(tmp_path / name)
        assert van("predict", "a", "b", "--weights", run, "--output", "new")[0] == 0
        assert sorted(p.name for p in (tmp_path / "new").glob("*.jpg")) == ["X-2.jpg", "x-3.jpg", "x.jpg"]


class TestRecipes:
    def test_there_is_one_for_every_size(self):
        names = {f"van_b{i}_coco_256x192" for i in range(4)} | {"van_b2_coco_384x288", "van_b0_shapes"}
        assert names == {path.stem for path in RECIPES}

    @pytest.mark.parametrize("path", [p for p in RECIPES if "coco" in p.stem], ids=lambda path: path.stem)
    def test_are_the_paper_s(self, path):
        arguments = ["--config", str(path)]
        parser, _ = command_parser("train", arguments)
        options = parser.instantiate(parser.parse_args(arguments))
        assert (options.task, options.epochs, options.batch_size, options.lr) == ("pose", 210, 64, 5e-4)
        assert (options.optimization.optimizer, options.optimization.schedule) == ("adam", "step")
        assert options.optimization.milestones == [170, 200]
        assert options.model.backbone == path.stem[:6]
        assert "x".join(map(str, options.model.image_size)) == path.stem.rpartition("_")[2]
        assert options.model.sigma == (3.0 if "384" in path.stem else 2.0)
        assert set(yaml.safe_load(path.read_text())) <= set(vars(options))

    def test_are_counted(self, van):
        status, out, _ = van("complexity", "--config", "pose/van_b2_coco_256x192", "--json")
        assert status == 0
        counts = json.loads(out)
        assert counts["params"] / 1e6 == pytest.approx(30.3, abs=0.1)
        assert counts["macs"] / 1e9 == pytest.approx(6.1, abs=0.1)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stick_figures_are_learned(van, tmp_path):
    status, _, err = van("train", "--task", "pose", "--output", "new", "--workers", "0")
    assert status == 0, err
    report = json.loads((tmp_path / "new" / "evaluation.json").read_text())
    assert report["keypoints"]["AP50"] >= 0.8
