import csv
import json
import shutil

import pytest
import yaml

import van.engine.fit as fit
from van.analysis import ablate
from van.engine.run import Run
from van.errors import VanError

ARGS = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
OPTIONS = {"image_size": [32, 32], "batch_size": 8, "workers": 0, "lr": 0.003, "epochs": 1, "model_args": ARGS}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    return tmp_path / "abl"


def measured(folder):
    with (folder / "ablation.csv").open() as file:
        return {row["row"]: row["top-1 measured"] for row in csv.DictReader(file)}


def test_rows_are_trained_one_after_another_and_can_be_resumed(colours, folder, monkeypatch, capsys):
    train, trained = fit.train, []

    def stops_at_the_second(task, options):
        trained.append(options.model_args["lka_variant"])
        return Run(folder, {}, finished=False) if len(trained) == 2 else train(task, options)

    monkeypatch.setattr(fit, "train", stops_at_the_second)
    options = {"table": 3, "rows": ["no_dw", "sigmoid"], "data": str(colours), **OPTIONS}
    report = ablate(**options, output=str(folder))
    assert not report.finished
    assert f"van ablate --resume {folder}" in report.text
    first = measured(folder)
    assert len(first) == 8
    assert [row for row, top1 in first.items() if top1 != "-"] == ["without DW-Conv"]
    capsys.readouterr()

    report = ablate(resume=str(folder), workers=0)
    assert report.finished
    assert trained == ["no_dw", "sigmoid", "sigmoid"]
    assert "already finished" in capsys.readouterr().out
    second = measured(folder)
    assert second["without DW-Conv"] == first["without DW-Conv"]
    assert 0 <= float(second["with a sigmoid"]) <= 100
    assert second["full"] == "-"
    assert [row["row"] for row in report.data if row["top1"] is not None] == ["no_dw", "sigmoid"]
    configs = [yaml.safe_load((folder / row / "config.yaml").read_text()) for row in ("no_dw", "sigmoid")]
    assert {c.pop("model_args")["lka_variant"] for c in configs} == {"no_dw", "sigmoid"}
    assert {**configs[0], "output": ""} == {**configs[1], "output": ""}  # equal budgets
    assert "table" not in configs[0]  # a row is a run of van train like any other
    assert not list(folder.rglob("*.ckpt"))
    assert (folder / "no_dw" / "weights.safetensors").is_file()
    assert {p.name for p in folder.glob("ablation.*")} == {f"ablation.{e}" for e in ("csv", "md", "png", "svg")}

    with pytest.raises(VanError, match="epochs cannot change"):
        ablate(**{**options, "epochs": 2}, resume=str(folder))


def test_folders_of_0_1_0_can_be_resumed(colours, folder, capsys):
    """They have fewer options, and some of other names."""
    old = {
        "table": 3,
        "rows": ["no_dw"],
        "task": "classification",
        "data": str(colours),
        "data_root": None,
        "model": "van_b0",
        "num_classes": None,
        "crop_pct": None,
        "val_fraction": 0.2,
        "precision": "32-true",
        "seed": 0,
        "output": None,
        "resume": None,
        **OPTIONS,
        "optimization": {"optimizer": "adamw", "weight_decay": 0.05, "schedule": "cosine", "ema_decay": None},
        "augmentation": {"hflip": 0.5, "mixup": 0.0},
    }
    folder.mkdir()
    (folder / "config.yaml").write_text(yaml.safe_dump(old))
    (folder / "no_dw").mkdir()
    (folder / "no_dw" / "config.yaml").write_text("data: x")  # stopped before its first checkpoint
    report = ablate(resume=str(folder), quiet=True)
    assert report.finished
    assert capsys.readouterr().out == ""
    assert json.loads((folder / "no_dw" / "evaluation.json").read_text())["images"] == 9


def test_command(van, colours, folder):
    arguments = ["--data", colours, "--table", 6, "--rows", "kernel_7_2", "--output", folder, "--epochs", 1, "--quiet"]
    arguments += ["--image-size", 32, 32, "--batch-size", 8, "--workers", 0, "--model-args", json.dumps(ARGS)]
    status, out, err = van("ablate", *arguments)
    assert (status, err) == (0, "")
    assert "K = 7, d = 2" in out
    shutil.rmtree(folder / "kernel_7_2")
    assert van("ablate", *arguments)[0] == 1  # the folder is in use


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": ["half"]}, "no row 'half'"),
        ({"model_args": {"lka_variant": "sum"}}, "lka_variant"),
        ({"table": 6, "model_args": {"kernel_size": 3}}, "kernel_size"),
        ({"pretrained": "hub"}, "pretrained"),
        ({"epochs": 0}, "epochs is 0"),
        ({"config": "detection/fcos_van_b0_shapes"}, "detection"),
        ({"tabel": 3}, "Did you mean table"),
    ],
)
def test_errors_come_before_anything_is_written(folder, options, words):
    with pytest.raises(VanError, match=words):
        ablate(**options, output=str(folder))
    assert not folder.exists()


def test_resume_needs_a_folder_of_an_ablation(folder):
    with pytest.raises(VanError, match=r"config\.yaml does not exist"):
        ablate(resume=str(folder))
