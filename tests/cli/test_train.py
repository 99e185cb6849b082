import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from tests.cli.conftest import SMALL, make_images

import van as package
from van.models import read_checkpoint


def epochs_of(run):
    with (run / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


class TestRunFolder:
    def test_holds_everything(self, trained):
        files = {str(p.relative_to(trained)) for p in trained.rglob("*") if p.is_file()}
        expected = "checkpoints/best.ckpt checkpoints/last.ckpt weights.safetensors metrics.csv evaluation.json"
        expected += " per_class.csv config.yaml curves.png confusion_matrix.png predictions.png"
        assert set(expected.split()) <= files
        assert any(name.startswith("tensorboard/events") for name in files)

    def test_model_has_learned(self, trained):
        report = json.loads((trained / "evaluation.json").read_text())
        assert report["images"] == 9
        assert report["top1"] >= 8 / 9
        rows = epochs_of(trained)
        assert [float(row["epoch"]) for row in rows] == list(range(1, 9))
        assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
        assert max(float(row["val_top1"]) for row in rows) == pytest.approx(report["top1"], abs=1e-6)

    def test_weights_say_classes_and_preprocessing(self, trained):
        ckpt = read_checkpoint(trained)
        assert ckpt.class_names == ["blue", "green", "red"]
        assert ckpt.preprocessing["input_size"] == (3, 32, 32)
        assert ckpt.preprocessing["mean"] == (0.5, 0.5, 0.5)
        assert ckpt.model_args["embed_dims"] == [8, 8, 16, 16]

    def test_weights_are_those_of_the_best_epoch(self, trained):
        best = torch.load(trained / "checkpoints" / "best.ckpt", weights_only=True)["state_dict"]
        ckpt = read_checkpoint(trained)
        assert {f"model.{k}" for k in ckpt.state_dict} == {k for k in best if k.startswith("model.")}
        assert all(torch.equal(v, best[f"model.{k}"]) for k, v in ckpt.state_dict.items())

    def test_config_repeats_the_run(self, van, trained):
        status, out, _ = van("train", "--config", trained / "config.yaml", "--output", "again", "--print-config")
        assert status == 0
        assert yaml.safe_load(out) == {**yaml.safe_load((trained / "config.yaml").read_text()), "output": "again"}

    def test_last_lines_say_accuracy_and_places(self, van, colours):
        status, out, _ = van("train", "--data", colours, *SMALL, "--epochs", "1")
        assert status == 0
        tail = out.splitlines()[-7:]
        assert "top-1" in tail[0]
        assert "weights.safetensors" in tail[1]
        assert "runs/van_b0-" in tail[1]

    def test_same_seed_same_run(self, van, colours, tmp_path):
        losses = []
        for seed in (1, 1, 2):
            assert van("train", "--data", colours, *SMALL, "--epochs", "1", "--seed", seed)[0] == 0
            run = max((tmp_path / "runs").iterdir(), key=lambda p: p.stat().st_mtime_ns)
            losses.append(epochs_of(run)[0]["train_loss"])
        assert losses[0] == losses[1] != losses[2]

    def test_folder_in_use_is_left_alone(self, van, colours, trained):
        before = sorted(p.stat().st_mtime_ns for p in trained.rglob("*"))
        status, _, err = van("train", "--data", colours, *SMALL, "--epochs", "1", "--output", trained)
        assert status == 1
        assert "not empty" in err
        assert "--resume" in err
        assert before == sorted(p.stat().st_mtime_ns for p in trained.rglob("*"))


class TestOptions:
    def test_digits_recipe_is_the_default(self, van):
        status, out, _ = van("train", "--print-config")
        options = yaml.safe_load(out)
        assert status == 0
        assert (options["data"], options["model"], options["image_size"]) == ("digits", "van_b0", [32, 32])
        assert options["augmentation"]["hflip"] == 0.0

    def test_options_win_over_the_recipe(self, van):
        _, out, _ = van("train", "--epochs", "3", "--optimization.weight_decay", "0.2", "--print-config")
        options = yaml.safe_load(out)
        assert options["epochs"] == 3
        assert options["optimization"]["weight_decay"] == 0.2
        assert options["image_size"] == [32, 32]

    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--epochz", "3"], ["--epochz"]),
            (["--precision", "fp8"], ["fp8", "bf16-mixed"]),
            (["--epochs", "many"], ["epochs", "many"]),
            (["--epochs", "0"], ["epochs is 0"]),
            (["--lr", "0"], ["lr is 0"]),
            (["--batch-size", "-4"], ["batch size -4"]),
            (["--val-fraction", "1.5"], ["1.5", "between 0 and 1"]),
            (["--image-size", "0", "32"], ["image_size"]),
            (["--model", "van_b9"], ["van_b9", "van_b0"]),
            (["--model-args.kernel", "3"], ["kernel", "van_b0"]),
            (["--model-args.kernel_size", "0"], ["kernel_size is 0"]),
            (["--model-args.in_chans", "5"], ["5 channels"]),
            (["--optimization.optimizer", "quux"], ["quux"]),
            (["--augmentation.auto_augment", "quux-m9"], ["quux-m9"]),
            (["--pretrained", "no.pth"], ["no.pth", "does not exist"]),
            (["--num-classes", "7"], ["num_classes is 7", "3 classes"]),
            (["--config", "no.yaml"], ["no.yaml", "classification/van_b0_digits.yaml"]),
            (["--resume", "nowhere"], ["nowhere", "cannot be resumed"]),
            (["--devices", "0"], ["--devices 0"]),
            (["--data", "nowhere"], ["nowhere does not exist"]),
        ],
    )
    def test_wrong_ones_are_one_sentence_and_write_nothing(self, van, colours, tmp_path, arguments, words):
        status, out, err = van("train", "--data", colours, *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert all(word in err for word in words), err
        assert out == ""
        assert list(tmp_path.iterdir()) == []

    def test_unknown_key_in_a_config_is_an_error(self, van, tmp_path):
        (tmp_path / "mine.yaml").write_text("epochs: 2\naugmentation:\n  flip: 1\n")
        status, _, err = van("train", "--config", "mine.yaml")
        assert status == 2
        assert "flip" in err

    def test_one_channel(self, van, colours, tmp_path):
        arguments = [*SMALL[:-1], SMALL[-1][:-1] + ', "in_chans": 1}']
        status, _, err = van("train", "--data", colours, *arguments, "--epochs", "1", "--output", "grey")
        assert status == 0, err
        assert read_checkpoint(tmp_path / "grey").in_chans == 1
        image = next((colours / "val" / "red").iterdir())
        assert package.Predictor(tmp_path / "grey")(image).classes[0] in ("blue", "green", "red")

    def test_recipe_of_the_paper_is_applied(self, van, colours, tmp_path):
        recipe = ["--config", "recipes/classification/van_b0_imagenet.yaml", "--data", colours, *SMALL]
        status, _, err = van("train", *recipe, "--num-classes", "3", "--epochs", "1", "--output", "run")
        assert status == 0, err
        options = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text())
        assert options["augmentation"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
        assert len(epochs_of(tmp_path / "run")) == 11  # with the ten epochs of cool-down


class TestFineTuning:
    def test_starts_from_the_weights_and_says_so(self, van, colours, trained, tmp_path):
        arguments = ["--data", colours, "--pretrained", trained, *SMALL[:7], "--lr", "1e-6", "--epochs", "1"]
        status, out, err = van("train", *arguments, "--output", "tuned")
        assert status == 0, err
        assert "Fine-tuning: starting from" in out
        assert "classifier is kept" in out
        assert json.loads((tmp_path / "tuned" / "evaluation.json").read_text())["top1"] >= 8 / 9

    def test_other_classes_get_a_new_classifier(self, van, trained, tmp_path):
        make_images(tmp_path / "two", 6, {"black": (0, 0, 0), "white": (255, 255, 255)})
        arguments = ["--data", "two", "--pretrained", trained, *SMALL[:9], "--epochs", "1", "--output", "tuned"]
        status, out, err = van("train", *arguments)
        assert status == 0, err
        assert "classifier is new (2 classes)" in out
        assert read_checkpoint(tmp_path / "tuned").class_names == ["black", "white"]

    def test_weights_of_another_variant_are_refused(self, van, colours, official_b0, tmp_path):
        torch.save({"state_dict": official_b0}, tmp_path / "b0.pth")
        status, _, err = van("train", "--data", colours, "--pretrained", "b0.pth", "--model", "van_b1")
        assert status == 1
        assert "van_b0" in err
        assert "b0.pth" in err


class TestInterruption:
    def test_resume_goes_on_where_the_run_stopped(self, van, colours, tmp_path):
        start = ["--data", colours, *SMALL, "--epochs", "2", "--output", "run"]
        assert van("train", *start)[0] == 0
        before = epochs_of(tmp_path / "run")
        status, out, err = van("train", "--resume", "run", "--epochs", "3", "--optimization.weight_decay", "0.3")
        assert status == 0, err
        assert "Continuing run" in out
        after = epochs_of(tmp_path / "run")
        assert [{k: float(v) for k, v in row.items()} for row in after[:2]] == [
            {k: float(v) for k, v in row.items()} for row in before
        ]
        assert float(after[2]["epoch"]) == 3
        last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 9
        assert max(group["weight_decay"] for group in last["optimizer_states"][0]["param_groups"]) == 0.3

    def test_resumed_run_equals_an_uninterrupted_one_in_its_schedule(self, van, colours, tmp_path):
        assert van("train", "--data", colours, *SMALL, "--epochs", "3", "--output", "whole")[0] == 0
        assert van("train", "--data", colours, *SMALL, "--epochs", "1", "--output", "part")[0] == 0
        assert van("train", "--resume", "part", "--epochs", "3")[0] == 0
        rates = [[row["lr"] for row in epochs_of(tmp_path / run)[1:]] for run in ("whole", "part")]
        assert rates[0] == rates[1]

    def test_moved_run_keeps_its_best_epoch(self, van, trained, tmp_path):
        shutil.copytree(trained, tmp_path / "moved")
        best = (tmp_path / "moved" / "checkpoints" / "best.ckpt").read_bytes()
        # at this rate every further epoch is worse than what was learned
        assert van("train", "--resume", "moved", "--epochs", "9", "--lr", "0.3", "--optimization.min_lr", "0.3")[0] == 0
        figures = [float(row["val_top1"]) for row in epochs_of(tmp_path / "moved")]
        assert figures[-1] < max(figures)
        assert (tmp_path / "moved" / "checkpoints" / "best.ckpt").read_bytes() == best

    def test_resume_takes_no_output(self, van, trained):
        status, _, err = van("train", "--resume", trained, "--output", "other")
        assert status == 1
        assert "--output" in err

    @pytest.mark.skipif(os.name == "nt", reason="sends a signal")
    def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(self, colours, tmp_path):
        command = [sys.executable, "-m", "van", "train", "--data", colours, *SMALL, "--epochs", "1000"]
        with subprocess.Popen(
            [*map(str, command), "--output", "run"],
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in jobs of some shells
        ) as process:
            deadline = time.monotonic() + 120
            while not (tmp_path / "run" / "checkpoints" / "last.ckpt").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 130
        assert "van train --resume run" in output
        assert "Traceback" not in output
        assert (tmp_path / "run" / "checkpoints" / "last.ckpt").exists()


class TestBadData:
    def test_broken_image_is_named_before_the_first_epoch(self, van, tmp_path):
        make_images(tmp_path / "data", 6)
        (tmp_path / "data" / "red" / "3.png").write_bytes(b"not an image")
        status, _, err = van("train", "--data", "data", *SMALL, "--epochs", "1", "--check-data", "--output", "run")
        assert status == 1
        assert "data/red/3.png" in err
        assert "Traceback" not in err
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_broken_image_in_training_is_named(self, van, tmp_path, workers):
        make_images(tmp_path / "data", 6)
        for image in (tmp_path / "data" / "red").iterdir():
            image.write_bytes(image.read_bytes()[:60])
        arguments = ["--data", "data", *SMALL, "--workers", workers, "--epochs", "1", "--output", "run"]
        status, _, err = van("train", *arguments)
        assert status == 1
        assert "data/red/" in err
        assert "Traceback" not in err

    def test_one_class(self, van, tmp_path):
        make_images(tmp_path / "data", 3, {"red": (255, 0, 0)})
        status, _, err = van("train", "--data", "data", *SMALL)
        assert status == 1
        assert "one class only (red)" in err

    def test_class_missing_in_validation_is_a_note(self, van, tmp_path):
        make_images(tmp_path / "data" / "train", 4)
        make_images(tmp_path / "data" / "val", 2, {"red": (255, 0, 0)})
        status, out, err = van("train", "--data", "data", *SMALL, "--epochs", "1", "--output", "run")
        assert status == 0, err
        assert "Note: The validation part has no image of 2 classes (blue, green)" in out
        rows = json.loads((tmp_path / "run" / "evaluation.json").read_text())["per_class"]
        assert rows[0]["recall"] is None

    def test_nan_loss_says_what_to_do(self, van, colours):
        status, _, err = van("train", "--data", colours, *SMALL, "--lr", "1e12", "--epochs", "30", "--output", "run")
        assert status == 1
        assert "The loss is nan" in err
        assert "--lr" in err
        assert "Traceback" not in err


def test_moving_average_is_what_is_saved(van, colours, tmp_path):
    arguments = ["--data", colours, *SMALL, "--epochs", "2", "--optimization.ema_decay", "0.5", "--output", "run"]
    status, _, err = van("train", *arguments)
    assert status == 0, err
    last = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    name = "model.head.fc.weight"
    current = last["current_model_state"][name]
    assert not torch.equal(last["state_dict"][name], current)
    assert van("train", "--resume", "run", "--epochs", "3")[0] == 0


@pytest.mark.slow
def test_digits_reach_98_percent(van, tmp_path):
    status, _, err = van("train", "--output", "digits")
    assert status == 0, err
    assert json.loads((tmp_path / "digits" / "evaluation.json").read_text())["top1"] >= 0.98
