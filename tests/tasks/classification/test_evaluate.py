"""`van evaluate` on classifiers: classes, splits, and weights of other projects."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tests.tasks.classification.conftest import make_images

import van
from van.models import read_checkpoint, write_checkpoint


def report(folder):
    return json.loads((Path(folder) / "evaluation.json").read_text())


def measure(cli, weights, data, *more):
    """Run van evaluate; gives its output and what it wrote."""
    status, out, err = cli("evaluate", "--weights", weights, "--data", data, "--output", "result", *more)
    assert status == 0, err
    return out, report("result")


def test_files(cli, trained, colours):
    out, content = measure(cli, trained, colours)
    assert content["images"] == 9
    assert content["top1"] == report(trained)["top1"]
    assert all(f"\n{name}" in out for name in ("blue", "green", "red"))
    with Path("result/per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["blue", "green", "red"]
    for name in ("confusion_matrix.png", "predictions.png"):
        assert (Path("result") / name).stat().st_size > 1000


def test_train_split_and_default_folder(cli, trained, colours):
    for number in ("", "-2"):
        status, out, _ = cli("evaluate", "--weights", trained, "--data", colours, "--split", "train")
        assert status == 0
        assert "24 images" in out
        assert (Path("runs") / f"evaluate-{colours.name}{number}" / "evaluation.json").exists()


def test_classes_are_compared_by_name_not_by_position(cli, trained):
    make_images(Path("data"), 4, {"red": (255, 30, 30), "blue": (20, 30, 230)})
    _, content = measure(cli, trained, "data")
    assert content["top1"] >= 0.75
    assert [row["images"] for row in content["per_class"]] == [4, 0, 4]


def test_weights_without_names_take_the_order_of_the_data(cli, trained, colours):
    ckpt = read_checkpoint(trained)
    ckpt.class_names = None
    write_checkpoint(ckpt, "nameless.safetensors")
    out, content = measure(cli, "nameless.safetensors", colours)
    assert "\ngreen" in out
    assert content["top1"] == report(trained)["top1"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digits"], ["10 classes", "blue, green, red"]),
        (["--data", "nowhere"], ["nowhere"]),
        (["--split", "all"], ["no split 'all'", "train, val"]),
        (["--split", "test"], ["test", "train"]),
    ],
)
def test_errors_are_one_sentence_and_write_nothing(cli, trained, colours, arguments, words):
    status, _, err = cli("evaluate", "--weights", trained, "--data", colours, "--quiet", *arguments)
    assert status in (1, 2)
    assert all(word in err for word in words), err
    assert len(err.strip().splitlines()) == 1
    assert list(Path().iterdir()) == []


def test_headless_weights(cli, trained, colours):
    ckpt = read_checkpoint(trained)
    ckpt.state_dict = {k: v for k, v in ckpt.state_dict.items() if not k.startswith("head")}
    ckpt.num_classes, ckpt.class_names = 0, None
    write_checkpoint(ckpt, "backbone.safetensors")
    status, _, err = cli("evaluate", "--weights", "backbone.safetensors", "--data", colours)
    assert status == 1
    assert "no classifier" in err


def test_imagenet_folders_are_known_by_their_wordnet_numbers(cli, official_b0):
    torch.save({"state_dict": official_b0}, "b0.pth")
    make_images(Path("data"), 1, {"n01440764": (9, 9, 9), "n01443537": (99, 9, 9)})
    out, _ = measure(cli, "b0.pth", "data", "--workers", "0")
    assert "tench, Tinca tinca" in out


def test_the_split_of_training_is_remembered(cli, options):
    make_images(Path("data"), 10)
    run = van.train(**options(data="data", output="run", val_fraction=0.2, seed=3))
    out, content = measure(cli, run.folder, "data")
    assert content["images"] == 6
    assert content["top1"] == pytest.approx(run.metrics["top1"], abs=1e-5)
    assert "6 were held out" in out
    status, out, _ = cli("evaluate", "--weights", run.folder, "--data", "data", "--split", "all")
    assert status == 0
    assert "30 images" in out
    (Path("data") / "red" / "0.png").unlink()
    status, out, _ = cli("evaluate", "--weights", run.folder, "--data", "data")
    assert status == 0
    assert "29 images" in out
    assert "may have been trained on" in out


class TestCalibrate:
    def test_the_copy_keeps_the_temperature(self, cli, trained, colours):
        out, before = measure(cli, trained, colours, "--split", "train", "--calibrate")
        assert "ECE" in out
        assert "temperature" in out
        assert Path("result/reliability_calibrated.png").stat().st_size > 1000
        assert before["NLL_calibrated"] <= before["NLL"] + 1e-6
        copy = Path("result/weights.safetensors")
        assert "temperature" not in json.dumps(van.load(trained).header.to_dict())
        predictor = van.load(copy)
        assert predictor.inference.temperature == pytest.approx(before["temperature"], abs=1e-6)
        status, _, err = cli(
            *("evaluate", "--weights", copy, "--data", colours, "--split", "train", "--output", "again")
        )
        assert status == 0, err
        after = report("again")
        assert after["ECE"] == pytest.approx(before["ECE_calibrated"], abs=1e-5)
        assert after["top1"] == before["top1"]

    def test_prediction_and_exported_probabilities_use_it(self, trained, colours):
        image = next((colours / "val").rglob("*.png"))
        plain, soft = (van.load(trained, temperature=t)(str(image)) for t in (1.0, 4.0))
        logits = np.log(plain.probabilities)
        expected = np.exp(logits / 4) / np.exp(logits / 4).sum()
        assert np.allclose(soft.probabilities, expected, atol=1e-5)
        assert soft.classes == plain.classes
        predictor = van.load(trained, temperature=4.0)
        graph = predictor.task.graph(predictor, False, True)
        item = predictor.task.prepare(predictor)(Image.open(image).convert("RGB"))
        exported = graph(item[None])[0][0].detach().numpy()
        assert np.allclose(np.sort(exported)[::-1], expected, atol=1e-4)

    @pytest.mark.parametrize(
        ("arguments", "words"), [(["--temperature", "0"], "temperature is 0.0, expected a number above 0")]
    )
    def test_wrong_options(self, cli, trained, colours, arguments, words):
        status, _, err = cli("evaluate", "--weights", trained, "--data", colours, *arguments)
        assert status != 0
        assert words in err
