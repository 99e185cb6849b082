import subprocess
import sys
import tempfile

import pytest
import torch

from van.engine.callbacks import AtomicCheckpointIO
from van.engine.metric import Metric
from van.engine.run import best_epoch, check_output, describe_epochs, never_moved, new_folder, read_epochs
from van.errors import VanError

AP = Metric("AP", "box AP")
MAE = Metric("MAE", "MAE", "", higher_is_better=False)

FULL_DISK = """
import resource, signal, sys, torch
from van.engine.callbacks import AtomicCheckpointIO
from van.errors import VanError
io = AtomicCheckpointIO()
io.save_checkpoint({"epoch": 1}, sys.argv[1])
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    io.save_checkpoint({"epoch": 2, "weights": torch.zeros(1_000_000)}, sys.argv[1])
except VanError as error:
    print(error)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="limits the size of files by a Unix call")
def test_checkpoint_that_does_not_fit_on_the_disk_leaves_the_old_one(tmp_path):
    path = tmp_path / "last.ckpt"
    result = subprocess.run([sys.executable, "-c", FULL_DISK, path], capture_output=True, text=True, check=True)
    assert "last.ckpt cannot be written" in result.stdout
    assert torch.load(path, weights_only=True) == {"epoch": 1}
    assert list(tmp_path.iterdir()) == [path]


def test_checkpoints_do_not_travel_through_the_folder_of_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    AtomicCheckpointIO().save_checkpoint({"epoch": 1}, tmp_path / "last.ckpt")
    AtomicCheckpointIO().save_checkpoint({"epoch": 2}, tmp_path / "last.ckpt")
    kept = {path.name: torch.load(path, weights_only=True)["epoch"] for path in tmp_path.iterdir()}
    assert kept == {"last.ckpt": 2, "previous.ckpt": 1}


def test_folders_are_numbered(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    assert [str(new_folder(None, "model-data")) for _ in range(3)] == [
        "runs/model-data",
        "runs/model-data-2",
        "runs/model-data-3",
    ]


def test_file_in_the_way(tmp_path, monkeypatch):
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    (tmp_path / "out").write_text("precious")
    with pytest.raises(VanError, match="not empty"):
        new_folder(str(tmp_path / "out"), "x")
    assert (tmp_path / "out").read_text() == "precious"


@pytest.mark.parametrize(
    ("files", "hint"),
    [
        (("answers.json",), r"--output\.$"),
        (("config.yaml", "checkpoints"), "van train --resume"),
        (("config.yaml", "full"), "van ablate --resume"),
    ],
)
def test_folder_in_use_says_how_to_continue_only_where_that_is_possible(tmp_path, files, hint):
    for name in files:
        (tmp_path / name).touch() if "." in name else (tmp_path / name).mkdir()
    with pytest.raises(VanError, match=hint):
        check_output(str(tmp_path))


@pytest.mark.parametrize(
    ("metric", "values", "best"),
    [
        (AP, [0.1, 0.3, 0.2], 2),
        (AP, [0.3, 0.3, 0.2], 2),  # of equal ones the later
        (AP, [0.0, 0.0, 0.0], 3),
        (MAE, [0.1, 0.3, 0.2], 1),
        (MAE, [0.1, 0.1, 0.2], 2),
    ],
)
def test_best_epoch_follows_the_metric_s_direction(metric, values, best):
    rows = [{"epoch": float(i), f"val_{metric.key}": value} for i, value in enumerate(values, 1)]
    assert best_epoch(rows, metric)["epoch"] == best


def test_metric_that_never_left_zero():
    assert never_moved([{"val_AP": 0.0}, {"val_AP": -1.0}], AP)
    assert not never_moved([{"val_AP": 0.0}, {"val_AP": 0.01}], AP)
    assert not never_moved([{"val_MAE": 0.0}], MAE)


def test_metrics_files_of_older_pose_runs_have_today_s_names(tmp_path):
    (tmp_path / "metrics.csv").write_text("epoch,val_ap,val_ap50\n1,0.5,\n")
    assert read_epochs(tmp_path / "metrics.csv") == [{"epoch": 1.0, "val_AP": 0.5}]


def test_interrupted_run_says_how_to_continue(tmp_path):
    assert "no checkpoint" in describe_epochs(tmp_path, AP)
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    assert "No epoch" in describe_epochs(tmp_path, AP)
    (tmp_path / "metrics.csv").write_text("epoch,val_AP\n1,0.25\n2,0.5\n")
    text = describe_epochs(tmp_path, AP)
    assert "2 epochs" in text
    assert "50.00 %" in text
    assert f"--resume {tmp_path}" in text


@pytest.mark.parametrize(
    ("metric", "value", "text"),
    [(AP, 0.1234, "12.34 %"), (AP, -1, "-"), (AP, None, "-"), (AP, float("nan"), "-"), (MAE, 0.123456, "0.1235")],
)
def test_metrics_know_how_people_read_them(metric, value, text):
    assert metric.text(value) == text
