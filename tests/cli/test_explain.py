import csv

import numpy as np
import pytest
from PIL import Image

from van.analysis import explain, receptive_field
from van.errors import VanError


@pytest.fixture
def photo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save("photo.png")
    return "photo.png"


def test_weights_next_to_another_network(trained, photo, tmp_path):
    report = explain([photo], models=[str(trained), "resnet10t"], layers=["stages.1", "layer2"], pretrained=False,
                     image_size=(32, 64), output="out")  # fmt: skip
    assert f"{photo}: {trained.name}, stages.1: predicted" in report.text
    assert f"{photo}: resnet10t, layer2: predicted" in report.text
    assert [(row["image"], row["model"], row["layer"]) for row in report.data] == [
        (photo, trained.name, "stages.1"),
        (photo, "resnet10t", "layer2"),
    ]
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(
        f"{name}.{end}" for name in ("gradcam", f"attention-{trained.name}") for end in ("png", "svg")
    )


def test_layers_of_one_model_side_by_side(trained, photo, tmp_path):
    out = explain([photo], models=[str(trained)] * 2, layers=["stages.0", "stages.1"], output="out").text
    assert f"{trained.name}, stages.0" in out
    assert f"{trained.name} (2), stages.1" in out
    assert len(list((tmp_path / "out").glob("attention-*.png"))) == 1
    assert "stages.1" in (tmp_path / "out" / "gradcam.svg").read_text()


def test_classes_by_name_and_number(trained, photo, tmp_path):
    report = explain([photo], models=[str(trained)], classes=["red", "0"], attention=False)
    assert f"{trained.name}: red" in report.text
    assert f"{trained.name}: blue" in report.text
    assert [row["class"] for row in report.data] == ["red", "blue"]
    assert 0 <= report.data[0]["probability"] <= report.data[0]["predicted_probability"] <= 1
    assert len(list((tmp_path / "runs" / "explain").iterdir())) == 2


def test_classes_of_imagenet_by_one_of_their_names(photo):
    options = {"models": ["resnet10t"], "pretrained": False, "image_size": (32, 32)}
    out = explain([photo], classes=["tench", "Tinca tinca"], **options).text
    assert "resnet10t: tench, layer4" in out
    assert "resnet10t: tench (2), layer4" in out
    with pytest.raises(VanError, match=r"several classes 'crane'\. Give one of .* 134, 517"):
        explain([photo], classes=["crane"], **options)


def test_without_a_network_the_error_says_how_to_get_random_weights(photo, monkeypatch):
    import timm

    def no_network(*_, **__):
        raise OSError("many words of the hub")

    monkeypatch.setattr(timm, "create_model", no_network)
    with pytest.raises(VanError, match=r"weights of resnet10t are not available \(OSError\).*--no-pretrained"):
        explain([photo], models=["resnet10t"])


def test_weights_of_another_task(photo, tmp_path):
    import torch

    from van.models.weight_file import Header, write_weights

    weights = write_weights(Header("semantic", [], {}, {}), {"a": torch.zeros(1)}, tmp_path / "w.safetensors")
    with pytest.raises(VanError, match="trained for semantic"):
        explain([photo], models=[str(weights)])


def test_many_images_are_several_sheets(trained, colours, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    explain([str(colours / "val")], models=[str(trained)], attention=False, output="out")
    assert {p.name for p in (tmp_path / "out").glob("*.png")} == {"gradcam-1.png", "gradcam-2.png"}


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"classes": ["3"]}, ["Class 3 is out of range", "3 classes, 0 to 2"]),
        ({"classes": ["rde"]}, ["no class 'rde'", "red"]),
        ({"layers": ["stages.9"]}, ["no layer 'stages.9'", "stages.0"]),
        ({"layers": ["a", "b"]}, ["2 layers", "1 model"]),
        ({"image_size": (16, 64)}, ["16 x 64", "stride 32"]),
        ({"image_size": (0, 64)}, ["image_size"]),
        ({"block": 5}, ["Block 5"]),
        ({"models": ["van_b00"]}, ["van_b00", "van_b0"]),
        ({"device": "sky"}, ["'sky'"]),
    ],
)
def test_errors_come_before_anything_is_written(trained, photo, tmp_path, options, words):
    with pytest.raises(VanError) as error:
        explain([photo], **{"models": [str(trained)], "output": "out", **options})
    assert all(word in str(error.value) for word in words), str(error.value)
    assert not (tmp_path / "out").exists()


def test_receptive_field_numbers_and_figure(trained, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    report = receptive_field([str(trained), "resnet10t"], count=2, image_size=(64, 64), pretrained=False, output="out")
    out = report.text
    assert "resnet10t, random weights" in out
    with (tmp_path / "out" / "receptive_field.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["trained"] for row in rows] == ["True", "False"]
    assert rows[0]["images"] == "2"
    assert rows[0]["theoretical_side"] in out
    ratios = [float(rows[0][f"area_ratio_{share}"]) for share in (20, 30, 50, 99)]
    assert ratios == sorted(ratios)
    assert ratios[0] > 0
    assert ratios[-1] <= 1
    assert (tmp_path / "out" / "receptive_field.png").stat().st_size > 10_000
    assert (tmp_path / "out" / "receptive_field.svg").is_file()


def test_receptive_field_of_own_images(trained, photo):
    report = receptive_field([str(trained)], images=[photo], image_size=(32, 64), layer="stages.1", output="out")
    assert [row["images"] for row in report.data] == [1]
    assert report.data[0]["theoretical_side"] is None


def test_receptive_field_as_typed(van, tmp_path):
    options = ["--no-pretrained", "--count", 3, "--max-seconds", 1e-3, "--output", "out"]
    status, out, err = van("receptive-field", "resnet10t", "--image-size", 32, 64, *options)
    assert status == 0, err
    assert "stopped after 1 of 3 images" in out
    assert "% of 32 x 64 pixels" in out
    status, _, err = van("receptive-field", "resnet10t", "--image-size", 16, 64, "--no-pretrained")
    assert status == 1
    assert "smaller than the stride 32" in err


@pytest.mark.parametrize(
    ("options", "word"),
    [
        ({"count": 0}, "count is 0"),
        ({"image_size": (16, 16)}, "stride 32"),
        ({"layer": "nose"}, "nose"),
        ({"models": ["resnet10t", "resnet10t"]}, "given twice"),
    ],
)
def test_receptive_field_errors(tmp_path, monkeypatch, options, word):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VanError, match=word):
        receptive_field(**{"models": ["van_b0"], "pretrained": False, "image_size": (32, 32), "output": "o", **options})
    assert not (tmp_path / "o").exists()
