"""The three commands on detectors, from data to pictures."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from van.models.task_weights import read_task_weights

from van.cli import main
from van.cli.recipes import recipe_folder
from van.data.shapes import make_shapes

pytest.importorskip("faster_coco_eval")

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
SMALL = [
    *("--model.backbone_args", json.dumps(BACKBONE), "--model.min_size", "64", "--model.max_size", "64"),
    *("--model.pyramid_channels", "32", "--batch-size", "4", "--lr", "0.002", "--workers", "0"),
]
MASKS = [
    *("--task", "instances", "--model.architecture", "mask_rcnn", "--model.arguments"),
    '{"anchor_sizes": [8, 16, 24, 32, 48], "canonical_scale": 56, "box_width": 16, "mask_width": 8, '
    '"proposals_train": 20, "proposals_test": 20, "box_batch_size_per_image": 16, "score_thresh": 0.0}',
]
BOXES = ["--task", "detection", "--model.arguments", '{"anchor_sizes": [8, 16, 24, 32, 48], "score_thresh": 0.0}']
FILES = "checkpoints/best.ckpt checkpoints/last.ckpt weights.safetensors metrics.csv evaluation.json per_class.csv "
FILES += "detections.json config.yaml curves.png predictions.png"
FIGURES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, 20, 64)
    return folder


@pytest.fixture
def own_shapes(shapes, tmp_path):
    """A copy that a test may spoil."""
    return shutil.copytree(shapes, tmp_path / "own")


def trained(shapes, tmp_path_factory, options):
    folder = tmp_path_factory.mktemp("run")
    arguments = ["train", "--data", str(shapes), *SMALL, *options, "--epochs", "2", "--output", str(folder)]
    assert main(arguments) == 0
    return folder


@pytest.fixture(scope="module")
def boxes_run(shapes, tmp_path_factory):
    return trained(shapes, tmp_path_factory, BOXES)


@pytest.fixture(scope="module")
def masks_run(shapes, tmp_path_factory):
    return trained(shapes, tmp_path_factory, MASKS)


@pytest.fixture(params=["boxes_run", "masks_run"])
def run(request):
    return request.getfixturevalue(request.param)


def epochs_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def spoil(folder, part, function):
    path = folder / "annotations" / f"instances_{part}.json"
    content = json.loads(path.read_text())
    function(content)
    path.write_text(json.dumps(content))


class TestRunFolder:
    def test_holds_everything(self, run):
        assert all((run / name).is_file() for name in FILES.split())

    def test_figures(self, run, shapes):
        content = json.loads((run / "evaluation.json").read_text())
        truth = json.loads((shapes / "annotations" / "instances_val.json").read_text())
        assert content["images"] == len(truth["images"])
        kinds = ("box", "mask") if read_task_weights(run).task == "instances" else ("box",)
        assert {"box", "mask"} & set(content) == set(kinds)
        for kind in kinds:
            assert list(content[kind]) == FIGURES
        assert [row["class"] for row in content["per_class"]] == [c["name"] for c in truth["categories"]]
        assert sum(row["objects"] for row in content["per_class"]) == sum(
            not a["iscrowd"] for a in truth["annotations"]
        )

    def test_best_epoch_is_what_the_weights_reach(self, masks_run, boxes_run):
        for folder, column, kind in ((masks_run, "val_mask_AP", "mask"), (boxes_run, "val_AP", "box")):
            rows = epochs_of(folder)
            assert [row["epoch"] for row in rows] == ["1", "2"]
            figures = json.loads((folder / "evaluation.json").read_text())[kind]
            assert max(float(row[column]) for row in rows) == pytest.approx(figures["AP"], abs=1e-4)

    def test_results_are_those_that_pycocotools_reads(self, run, shapes):
        coco = pytest.importorskip("pycocotools.coco")
        cocoeval = pytest.importorskip("pycocotools.cocoeval")
        content = json.loads((run / "evaluation.json").read_text())
        results = json.loads((run / "detections.json").read_text())
        assert results
        truth = coco.COCO(str(shapes / "annotations" / "instances_val.json"))
        for kind, name in (("bbox", "box"), ("segm", "mask")):
            if name not in content:
                continue
            plain = [{k: v for k, v in r.items() if k != "bbox" or kind == "bbox"} for r in results]
            evaluation = cocoeval.COCOeval(truth, truth.loadRes(plain), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            assert list(content[name].values()) == pytest.approx(evaluation.stats.tolist(), abs=1e-9)

    def test_weights_say_what_they_are(self, boxes_run, masks_run):
        for folder, task, architecture in (
            (boxes_run, "detection", "retinanet"),
            (masks_run, "instances", "mask_rcnn"),
        ):
            read = read_task_weights(folder)
            assert (read.task, read.model["architecture"]) == (task, architecture)
            assert read.class_names == ["person", "circle", "square", "triangle", "star"]
            assert read.extra["category_ids"] == [1, 2, 3, 5, 6]
            best = torch.load(folder / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
            assert all(torch.equal(v, best[f"model.{k}"]) for k, v in read.tensors.items())

    def test_config_repeats_the_run(self, van, run):
        status, out, _ = van("train", "--config", run / "config.yaml", "--output", "again", "--print-config")
        assert status == 0
        assert yaml.safe_load(out) == {**yaml.safe_load((run / "config.yaml").read_text()), "output": "again"}

    def test_pictures_can_be_opened(self, run):
        for name in ("curves.png", "predictions.png"):
            with Image.open(run / name) as picture:
                assert np.asarray(picture.convert("L")).std() > 5


class TestTrain:
    def test_shapes_recipes_are_the_default(self, van):
        for task, architecture in (("detection", "fcos"), ("instances", "mask_rcnn")):
            status, out, _ = van("train", "--task", task, "--print-config")
            options = yaml.safe_load(out)
            assert status == 0
            assert (options["data"], options["model"]["architecture"]) == ("shapes", architecture)
            assert options["model"]["pyramid_channels"] == 64

    def test_resume_goes_on(self, van, shapes, tmp_path):
        arguments = ["--data", shapes, *SMALL, *BOXES, "--epochs", "1", "--output", "run"]
        assert van("train", *arguments)[0] == 0
        before = epochs_of(tmp_path / "run")
        status, out, err = van("train", "--resume", "run", "--epochs", "2")
        assert status == 0, err
        assert "Continuing run" in out
        rows = epochs_of(tmp_path / "run")
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert [float(v) for v in rows[0].values()] == [float(v) for v in before[0].values()]
        last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["epoch"] == 1

    def test_same_seed_same_run(self, van, shapes, boxes_run):
        arguments = ["--data", shapes, *SMALL, *BOXES, "--epochs", "2", "--output", "again"]
        assert van("train", *arguments)[0] == 0
        again = json.loads(Path("again/evaluation.json").read_text())
        assert again == json.loads((boxes_run / "evaluation.json").read_text())

    def test_fine_tuning_a_detector(self, van, own_shapes, boxes_run):
        arguments = ["--data", own_shapes, *SMALL, *BOXES, "--epochs", "1", "--lr", "1e-6", "--pretrained", boxes_run]
        status, out, err = van("train", *arguments, "--output", "same")
        assert status == 0, err
        assert "its classes are kept" in out
        before = json.loads((boxes_run / "evaluation.json").read_text())["box"]["AP"]
        assert json.loads(Path("same/evaluation.json").read_text())["box"]["AP"] == pytest.approx(before, abs=0.02)
        for part in ("train", "val"):
            spoil(own_shapes, part, lambda c: c["categories"].append({"id": 90, "name": "new"}))
        status, out, err = van("train", *arguments, "--output", "more")
        assert status == 0, err
        assert "tensors for 6 classes are new" in out
        assert read_task_weights("more").class_names[-1] == "new"

    def test_mask2former_finds_instances(self, van, shapes, tmp_path):
        pytest.importorskip("transformers")
        sizes = {"queries": 8, "encoder_layers": 1, "encoder_width": 32, "decoder_layers": 1, "decoder_width": 32}
        options = ["--task", "instances", "--data", shapes, *SMALL, "--model.architecture", "mask2former"]
        options += ["--model.pyramid_channels", "64", "--model.arguments", json.dumps({**sizes, "points": 64})]
        status, out, err = van("train", *options, "--epochs", "8", "--output", tmp_path / "run")
        assert status == 0, err
        assert "mask2former with van_b0" in out
        figures = json.loads((tmp_path / "run/evaluation.json").read_text())
        assert set(figures["mask"]) == set(FIGURES)
        arguments = [shapes / "val", "--weights", tmp_path / "run", "--threshold", "0", "--workers", "0"]
        assert van("predict", *arguments, "--output", tmp_path / "seen")[0] == 0
        answers = json.loads((tmp_path / "seen/predictions.json").read_text())
        assert len(answers) == len(list((shapes / "val").iterdir()))
        rows = epochs_of(tmp_path / "run")
        assert float(rows[-1]["train_loss"]) < 0.9 * float(rows[0]["train_loss"])

    def test_jitter_multi_scale_ema_and_half_precision(self, van, shapes):
        options = ["--augmentation.jitter", "[0.5, 1.5]", "--augmentation.jitter_size", "[64, 64]"]
        options += ["--augmentation.photometric", "0.5", "--precision", "bf16-mixed", "--optimization.ema_decay", "0.9"]
        options += ["--model.min_size", "48", "64"]
        status, _, err = van("train", "--data", shapes, *SMALL, *MASKS, *options, "--epochs", "1", "--output", "run")
        assert status == 0, err
        assert np.isfinite(float(epochs_of(Path("run"))[0]["train_loss"]))

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--epochz", "3"], ["--epochz"]),
            (["--epochs", "0"], ["epochs is 0"]),
            (["--lr", "0"], ["lr is 0"]),
            (["--data", "nowhere"], ["nowhere is not a folder"]),
            (["--num-classes", "7"], ["num_classes is 7", "5 classes"]),
            (["--model.architecture", "yolo"], ["yolo", "retinanet"]),
            (["--model.architecture", "mask_rcnn"], ["--task instances"]),
            (["--task", "instances"], ["no masks", "mask_rcnn"]),
            (["--model.backbone", "van_b9"], ["van_b9", "van_b0"]),
            (["--model.arguments", '{"anchors": [1]}'], ["anchors"]),
            (["--pretrained", "no.pth"], ["no.pth"]),
            (["--augmentation.hflip", "2"], ["hflip is 2"]),
            (["--optimization.optimizer", "quux"], ["quux"]),
            (["--precision", "64-true"], ["64-true", "bf16-mixed"]),
            (["--on-problem", "shrug"], ["shrug", "refuse"]),
            (["--resume", "nowhere"], ["nowhere", "cannot be resumed"]),
        ],
    )
    def test_wrong_options_are_one_sentence_and_write_nothing(self, van, shapes, tmp_path, arguments, words):
        start = ["--task", "detection", "--data", shapes, "--model.min_size", "64", "--model.max_size", "64"]
        status, out, err = van("train", *start, *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert all(word in err for word in words), err
        assert out == ""
        assert list(tmp_path.iterdir()) == []

    def test_bad_annotations_are_refused_or_skipped(self, van, own_shapes, tmp_path):
        def change(content):
            content["annotations"][0]["bbox"] = [float("nan")] * 4
            content["images"][2]["file_name"] = "gone.jpg"

        spoil(own_shapes, "train", change)
        start = ["--data", own_shapes, *SMALL, *BOXES, "--epochs", "1", "--output", tmp_path / "run"]
        status, _, err = van("train", *start)
        assert status == 1
        assert "2 problems" in err
        assert "gone.jpg" in err
        assert "--on-problem skip" in err
        assert not (tmp_path / "run").exists()
        status, out, err = van("train", *start, "--on-problem", "skip")
        assert status == 0, err
        assert "left out 1 of" in out
        assert "1 of 16 images" in out

    def test_broken_image(self, van, own_shapes, tmp_path):
        for file in (own_shapes / "train").iterdir():
            file.write_bytes(file.read_bytes()[: file.stat().st_size * 4 // 5])  # the header is whole
        start = ["--data", own_shapes, *SMALL, *BOXES, "--epochs", "1", "--output", tmp_path / "run"]
        status, _, err = van("train", *start, "--check-data")
        assert status == 1
        assert "16 problems" in err
        assert not (tmp_path / "run").exists()
        status, _, err = van("train", *start)
        assert status == 1
        assert ".jpg cannot be decoded" in err
        assert "Traceback" not in err


class TestEvaluate:
    def test_same_figures_as_after_training(self, van, run, shapes, tmp_path):
        status, out, err = van("evaluate", "--weights", run, "--data", shapes, "--workers", "0", "--output", "measured")
        assert status == 0, err
        measured, before = (json.loads((f / "evaluation.json").read_text()) for f in (tmp_path / "measured", run))
        for kind in set(before) & {"box", "mask"}:
            assert measured[kind] == pytest.approx(before[kind], abs=2e-3)
            assert f"{kind} " in out
        assert "AR100" in out
        assert "person" in out
        for name in ("detections.json", "per_class.csv", "predictions.png"):
            assert (tmp_path / "measured" / name).is_file()

    def test_train_part(self, van, boxes_run, shapes):
        arguments = ["--weights", boxes_run, "--data", shapes, "--split", "train", "--workers", "0", "--output", "m"]
        assert van("evaluate", *arguments)[0] == 0
        assert json.loads(Path("m/evaluation.json").read_text())["images"] == 16

    def test_classes_are_matched_by_name(self, van, boxes_run, own_shapes):
        before = json.loads((boxes_run / "evaluation.json").read_text())["box"]

        def renumber(content):
            for record in content["categories"]:
                record["id"] += 50
            for record in content["annotations"]:
                record["category_id"] += 50
            content["categories"].reverse()

        spoil(own_shapes, "val", renumber)
        arguments = ["--weights", boxes_run, "--data", own_shapes, "--workers", "0"]
        assert van("evaluate", *arguments, "--output", "m")[0] == 0
        assert json.loads(Path("m/evaluation.json").read_text())["box"] == pytest.approx(before, abs=2e-3)

        spoil(own_shapes, "val", lambda c: [r.update(name="ghost") for r in c["categories"] if r["name"] == "person"])
        status, _, err = van("evaluate", *arguments, "--output", "n")
        assert status == 1
        assert "'ghost'" in err
        assert "person" in err

    def test_bad_annotations(self, van, boxes_run, own_shapes):
        spoil(own_shapes, "val", lambda content: content["annotations"][0].update(category_id=77))
        arguments = ["--weights", boxes_run, "--data", own_shapes, "--workers", "0"]
        status, _, err = van("evaluate", *arguments, "--output", "m")
        assert status == 1
        assert "77" in err
        status, out, _ = van("evaluate", *arguments, "--on-problem", "skip", "--output", "n")
        assert status == 0
        assert "left out 1 of" in out

    def test_no_data_there(self, van, boxes_run, tmp_path):
        status, _, err = van("evaluate", "--weights", boxes_run, "--data", "nowhere")
        assert status == 1
        assert "nowhere is not a folder" in err
        assert list(tmp_path.iterdir()) == []


class TestPredict:
    def test_folder_in_folder_out(self, van, run, shapes, tmp_path):
        arguments = ["--weights", run, "--threshold", "0", "--workers", "0", "--output", "found"]
        status, out, err = van("predict", shapes / "val", *arguments)
        assert status == 0, err
        entries = json.loads((tmp_path / "found" / "predictions.json").read_text())
        assert [entry["image"] for entry in entries] == sorted(str(p) for p in (shapes / "val").iterdir())
        for entry in entries:
            with Image.open(tmp_path / "found" / entry["picture"]) as picture:
                assert picture.width % entry["width"] == 0
            assert entry["objects"]
            for found in entry["objects"]:
                assert found["class"] in ("person", "circle", "square", "triangle", "star")
                assert 0 <= found["score"] <= 1
                assert ("segmentation" in found) == (read_task_weights(run).task == "instances")
        assert f"on {len(entries)} images" in out

    def test_threshold_and_names_that_come_twice(self, van, boxes_run, shapes, tmp_path):
        file = next((shapes / "val").iterdir())
        (tmp_path / "other").mkdir()
        shutil.copy(file, tmp_path / "other" / file.name)
        status, out, _ = van("predict", file, tmp_path / "other", "--weights", boxes_run, "--threshold", "1")
        assert status == 0
        assert "nothing found" in out
        (folder,) = (tmp_path / "runs").iterdir()
        assert sorted(p.name for p in folder.iterdir()) == [
            f"{file.stem}-2.jpg",
            f"{file.stem}.jpg",
            "predictions.json",
        ]

    def test_broken_image_is_reported_and_the_rest_goes_on(self, van, boxes_run, shapes, tmp_path):
        (tmp_path / "broken.jpg").write_bytes(b"no image")
        files = sorted((shapes / "val").iterdir())[:2]
        status, _, err = van(
            "predict", files[0], "broken.jpg", files[1], "missing.jpg", "--weights", boxes_run, "--output", "found"
        )
        assert status == 1
        assert "broken.jpg is not an image" in err
        assert "missing.jpg does not exist" in err
        assert "2 of 4 images could not be read" in err
        entries = json.loads((tmp_path / "found" / "predictions.json").read_text())
        assert ["error" in entry for entry in entries] == [False, True, False, True]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--threshold", "3"], "threshold is 3"),
            (["--batch-size", "0"], "batch_size is 0"),
            (["--device", "abacus"], "abacus"),
        ],
    )
    def test_wrong_options(self, van, boxes_run, shapes, tmp_path, arguments, words):
        status, _, err = van("predict", shapes / "val", "--weights", boxes_run, *arguments)
        assert status == 1
        assert words in err
        assert list(tmp_path.iterdir()) == []


def test_recipes_for_shapes_say_their_command():
    for name in ("detection/fcos_van_b0_shapes", "instances/mask_rcnn_van_b0_shapes"):
        text = (recipe_folder() / f"{name}.yaml").read_text()
        assert text.startswith("# van train")
        assert name in text.splitlines()[0]
