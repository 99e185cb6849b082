"""Where a run is logged besides its own tables."""

import csv
import json
import os
import re
import select
import subprocess
import sys

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import van
from van.engine import loggers
from van.errors import VanError

pytestmark = pytest.mark.usefixtures("coarse_plots")

MODEL = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
OPTIONS = {"data": "digits", "limit_batches": 2, "batch_size": 16, "workers": 0, "model_args": MODEL, "quiet": True}


@pytest.fixture(autouse=True)
def no_folder(monkeypatch):
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)


def steps(file):
    with file.open() as lines:
        return [int(row["step"]) for row in csv.DictReader(lines) if row["step_loss"]]


def test_several_together_and_a_continued_run(tmp_path):
    folder = tmp_path / "run"
    van.train(**OPTIONS, epochs=1, output=str(folder), logger=["tensorboard", "csv"])
    van.train(resume=str(folder), epochs=2)
    events = EventAccumulator(str(folder / "tensorboard"), {"images": 0}).Reload()
    assert [event.step for event in events.Scalars("step_loss")] == [2, 4]
    assert [event.step for event in events.Scalars("val_top1")] == [1, 3]
    assert {"curves", "confusion_matrix", "predictions"} <= set(events.Tags()["images"])
    assert [steps(folder / "csv" / f"version_{start}" / "metrics.csv") for start in (0, 1)] == [[2], [4]]
    assert not (folder / loggers.IDS).exists()


def test_none(tmp_path, capfd):
    folder = van.train(**{**OPTIONS, "quiet": False}, epochs=1, output=str(tmp_path / "run"), logger=[]).folder
    assert not [path for path in folder.iterdir() if path.name in ("tensorboard", "csv", "wandb", "mlflow")]
    assert "tensorboard" not in capfd.readouterr().out


def test_a_file_gets_a_line_per_epoch_and_verbose_tells_more(tmp_path, capfd):
    options = {**OPTIONS, "quiet": False, "epochs": 2}
    van.train(**options, output=str(tmp_path / "short"))
    short = capfd.readouterr()
    van.train(**options, output=str(tmp_path / "long"), verbose=True)
    long = capfd.readouterr()
    for text in (short, long):
        assert "\r" not in text.out + text.err
        assert [line.split(":")[0] for line in text.out.splitlines() if line.startswith("epoch")] == [
            "epoch 1/2",
            "epoch 2/2",
        ]
    assert "val_top5" in long.out
    assert "model.stages.0" in long.out
    assert "val_top5" not in short.out
    with pytest.raises(VanError, match="quiet and verbose"):
        van.train(**OPTIONS, output=str(tmp_path / "both"), verbose=True)


@pytest.mark.slow
def test_a_terminal_gets_a_bar_per_epoch(tmp_path):
    pty = pytest.importorskip("pty")
    config = tmp_path / "options.yaml"
    config.write_text(json.dumps({**OPTIONS, "quiet": False, "epochs": 2, "output": str(tmp_path / "run")}))
    reader, writer = pty.openpty()
    subprocess.run(["stty", "rows", "40", "cols", "160"], stdin=writer, check=True)
    with subprocess.Popen(
        [sys.executable, "-m", "van", "train", "--config", config], stdout=writer, stderr=subprocess.DEVNULL
    ) as process:
        os.close(writer)
        text = b""
        while process.poll() is None or select.select([reader], [], [], 0)[0]:
            try:
                text += os.read(reader, 65536)
            except OSError:  # the writing end is closed
                break
    os.close(reader)
    for number in (1, 2):
        assert re.search(
            rf"Epoch {number}/2: 100%[^\r]* 2/2 \[\S+<00:00[^\r]*loss=\S+, lr=\S+, [^\r]*val_top1=", text.decode()
        )
    assert "epoch 1/2:" not in text.decode()


@pytest.mark.parametrize(
    ("logger", "words"), [(["wandb"], "visual-attention-network[wandb]"), (["csv", "csv"], "csv twice")]
)
def test_what_cannot_be_logged_to_is_refused_before_anything_is_written(tmp_path, monkeypatch, logger, words):
    monkeypatch.setattr(loggers, "find_spec", lambda name: None)
    with pytest.raises(VanError) as caught:
        van.train(**OPTIONS, output=str(tmp_path / "run"), logger=logger)
    assert words in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_wandb_and_mlflow(tmp_path):
    """In processes of their own: both start threads and warn of what they themselves call."""
    pytest.importorskip("wandb")
    mlflow = pytest.importorskip("mlflow")
    folder = tmp_path / "run"
    config = tmp_path / "options.yaml"
    config.write_text(json.dumps({**OPTIONS, "epochs": 1, "logger": ["wandb", "mlflow"]}))
    names = ("WANDB_MODE", "MLFLOW_TRACKING_URI", "VAN_RUN_FOLDER")
    environment = {name: value for name, value in os.environ.items() if name not in names}
    for more in (["--config", config, "--output", folder], ["--resume", folder, "--epochs", 2]):
        command = [sys.executable, "-m", "van", "train", *map(str, more)]
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr.replace("van train: loading PyTorch and the data ...\n", "")) == (0, "")
    ids = json.loads((folder / loggers.IDS).read_text())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["options.yaml", "run"]
    runs = sorted((folder / "wandb").glob("offline-run-*"))
    assert [run.name.rpartition("-")[2] for run in runs] == [ids["wandb"]] * 2
    assert len(list(runs[0].glob("files/media/images/predictions_*.png"))) == 1
    client = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}")
    run = client.get_run(ids["mlflow"])
    assert (run.info.run_name, run.info.status) == ("run", "FINISHED")
    assert run.data.params["optimization.weight_decay"] == "0.05"
    assert [metric.step for metric in client.get_metric_history(ids["mlflow"], "val_top1")] == [1, 3]
    assert {item.path for item in client.list_artifacts(ids["mlflow"])} >= {"curves.png", "predictions.png"}
