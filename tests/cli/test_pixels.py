"""The three commands on networks that label pixels, from data to pictures."""

import csv
import json
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from van.models.task_weights import read_task_weights

from van.cli import main
from van.cli.recipes import find_recipe
from van.data.shapes import make_shapes

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
SMALL = [
    *("--model.backbone_args", json.dumps(BACKBONE), "--batch-size", "8", "--lr", "0.003", "--workers", "0"),
    *("--inference.size", "[48,48]"),
]
MASK2FORMER = {"queries": 8, "channels": 64, "heads": 2, "encoder_layers": 1, "encoder_width": 32}
MASK2FORMER |= {"decoder_layers": 1, "decoder_width": 32, "points": 64}
OPTIONS = {
    "semantic": [
        *("--model.arguments", '{"pyramid_channels": 8, "channels": 8}', "--augmentation.scale", "[48, 48]"),
        *("--augmentation.crop", "[48, 48]", "--iterations", "4", "--validate-every", "2"),
    ],
    "panoptic": [
        *("--model.arguments", json.dumps(MASK2FORMER), "--augmentation.size", "[48, 48]", "--epochs", "2"),
        *("--inference.object_threshold", "0"),
    ],
    "saliency": [
        *("--model.arguments", '{"channels": 8, "global_channels": 8}', "--augmentation.size", "[48, 48]"),
        *("--augmentation.margin", "4", "--epochs", "2", "--batch-size", "7"),  # 15 of 16 images show an object
    ],
}
KEYS = {"semantic": "mIoU", "panoptic": "PQ", "saliency": "max_F"}
CLASSES = ["person", "circle", "square", "triangle", "star", "sky", "ground"]
FILES = "checkpoints/best.ckpt checkpoints/last.ckpt weights.safetensors metrics.csv evaluation.json config.yaml "
FILES += "curves.png predictions.png"


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data") / "shapes"
    make_shapes(folder, 20, 48)
    return folder


@pytest.fixture(scope="module")
def runs(shapes, tmp_path_factory):
    """A run of each task, made when it is first asked for."""
    made = {}

    def run(task):
        if task not in made:
            if task == "panoptic":
                pytest.importorskip("transformers")
            folder = tmp_path_factory.mktemp(task)
            options = ["--task", task, "--data", str(shapes), *SMALL, *OPTIONS[task], "--output", str(folder)]
            assert main(["train", *options]) == 0
            made[task] = folder
        return made[task]

    return run


@pytest.fixture(params=list(OPTIONS))
def task(request):
    return request.param


