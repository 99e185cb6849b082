"""Saliency from data to pictures: what it does beyond the promises of all tasks."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from PIL import Image

import van
from van.data.augmentation import SaliencyAugmentation
from van.errors import VanError
from van.tasks.saliency.data import saliency_data
from van.tasks.saliency.options import SaliencyTrainOptions
from van.tasks.saliency.results import Saliency


def test_an_epoch_is_a_pass_at_each_size(data):
    augmentation = SaliencyAugmentation([(32, 32), (32, 48)])
    options = SaliencyTrainOptions(data=str(data["saliency"]), batch_size=4, workers=0, augmentation=augmentation)
    content = saliency_data(options, 1)
    batches = list(content.train_dataloader())
    assert len(batches) == content.steps(1) == 2 * (len(content.train) // 4)
    assert [tuple(images.shape) for images, _ in batches] == [(4, 3, 32, 32)] * 3 + [(4, 3, 32, 48)] * 3
    for images, masks in batches:
        assert masks.shape == (4, *images.shape[-2:])
        assert masks.dtype == torch.float32
        assert set(masks.unique().tolist()) <= {0.0, 1.0}
    assert content.notes == ["an epoch is 2 passes over the images, at 32 x 32 and 32 x 48 pixels."]


def test_run_of_the_network_before(options_of):
    model = {"backbone_args": {**options_of("saliency")["model"]["backbone_args"]}}
    model["arguments"] = {"channels": 8, "global_channels": 8}
    old = {"model": model, "augmentation": {"size": [48, 48], "margin": 4}}
    Path("old.yaml").write_text(yaml.safe_dump({**options_of("saliency", epochs=1, output="old"), **old}))
    van.train(config="old.yaml")
    run = van.train(resume="old", epochs=2, quiet=True)
    assert run.predictor().model.options.architecture == "edn_legacy"
    with pytest.raises(VanError, match="old is edn_legacy with van_b0, not edn"):
        van.train(**options_of("saliency", pretrained="old", output="new"))


def test_values_from_0_to_1_everywhere(cli, run_of, data):
    folder = run_of("saliency").folder
    with (folder / "metrics.csv").open() as file:
        row = next(csv.DictReader(file))
    assert {"val_max_F", "val_S", "val_MAE"} <= set(row)
    options = ["--weights", folder, "--data", data["saliency"], "--workers", "0", "--output", "m"]
    status, out, err = cli("evaluate", *options)
    assert status == 0, err
    values = json.loads(Path("m/evaluation.json").read_text())
    assert f"MAE {values['MAE']:.4g}" in out
    assert "%" not in out
    assert len(values["curves"]["F"]) == 256


def test_maps_lie_between_0_and_1(run_of):
    predictor = van.load(run_of("saliency").folder)
    assert tuple(predictor.inference.image_size) == (48, 48)
    result = predictor(np.zeros((50, 20, 3), np.uint8))
    assert result.saliency.shape == (50, 20)
    assert result.saliency.dtype == np.float32
    assert 0 <= result.saliency.min() <= result.saliency.max() <= 1


def test_results_as_table(cli, run_of):
    Image.new("RGB", (20, 30)).save("a.png")
    status, _, err = cli("predict", "a.png", "--weights", run_of("saliency").folder, "--output", "out.csv")
    assert status == 0, err
    with Path("out.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert row["image"] == "a.png"
    assert 0 <= float(row["salient"]) <= 1


def test_result(tmp_path):
    saliency = np.array([[0.0, 0.2, 0.9, 1.0]], np.float32)
    result = Saliency(class_names=["salient"], size=(1, 4), saliency=saliency, image=Image.new("RGB", (4, 1)))
    assert result.summary() == "50.0 % salient"
    assert result.save(tmp_path, "one") == {"picture": "one.jpg", "map": "one.png"}
    with Image.open(tmp_path / "one.png") as image:
        assert np.asarray(image).tolist() == [[0, 51, 230, 255]]
