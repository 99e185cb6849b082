"""Training classifiers: what is particular about it beside what every task promises."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
import yaml
from tests.tasks.classification.conftest import make_images

import van
from van.models import read_checkpoint


def epochs_of(folder):
    with (Path(folder) / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def report(folder):
    return json.loads((Path(folder) / "evaluation.json").read_text())


def configured(options, **changes):
    """Write options to a file, and return the arguments that train with them."""
    Path("own.yaml").write_text(yaml.safe_dump(options(**changes)))
    return ["train", "--config", "own.yaml", "--no-quiet"]


class TestRun:
    def test_model_has_learned(self, trained):
        content, rows = report(trained), epochs_of(trained)
        assert content["images"] == 9
        assert content["top1"] >= 8 / 9
        assert float(rows[-1]["train_loss"]) < float(rows[0]["train_loss"])
        assert max(float(row["val_top1"]) for row in rows) == pytest.approx(content["top1"], abs=1e-6)
        assert all((trained / f"{name}.png").is_file() for name in ("confusion_matrix", "predictions"))

    def test_weights_say_classes_and_preprocessing(self, trained):
        ckpt = read_checkpoint(trained)
        assert ckpt.class_names == ["blue", "green", "red"]
        assert tuple(ckpt.preprocessing["input_size"]) == (3, 32, 32)
        assert tuple(ckpt.preprocessing["mean"]) == (0.5, 0.5, 0.5)
        assert list(ckpt.model_args["embed_dims"]) == [8, 8, 16, 16]

    def test_other_seed_gives_another_run(self, options):
        one, other = (van.train(**options(output=f"run{seed}", seed=seed)) for seed in (1, 2))
        assert epochs_of(one.folder)[0]["train_loss"] != epochs_of(other.folder)[0]["train_loss"]

    def test_default_folder_is_named_after_model_and_data(self, options, colours):
        assert van.train(**options()).folder == Path("runs") / f"van_b0-{colours.name}"

    def test_one_channel(self, options, colours):
        args = options()["model_args"]
        run = van.train(**options(model_args={**args, "in_chans": 1}, output="grey"))
        assert read_checkpoint(run.folder).in_chans == 1
        result = run.predictor("cpu")(next((colours / "val" / "red").iterdir()))
        assert result.classes[0] in ("blue", "green", "red")
        assert result.image.mode == "RGB"
        measured = van.evaluate(run.folder, colours, workers=0, quiet=True)
        assert measured["top1"] == pytest.approx(run.metrics["top1"], abs=1e-5)

    def test_recipe_of_the_paper_is_applied(self, options):
        given = {k: v for k, v in options(output="run").items() if k != "task"}
        run = van.train(config="recipes/classification/van_b0_imagenet.yaml", num_classes=3, **given)
        written = yaml.safe_load((run.folder / "config.yaml").read_text())
        assert written["augmentation"]["auto_augment"] == "rand-m9-mstd0.5-inc1"
        assert len(epochs_of(run.folder)) == 11  # with the ten epochs of cool-down

    def test_preprocessing_is_that_of_the_options_and_stays_with_the_weights(self, options, colours):
        asked = {"crop_pct": 1.0, "crop_mode": "squash", "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
        run = van.train(**options(**asked, output="run"))
        kept = run.predictor("cpu").extra["preprocessing"]
        assert {**kept, "mean": list(kept["mean"]), "std": list(kept["std"])}.items() >= asked.items()
        assert kept["input_size"] == (3, 32, 32)
        measured = van.evaluate(run.folder, colours, workers=0, quiet=True)
        assert measured["top1"] == pytest.approx(run.metrics["top1"], abs=1e-5)
        tuned = van.train(**options(pretrained=str(run.folder), std=[0.5] * 3, model_args=None, output="tuned"))
        assert tuned.predictor("cpu").extra["preprocessing"] == {**kept, "std": (0.5,) * 3}

    def test_moving_average_is_what_is_saved(self, options):
        run = van.train(**options(epochs=2, optimization={"ema_decay": 0.5}, output="run"))
        last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        name = "model.head.fc.weight"
        assert not torch.equal(last["state_dict"][name], last["current_model_state"][name])
        assert van.train(resume=str(run.folder), epochs=3).finished

    @pytest.mark.slow
    def test_digits_reach_98_percent(self):
        assert van.train(output="digits").metrics["top1"] >= 0.98


class TestOptions:
    @pytest.mark.parametrize(
        ("arguments", "words"),
        [
            (["--val-fraction", "1.5"], ["1.5", "between 0 and 1"]),
            (["--image-size", "0", "32"], ["image_size"]),
            (["--image-size", "many", "32"], ["image-size", "many"]),
            (["--mean", "0.5", "0.5"], ["mean is [0.5, 0.5]", "3 channels"]),
            (["--std", "0.5", "0", "1"], ["std is [0.5, 0.0, 1.0]"]),
            (["--crop-mode", "middle"], ["crop-mode", "middle"]),
            (["--augmentation.erase_mixed", "true"], ["erase_mixed"]),
            (["--precision", "fp8"], ["fp8", "bf16-mixed"]),
            (["--precision", "16-mixed", "--device", "cpu"], ["16-mixed", "bf16-mixed"]),
            (["--model", "van_b9"], ["van_b9", "van_b0"]),
            (["--model-args.kernel", "3"], ["kernel", "van_b0"]),
            (["--model-args.kernel_size", "0"], ["kernel_size is 0"]),
            (["--model-args.in_chans", "5"], ["5 channels"]),
            (["--augmentation.auto_augment", "quux-m9"], ["quux-m9"]),
            (["--num-classes", "7"], ["num_classes is 7", "3 classes"]),
            (["--resume", "nowhere"], ["nowhere", "cannot be resumed"]),
            (["--devices", "0"], ["--devices 0"]),
        ],
    )
    def test_wrong_ones_are_one_sentence_and_write_nothing(self, cli, colours, arguments, words):
        status, out, err = cli("train", "--data", colours, "--quiet", *arguments)
        assert status in (1, 2)
        assert len(err.strip().splitlines()) == 1
        assert all(word in err for word in words), err
        assert out == ""
        assert list(Path().iterdir()) == []

    def test_unknown_key_in_a_file_is_an_error(self, cli):
        Path("mine.yaml").write_text("epochs: 2\naugmentation:\n  flip: 1\n")
        status, _, err = cli("train", "--config", "mine.yaml")
        assert status == 2
        assert "flip" in err


class TestFineTuning:
    def test_starts_from_the_weights_and_says_so(self, cli, options, trained):
        arguments = configured(options, pretrained=str(trained), lr=1e-6, model_args=None, output="tuned")
        status, out, err = cli(*arguments, "--optimization.min_lr", "0")
        assert status == 0, err
        assert "Fine-tuning" in out
        assert "kept" in out
        assert report("tuned")["top1"] >= 8 / 9

    def test_other_classes_get_a_new_classifier(self, cli, options, trained):
        make_images(Path("two"), 6, {"black": (0, 0, 0), "white": (255, 255, 255)})
        status, out, err = cli(
            *configured(options, data="two", pretrained=str(trained), model_args=None, output="tuned")
        )
        assert status == 0, err
        assert "new (2 classes)" in out
        assert read_checkpoint("tuned").class_names == ["black", "white"]

    def test_weights_of_another_variant_are_refused(self, cli, colours, official_b0):
        torch.save({"state_dict": official_b0}, "b0.pth")
        status, _, err = cli("train", "--data", colours, "--pretrained", "b0.pth", "--model", "van_b1")
        assert status == 1
        assert "van_b0" in err
        assert "b0.pth" in err
        assert not Path("runs").exists()


class TestInterruption:
    def test_resumed_run_keeps_its_steps_and_takes_new_options(self, options):
        run = van.train(**options(epochs=2, output="run"))
        before = epochs_of("run")
        van.train(resume="run", epochs=3, optimization={"weight_decay": 0.3})
        after = epochs_of("run")
        numbers = [[{key: float(value) for key, value in row.items()} for row in rows] for rows in (before, after[:2])]
        assert numbers[0] == numbers[1]
        assert [row["epoch"] for row in after] == ["1", "2", "3"]
        last = torch.load(run.folder / "checkpoints" / "last.ckpt", weights_only=True)
        assert last["global_step"] == 9
        assert max(group["weight_decay"] for group in last["optimizer_states"][0]["param_groups"]) == 0.3

    def test_resumed_run_equals_an_uninterrupted_one_in_its_schedule(self, options):
        van.train(**options(epochs=3, output="whole"))
        van.train(**options(epochs=1, output="part"))
        van.train(resume="part", epochs=3)
        rates = [[row["lr"] for row in epochs_of(run)[1:]] for run in ("whole", "part")]
        assert rates[0] == rates[1]

    def test_moved_run_keeps_its_best_epoch(self, trained):
        shutil.copytree(trained, "moved")
        best = Path("moved/checkpoints/best.ckpt").read_bytes()
        # at this rate every further epoch is worse than what was learned
        van.train(resume="moved", epochs=9, lr=0.3, optimization={"min_lr": 0.3})
        figures = [float(row["val_top1"]) for row in epochs_of("moved")]
        assert len(figures) == 9
        assert figures[-1] < max(figures)
        assert Path("moved/checkpoints/best.ckpt").read_bytes() == best

    def test_resume_takes_no_output(self, cli, trained):
        status, _, err = cli("train", "--resume", trained, "--output", "other")
        assert status == 1
        assert "--output" in err
        assert not Path("other").exists()

    @pytest.mark.skipif(os.name == "nt", reason="sends a signal")
    def test_ctrl_c_keeps_what_is_there_and_says_how_to_go_on(self, options):
        arguments = configured(options, epochs=1000, output="run")
        with subprocess.Popen(
            [sys.executable, "-m", "van", *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # ignored in jobs of some shells
        ) as process:
            deadline = time.monotonic() + 120
            while not Path("run/checkpoints/last.ckpt").exists() and time.monotonic() < deadline:
                time.sleep(0.2)
            process.send_signal(signal.SIGINT)
            try:
                output, _ = process.communicate(timeout=60)
            finally:
                process.kill()
        assert process.returncode == 130
        assert "van train --resume run" in output
        assert "Traceback" not in output
        assert Path("run/checkpoints/last.ckpt").exists()


class TestBadData:
    def test_broken_image_is_named_before_the_first_epoch(self, cli, options):
        make_images(Path("data"), 6)
        Path("data/red/3.png").write_bytes(b"not an image")
        status, _, err = cli(*configured(options, data="data", check_data=True, output="run"))
        assert status == 1
        assert "data/red/3.png" in err
        assert "Traceback" not in err
        assert not Path("run").exists()

    @pytest.mark.parametrize("workers", [0, 1])
    def test_broken_image_in_training_is_named(self, cli, options, workers):
        make_images(Path("data"), 6)
        for image in Path("data/red").iterdir():
            image.write_bytes(image.read_bytes()[:60])
        status, _, err = cli(*configured(options, data="data", workers=workers, output="run"))
        assert status == 1
        assert "data/red/" in err
        assert "Traceback" not in err

    @pytest.mark.parametrize("workers", [0, 2])
    def test_runs_that_skip_are_repeatable(self, options, workers):
        make_images(Path("data"), 8)
        for name in ("red/3.png", "blue/5.png"):
            Path("data", name).write_bytes(b"not an image")
        given = options(data="data", workers=workers, on_bad_image="skip", epochs=2)
        one, other = (epochs_of(van.train(**given, output=output).folder) for output in ("a", "b"))
        assert [row["train_loss"] for row in one] == [row["train_loss"] for row in other]

    @pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
    def test_a_loading_process_that_is_killed_is_one_sentence(self, cli, options, trained, monkeypatch):
        make_images(Path("data"), 6)
        monkeypatch.setattr("van.data.images._decode", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        weights = ("--weights", trained, "--workers", 1)
        for arguments in (
            configured(options, data="data", workers=1, output="run"),
            ["evaluate", *weights, "--data", "data"],
            ["predict", *weights, "data"],
        ):
            status, _, err = cli(*arguments)
            assert status == 1
            assert "A loading process was ended by the signal 'Killed'" in err
            assert "Traceback" not in err

    def test_one_class(self, cli, options):
        make_images(Path("data"), 3, {"red": (255, 0, 0)})
        status, _, err = cli(*configured(options, data="data"))
        assert status == 1
        assert "one class" in err
        assert "red" in err

    def test_class_missing_in_validation_is_a_note(self, cli, options):
        make_images(Path("data/train"), 4)
        make_images(Path("data/val"), 2, {"red": (255, 0, 0)})
        status, out, err = cli(*configured(options, data="data", output="run"))
        assert status == 0, err
        assert "Note: " in out
        assert "blue, green" in out
        assert report("run")["per_class"][0]["recall"] is None

    def test_nan_loss_says_what_to_do(self, cli, options):
        status, _, err = cli(*configured(options, lr=1e12, epochs=30, output="run"))
        assert status == 1
        assert "loss is nan" in err
        assert "--lr" in err
        assert "Traceback" not in err