def epochs_of(folder):
    with (folder / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def read(path):
    return json.loads(path.read_text())


class TestRunFolder:
    def test_holds_everything(self, runs, task):
        folder = runs(task)
        assert all((folder / name).is_file() for name in FILES.split())
        assert (folder / "per_class.csv").is_file() == (task != "saliency")
        for name in ("curves.png", "predictions.png"):
            with Image.open(folder / name) as picture:
                assert np.asarray(picture.convert("L")).std() > 5

    def test_figures_are_those_of_the_best_epoch(self, runs, task):
        rows, figures = epochs_of(runs(task)), read(runs(task) / "evaluation.json")
        assert figures["images"] == (3 if task == "saliency" else 4)  # one image shows no object
        assert [row["epoch"] for row in rows] == ["1", "2"]
        assert [float(row["iteration"]) for row in rows] == [2, 4]
        assert max(float(row[f"val_{KEYS[task]}"]) for row in rows) == pytest.approx(figures[KEYS[task]], abs=1e-4)
        assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])

    def test_weights_say_what_they_are(self, runs, task):
        weights = read_task_weights(runs(task))
        assert weights.task == task
        assert weights.class_names == (["salient"] if task == "saliency" else CLASSES)
        assert weights.extra["inference"]["size"] == [48, 48]
        best = torch.load(runs(task) / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        assert all(torch.equal(value, best[f"model.{key}"]) for key, value in weights.tensors.items())

    def test_config_repeats_the_run(self, van, runs, task):
        folder = runs(task)
        status, out, err = van("train", "--config", folder / "config.yaml", "--output", "again", "--print-config")
        assert status == 0, err
        assert yaml.safe_load(out) == {**yaml.safe_load((folder / "config.yaml").read_text()), "output": "again"}

    def test_segments_can_be_read_back(self, runs, shapes):
        content = read(runs("panoptic") / "panoptic.json")
        truth = read(shapes / "annotations" / "panoptic_val.json")
        assert [category["id"] for category in content["categories"]] == [c["id"] for c in truth["categories"]]
        assert {image["id"] for image in content["images"]} == {image["id"] for image in truth["images"]}
        assert all((runs("panoptic") / "panoptic" / a["file_name"]).is_file() for a in content["annotations"])


class TestTrain:
    def test_shapes_recipes_are_the_default(self, van, task):
        status, out, err = van("train", "--task", task, "--print-config")
        assert status == 0, err
        options = yaml.safe_load(out)
        assert options["data"] == "shapes"
        recipe = yaml.safe_load(find_recipe(import_module(f"van.cli.train.{task}").SHAPES_RECIPE).read_text())
        assert options["model"]["backbone_args"] == recipe["model"]["backbone_args"]

    def test_resume_goes_on(self, van, runs, tmp_path):
        folder = shutil.copytree(runs("semantic"), tmp_path / "run")
        status, out, err = van("train", "--resume", folder, "--iterations", "6")
        assert status == 0, err
        assert "Continuing" in out
        assert [float(row["iteration"]) for row in epochs_of(folder)] == [2, 4, 6]
        assert torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"] == 6

    def test_same_seed_same_run(self, van, shapes, runs):
        options = ["--task", "semantic", "--data", shapes, *SMALL, *OPTIONS["semantic"], "--output", "again"]
        assert van("train", *options)[0] == 0
        assert read(Path("again/evaluation.json")) == read(runs("semantic") / "evaluation.json")

    def test_fine_tuning_a_network_with_ema(self, van, shapes, runs, tmp_path):
        more = shutil.copytree(shapes, tmp_path / "more")
        (more / "semantic" / "classes.txt").write_text("\n".join([*CLASSES, "new"]) + "\n")
        options = ["--task", "semantic", *SMALL, *OPTIONS["semantic"], "--pretrained", runs("semantic")]
        options += ["--optimization.ema_decay", "0.5"]
        status, out, err = van("train", "--data", shapes, *options, "--output", "same")
        assert status == 0, err
        assert "its classes are kept" in out
        status, out, err = van("train", "--data", more, *options, "--on-problem", "skip", "--output", "other")
        assert status == 0, err
        assert "2 tensors for 8 classes are new" in out
        assert "1 of 8 classes occur in no mask: new" in out

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--iterations", "5", "--validate-every", "2"], "a multiple of validate_every"),
            (["--validate-every", "2"], "goes with iterations"),
            (["--iterations", "0"], "iterations is 0"),
            (["--epochs", "0"], "epochs is 0"),
            (["--iterations", "10", "--optimization.warmup_iterations", "10"], "warmup_iterations is 10"),
            (["--num-classes", "3"], "num_classes is 3"),
            (["--model.architecture", "quux"], "quux"),
            (["--model.arguments", '{"chanels": 3}'], "Did you mean channels"),
            (["--pretrained", "no.pth"], "no.pth"),
            (["--inference.mode", "peek"], "peek"),
            (["--inference.crop", "[0, 4]"], "inference.crop"),
            (["--augmentation.hflip", "2"], "hflip is 2"),
            (["--format.classes", "nowhere.txt"], "nowhere.txt"),
            (["--optimization.optimizer", "quux"], "quux"),
        ],
    )
    def test_wrong_options_are_one_sentence_and_write_nothing(self, van, shapes, tmp_path, arguments, words):
        status, out, err = van("train", "--task", "semantic", "--data", shapes, "--workers", "0", *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert words in err
        assert out == ""
        assert list(tmp_path.iterdir()) == []

    def test_panoptic_needs_an_architecture_with_segments(self, van, shapes):
        status, _, err = van("train", "--task", "panoptic", "--data", shapes, "--model.architecture", "upernet")
        assert status == 1
        assert "mask2former" in err

    def test_bad_masks_are_refused_before_training(self, van, shapes, tmp_path):
        own = shutil.copytree(shapes, tmp_path / "own")
        mask = next(iter(sorted((own / "semantic" / "train").iterdir())))
        Image.fromarray(np.full((48, 48), 99, np.uint8)).save(mask)
        options = ["--task", "semantic", "--data", own, *SMALL, *OPTIONS["semantic"], "--output", tmp_path / "run"]
        status, _, err = van("train", *options)
        assert status == 1
        assert mask.name in err
        assert "99" in err
        assert not (tmp_path / "run").exists()
        status, out, err = van("train", *options, "--on-problem", "skip")
        assert status == 0, err
        assert "15 training" in out


class TestEvaluate:
    def test_same_figures_as_after_training(self, van, runs, shapes, task, tmp_path):
        folder = runs(task)
        status, _, err = van("evaluate", "--weights", folder, "--data", shapes, "--workers", "0", "--output", "m")
        assert status == 0, err
        measured, before = read(tmp_path / "m" / "evaluation.json"), read(folder / "evaluation.json")
        assert measured[KEYS[task]] == pytest.approx(before[KEYS[task]], abs=2e-3)

    def test_windows_scales_and_mirror_images(self, van, runs, shapes, tmp_path):
        options = ["--slide", "--crop", "32", "32", "--scales", "0.75", "1.0", "--flip", "--workers", "0"]
        status, out, err = van("evaluate", "--weights", runs("semantic"), "--data", shapes, *options, "--output", "m")
        assert status == 0, err
        assert "mAcc" in out
        assert read(tmp_path / "m" / "evaluation.json")["mIoU"] != read(runs("semantic") / "evaluation.json")["mIoU"]

    def test_classes_are_matched_by_name(self, van, runs, shapes, tmp_path):
        own = shutil.copytree(shapes, tmp_path / "own")
        table = np.arange(256, dtype=np.uint8)
        table[:7] = np.arange(7)[::-1]
        for mask in (own / "semantic" / "val").iterdir():
            Image.fromarray(table[np.asarray(Image.open(mask))]).save(mask)
        (own / "semantic" / "classes.txt").write_text("\n".join(reversed(CLASSES)) + "\n")
        options = ["--weights", runs("semantic"), "--data", own, "--workers", "0"]
        assert van("evaluate", *options, "--output", "m")[0] == 0
        before = read(runs("semantic") / "evaluation.json")
        assert read(tmp_path / "m" / "evaluation.json")["mIoU"] == pytest.approx(before["mIoU"], abs=2e-3)
        (own / "semantic" / "classes.txt").write_text("\n".join([*CLASSES[:-1], "sea"]) + "\n")
        status, _, err = van("evaluate", *options, "--output", "n")
        assert status == 1
        assert "'sea', which the model does not know" in err
        assert not (tmp_path / "n").exists()


class TestPredict:
    def test_folder_in_folder_out(self, van, runs, shapes, task, tmp_path):
        (tmp_path / "in").mkdir()
        for i, size in enumerate(((48, 48), (70, 33))):
            Image.open(shapes / "val" / "000017.jpg").resize(size).save(tmp_path / "in" / f"{i}.png")
        (tmp_path / "in" / "broken.jpg").write_bytes(b"no image")
        status, out, err = van("predict", "in", "--weights", runs(task), "--output", "out")
        assert status == 1
        assert "broken.jpg" in err
        assert "1 of 3 images could not be read" in err
        assert "2 images" in out
        entries = read(tmp_path / "out" / "predictions.json")
        assert ["error" in entry for entry in entries] == [False, False, True]
        for entry, size in zip(entries[:2], ((48, 48), (70, 33)), strict=True):
            with Image.open(tmp_path / "out" / entry["picture"]) as picture:
                assert picture.height % size[1] == 0
            file = {"semantic": "classes", "panoptic": "panoptic", "saliency": "map"}[task]
            with Image.open(tmp_path / "out" / entry[file]) as result:
                assert result.size == size
        if task == "semantic":
            assert np.asarray(Image.open(tmp_path / "out" / "1_classes.png")).max() < 7
        if task == "panoptic":
            content = read(tmp_path / "out" / "panoptic.json")
            assert [record["file_name"] for record in content["annotations"]] == ["0.png", "1.png"]

    def test_large_image_by_windows(self, van, runs, tmp_path):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8)).save(tmp_path / "a.png")
        options = ["--slide", "--crop", "96", "96", "--stride", "64", "64"]
        status, _, err = van("predict", "a.png", "--weights", runs("semantic"), *options, "--output", "out")
        assert status == 0, err
        with Image.open(tmp_path / "out" / "a_classes.png") as result:
            assert result.size == (260, 300)

    def test_large_image_scaled_for_its_segments(self, van, runs, tmp_path):
        Image.new("RGB", (260, 300)).save(tmp_path / "a.png")
        options = ["a.png", "--weights", runs("panoptic"), "--output", "out"]
        status, _, err = van("predict", *options, "--size", "48", "64")
        assert status == 0, err
        with Image.open(tmp_path / "out" / "panoptic" / "a.png") as result:
            assert result.size == (260, 300)
        status, _, err = van("predict", *options[:-1], "more", "--size", "0", "64")
        assert status == 1
        assert "inference.size is [0, 64]" in err
        assert not (tmp_path / "more").exists()

    def test_windows_that_leave_gaps(self, van, runs, tmp_path):
        Image.new("RGB", (9, 9)).save(tmp_path / "a.png")
        options = ["--crop", "4", "4", "--stride", "5", "5", "--output", "out"]
        status, _, err = van("predict", "a.png", "--weights", runs("saliency"), *options)
        assert status == 1
        assert "gaps" in err
        assert not (tmp_path / "out").exists()
