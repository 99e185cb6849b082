"""Semantic segmentation from data to pictures: what it does beyond the promises of all tasks."""

import csv
import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import van
from van.tasks.semantic.results import Segmentation

CLASSES = ["person", "circle", "square", "triangle", "star", "sky", "ground"]


def epochs_of(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def read(path):
    return json.loads(Path(path).read_text())


@pytest.fixture
def own_yaml(options_of):
    """Write options of a tiny run, and return how to start it."""

    def write(**changes):
        Path("own.yaml").write_text(yaml.safe_dump(options_of("semantic", **changes)))
        return ["train", "--config", "own.yaml"]

    return write


class TestLengthInSteps:
    def test_steps_and_validations(self, cli, own_yaml):
        start = own_yaml(iterations=4, validate_every=2, output="run", quiet=False)
        status, out, err = cli(*start)
        assert status == 0, err
        assert "4 steps of 8 images, validated every 2 steps" in out
        assert [float(row["iteration"]) for row in epochs_of("run")] == [2, 4]
        assert torch.load("run/checkpoints/last.ckpt", weights_only=True)["global_step"] == 4
        # an epoch may be longer than a pass over the data
        status, _, err = cli("train", "--resume", "run", "--iterations", "6")
        assert status == 0, err
        assert [float(row["iteration"]) for row in epochs_of("run")] == [2, 4, 6]

    def test_epochs_on_the_command_line_win_over_steps_of_a_file(self, cli, own_yaml):
        start = own_yaml(iterations=400, validate_every=200, output="run")
        status, out, err = cli(*start, "--epochs", "1", "--limit-batches", "1", "--no-quiet")
        assert status == 0, err
        assert "steps of" not in out
        assert len(epochs_of("run")) == 1
        options = yaml.safe_load(Path("run/config.yaml").read_text())
        assert (options["epochs"], options["iterations"], options["validate_every"]) == (1, None, None)

    def test_keyword_options_win_over_steps_of_a_recipe(self, data):
        given = {"data": str(data["semantic"]), "workers": 0, "limit_batches": 1, "output": "run", "quiet": True}
        warm_up = {"warmup_iterations": 0}
        run = van.train(config="semantic/fpn_van_b0_shapes", epochs=1, optimization=warm_up, **given)
        assert [row["epoch"] for row in epochs_of(run.folder)] == ["1"]

    def test_iterations_are_steps_of_the_optimizer(self, options_of):
        """Not batches, of which several are accumulated for a step."""
        length = {"iterations": 4, "validate_every": 2, "batch_size": 4, "accumulate": 2}
        run = van.train(**options_of("semantic", **length, output="run"))
        assert [float(row["iteration"]) for row in epochs_of(run.folder)] == [2, 4]
        last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 4

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--iterations", "10", "--epochs", "3"], "epochs and iterations are both given (the command line)"),
            (["--iterations", "5", "--validate-every", "2"], "a multiple of validate_every"),
            (["--validate-every", "2"], "validate_every needs iterations"),
            (["--iterations", "0"], "iterations is 0"),
            (["--iterations", "10", "--optimization.warmup-iterations", "10"], "warmup_iterations is 10"),
        ],
    )
    def test_lengths_that_do_not_go_together(self, cli, own_yaml, arguments, words):
        status, out, err = cli(*own_yaml(), *arguments)
        assert status in (1, 2)
        assert words in err
        assert out == ""


