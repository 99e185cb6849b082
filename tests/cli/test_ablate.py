import csv

import pytest
import yaml

from van.cli.ablate import ablate
from van.errors import VanError

ARGS = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
OPTIONS = {"image_size": (32, 32), "batch_size": 8, "workers": 0, "lr": 0.003, "epochs": 1, "model_args": ARGS}


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    return tmp_path / "abl"


def measured(folder):
    with (folder / "ablation.csv").open() as file:
        return {row["row"]: row["top-1 measured"] for row in csv.DictReader(file)}


def test_rows_are_trained_one_after_another_and_the_run_goes_on(colours, folder, monkeypatch, capsys):
    import van.cli.train.classification as classification

    train, trained = classification.train, []

    def stops_at_the_second(**options):
        trained.append(options["model_args"]["lka_variant"])
        return 130 if len(trained) == 2 else train(**options)

    monkeypatch.setattr(classification, "train", stops_at_the_second)
    options = {"table": 3, "rows": ["no_dw", "sigmoid"], "data": str(colours), **OPTIONS}
    assert ablate(**options, output=str(folder)) == 130
    assert f"van ablate --resume {folder}" in capsys.readouterr().out
    first = measured(folder)
    assert len(first) == 8
    assert [row for row, top1 in first.items() if top1 != "-"] == ["without DW-Conv"]

    assert ablate(**options, resume=str(folder)) == 0
    assert trained == ["no_dw", "sigmoid", "sigmoid"]
    assert "finished before" in capsys.readouterr().out
    second = measured(folder)
    assert second["without DW-Conv"] == first["without DW-Conv"]
    assert 0 <= float(second["with a sigmoid"]) <= 100
    assert second["full"] == "-"
    configs = [yaml.safe_load((folder / row / "config.yaml").read_text()) for row in ("no_dw", "sigmoid")]
    assert {c.pop("model_args")["lka_variant"] for c in configs} == {"no_dw", "sigmoid"}
    assert {**configs[0], "output": ""} == {**configs[1], "output": ""}  # equal budgets
    assert not list(folder.rglob("*.ckpt"))
    assert (folder / "no_dw" / "weights.safetensors").is_file()
    assert {p.name for p in folder.glob("ablation.*")} == {f"ablation.{e}" for e in ("csv", "md", "png", "svg")}

    with pytest.raises(VanError, match="epochs cannot change"):
        ablate(**{**options, "epochs": 2}, resume=str(folder))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"rows": ["half"]}, "no row 'half'"),
        ({"model_args": {"lka_variant": "sum"}}, "lka_variant"),
        ({"table": 6, "model_args": {"kernel_size": 3}}, "kernel_size"),
    ],
)
def test_errors_come_before_anything_is_written(folder, options, words):
    with pytest.raises(VanError, match=words):
        ablate(**options, output=str(folder))
    assert not folder.exists()
