import csv
import json

import pytest
import torch
from tests.cli.conftest import make_images

from van.models import read_checkpoint, write_checkpoint


def test_report(van, trained, colours, tmp_path):
    status, out, err = van("evaluate", "--weights", trained, "--data", colours, "--workers", "0", "--output", "result")
    assert status == 0, err
    report = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert report["top1"] == json.loads((trained / "evaluation.json").read_text())["top1"]
    assert f"9 images, top-1 {report['top1']:.2%}" in out
    assert all(f"\n{name}" in out for name in ("blue", "green", "red"))
    with (tmp_path / "result" / "per_class.csv").open() as file:
        assert [row["class"] for row in csv.DictReader(file)] == ["blue", "green", "red"]
    assert (tmp_path / "result" / "confusion_matrix.png").stat().st_size > 5000
    assert (tmp_path / "result" / "predictions.png").stat().st_size > 5000


def test_train_part_and_default_folder(van, trained, colours, tmp_path):
    for number in ("", "-2"):
        status, out, _ = van("evaluate", "--weights", trained, "--data", colours, "--split", "train")
        assert status == 0
        assert "24 images" in out
        assert (tmp_path / "runs" / f"evaluate-{colours.name}{number}" / "evaluation.json").exists()


def test_classes_are_compared_by_name_not_by_position(van, trained, tmp_path):
    make_images(tmp_path / "data", 4, {"red": (255, 30, 30), "blue": (20, 30, 230)})
    status, _, err = van("evaluate", "--weights", trained, "--data", "data", "--workers", "0", "--output", "result")
    assert status == 0, err
    report = json.loads((tmp_path / "result" / "evaluation.json").read_text())
    assert report["top1"] >= 0.75
    assert [row["images"] for row in report["per_class"]] == [4, 0, 4]


def test_weights_without_names_take_the_order_of_the_data(van, trained, colours, tmp_path):
    ckpt = read_checkpoint(trained)
    ckpt.class_names = None
    write_checkpoint(ckpt, tmp_path / "nameless.safetensors")
    status, out, err = van("evaluate", "--weights", "nameless.safetensors", "--data", colours, "--output", "result")
    assert status == 0, err
    assert "\ngreen" in out


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data", "digits"], ["10 classes of the data are unknown", "blue, green, red"]),
        (["--data", "nowhere"], ["nowhere does not exist"]),
        (["--split", "test"], ["no part 'test'", "train, val"]),
    ],
)
def test_errors_are_one_sentence_and_write_nothing(van, trained, colours, tmp_path, arguments, words):
    status, _, err = van("evaluate", "--weights", trained, "--data", colours, *arguments)
    assert status == 1
    assert all(word in err for word in words), err
    assert len(err.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_headless_weights(van, trained, colours, tmp_path):
    ckpt = read_checkpoint(trained)
    ckpt.state_dict = {k: v for k, v in ckpt.state_dict.items() if not k.startswith("head")}
    ckpt.num_classes, ckpt.class_names = 0, None
    write_checkpoint(ckpt, tmp_path / "backbone.safetensors")
    status, _, err = van("evaluate", "--weights", "backbone.safetensors", "--data", colours)
    assert status == 1
    assert "no classifier" in err


def test_imagenet_folders_are_known_by_their_wordnet_numbers(van, official_b0, tmp_path):
    torch.save({"state_dict": official_b0}, tmp_path / "b0.pth")
    make_images(tmp_path / "data", 1, {"n01440764": (9, 9, 9), "n01443537": (99, 9, 9)})
    arguments = ["--weights", "b0.pth", "--data", "data", "--workers", "0", "--output", "result"]
    status, out, err = van("evaluate", *arguments)
    assert status == 0, err
    assert "tench, Tinca tinca" in out