class TestTrain:
    def test_weights_know_classes_and_inference(self, run_of):
        predictor = van.load(run_of("semantic").folder)
        assert predictor.class_names == CLASSES
        assert tuple(predictor.inference.fit) == (48, 48)

    def test_size_of_a_file_replaces_the_default_one(self, cli, own_yaml):
        status, out, err = cli(*own_yaml(inference={"image_size": [48, 48]}), "--print-config")
        assert status == 0, err
        inference = yaml.safe_load(out)["inference"]
        assert (inference["fit"], inference["image_size"]) == (None, [48, 48])

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--num-classes", "3"], "num_classes is 3"),
            (["--model.architecture", "quux"], "quux"),
            (["--model.chanels", "3"], "--model.channels"),
            (["--inference.crop", "32", "32"], "crop is"),
            (["--inference.stride", "32", "32"], "stride is"),
            (["--inference.slide", "--inference.crop", "0", "4"], "crop is"),
            (["--inference.scales", "0"], "scales is"),
            (["--inference.to-multiple", "crop"], "to-multiple"),
            (["--model.loss-over", "some"], "loss-over"),
            (["--format.classes", "nowhere.txt"], "nowhere.txt"),
        ],
    )
    def test_wrong_options_write_nothing(self, cli, own_yaml, tmp_path, arguments, words):
        status, out, err = cli(*own_yaml(), *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert words in err
        assert out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["own.yaml"]

    def test_bad_masks_are_refused_or_skipped(self, cli, own_yaml, data):
        own = Path(shutil.copytree(data["semantic"], "own"))
        mask = min((own / "semantic" / "train").iterdir())
        Image.fromarray(np.full((48, 48), 99, np.uint8)).save(mask)
        start = own_yaml(data="own", output="run", epochs=1)
        status, _, err = cli(*start)
        assert status == 1
        assert mask.name in err
        assert "99" in err
        assert not Path("run").exists()
        status, out, err = cli(*start, "--on-bad-image", "skip", "--no-quiet")
        assert status == 0, err
        assert "15 training" in out

    def test_other_classes_start_anew(self, cli, own_yaml, run_of, data):
        own = Path(shutil.copytree(data["semantic"], "own"))
        (own / "semantic" / "classes.txt").write_text("\n".join([*CLASSES, "new"]) + "\n")
        start = own_yaml(data="own", output="run", epochs=1, pretrained=str(run_of("semantic").folder))
        status, out, err = cli(*start, "--on-bad-image", "skip", "--no-quiet")
        assert status == 0, err
        assert "2 tensors for 8 classes are new" in out
        assert "1 of 8 classes occur in no mask: new" in out

    @pytest.mark.slow
    def test_two_processes_validate_as_one_does(self, own_yaml):
        start = own_yaml(output="run", epochs=1)
        command = [sys.executable, "-m", "van", *start, "--device", "cpu", "--devices", "2"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
        shared, alone = float(epochs_of("run")[-1]["val_mIoU"]), read("run/evaluation.json")
        assert alone["images"] == 4
        assert shared == pytest.approx(alone["mIoU"], abs=1e-5)


class TestEvaluate:
    def test_windows_scales_and_mirror_images(self, cli, run_of, data):
        run = run_of("semantic").folder
        options = ["--crop", "32", "32", "--scales", "0.75", "1.0", "--flip-test", "--workers", "0"]
        status, out, err = cli("evaluate", "--weights", run, "--data", data["semantic"], *options, "--output", "m")
        assert status == 0, err
        assert "mIoU" in out
        assert read("m/evaluation.json")["mIoU"] != read(run / "evaluation.json")["mIoU"]
        with Image.open("m/predictions.png") as picture:
            assert min(picture.size) > 100

    def test_sides_that_are_no_multiple_of_32(self, cli, own_yaml, data):
        """What the weight file says holds until a command says otherwise; images have 48 pixels at most."""
        start = own_yaml(inference={"to_multiple": "resize"}, epochs=1, output="run")
        assert cli(*start, "--limit-batches", "1")[0] == 0
        assert van.load("run").inference.to_multiple == "resize"
        options = ["--weights", "run", "--data", data["semantic"], "--workers", "0"]
        status, _, err = cli("evaluate", *options, "--to-multiple", "none", "--output", "none")
        assert status == 0, err
        assert read("none/evaluation.json")["per_class"] != read("run/evaluation.json")["per_class"]

    def test_classes_are_matched_by_name(self, cli, run_of, data):
        own = Path(shutil.copytree(data["semantic"], "own"))
        table = np.arange(256, dtype=np.uint8)
        table[:7] = np.arange(7)[::-1]
        for mask in (own / "semantic" / "val").iterdir():
            Image.fromarray(table[np.asarray(Image.open(mask))]).save(mask)
        (own / "semantic" / "classes.txt").write_text("\n".join(reversed(CLASSES)) + "\n")
        options = ["--weights", run_of("semantic").folder, "--data", own, "--workers", "0"]
        assert cli("evaluate", *options, "--output", "m")[0] == 0
        before = read(run_of("semantic").folder / "evaluation.json")
        assert read("m/evaluation.json")["mIoU"] == pytest.approx(before["mIoU"], abs=2e-3)
        (own / "semantic" / "classes.txt").write_text("\n".join([*CLASSES[:-1], "sea"]) + "\n")
        status, _, err = cli("evaluate", *options, "--output", "n")
        assert status == 1
        assert "'sea'" in err
        assert not Path("n").exists()


class TestPredict:
    def test_large_image_by_windows(self, cli, run_of):
        Image.fromarray(np.random.default_rng(0).integers(0, 255, (300, 260, 3), np.uint8)).save("a.png")
        options = ["--slide", "--crop", "96", "96", "--stride", "64", "64"]
        status, _, err = cli("predict", "a.png", "--weights", run_of("semantic").folder, *options, "--output", "out")
        assert status == 0, err
        with Image.open("out/a_classes.png") as result:
            assert result.size == (260, 300)

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--crop", "4", "4", "--stride", "5", "5"], "gaps"),
            (["--no-slide", "--crop", "4", "4"], "crop is"),
            (["--fit", "0", "4"], "fit is"),
            (["--output", "out.csv"], "CSV"),
        ],
    )
    def test_wrong_options_write_nothing(self, cli, run_of, tmp_path, arguments, words):
        Image.new("RGB", (9, 9)).save("a.png")
        status, out, err = cli("predict", "a.png", "--weights", run_of("semantic").folder, *arguments)
        assert status == 1
        assert words in err
        assert out == ""
        assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


class TestResult:
    def result(self):
        labels = np.array([[0, 0, 1], [255, 0, 1]], np.uint8)
        return Segmentation(class_names=["sky", "cat"], size=(2, 3), labels=labels, image=Image.new("RGB", (3, 2)))

    def test_shares_are_those_of_all_pixels(self):
        assert self.result().shares == {"sky": 0.5, "cat": 0.333333}
        assert self.result().summary() == "sky 50.0 %, cat 33.3 %"

    def test_map_of_classes(self, tmp_path):
        files = self.result().save(tmp_path, "one")
        assert files == {"picture": "one.jpg", "classes": "one_classes.png"}
        with Image.open(tmp_path / files["classes"]) as image:
            assert np.array_equal(np.asarray(image), self.result().labels)
