"""Runs that were stopped, killed or damaged, and go on."""

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
from safetensors.torch import load_file

import van
from van.data.shapes import make_shapes
from van.engine.run import compare, locked, resumable
from van.errors import VanError

pytestmark = pytest.mark.usefixtures("coarse_plots")

MODEL = {"embed_dims": [8, 16, 24, 32], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2], "drop_path_rate": 0.1}
# what is random in training: order, augmentation, mixup, drop path; and an average of the weights
OPTIONS = {
    "data": "digits",
    "epochs": 2,
    "batch_size": 64,
    "workers": 0,
    "model_args": MODEL,
    "augmentation": {"mixup": 0.2},
    "optimization": {"ema_decay": 0.99},
}


@pytest.fixture(autouse=True)
def same_number_of_threads(monkeypatch):
    """Sums in another order are rounded differently."""
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reference")
    return van.train(config=write_options(folder), output=str(folder / "run"), quiet=True).folder


def write_options(folder, **more):
    config = folder / "options.yaml"
    config.write_text(json.dumps({**OPTIONS, **more}))
    return config


def command(*arguments):
    return [sys.executable, "-W", "error::RuntimeWarning", "-m", "van", "train", "--quiet", *map(str, arguments)]


def start(folder, workers=0):
    config = write_options(folder.parent, workers=workers, checkpoint_minutes=0)
    return command("--config", config, "--output", folder)


def step(folder):
    path = folder / "checkpoints" / "last.ckpt"
    return torch.load(path, weights_only=True)["global_step"] if path.is_file() else 0


def run_until(arguments, folder, stop, at_least=1, wait=60.0):
    """Start a command, send it a signal after so many more steps, and return its exit status and errors."""
    path, before = folder / "checkpoints" / "last.ckpt", 0
    before = path.stat().st_mtime_ns if path.is_file() else 0
    process = subprocess.Popen(arguments, stderr=subprocess.PIPE, text=True, start_new_session=True)
    ends, seen = time.monotonic() + wait, 0
    while seen < at_least and process.poll() is None and time.monotonic() < ends:
        time.sleep(0.01)
        now = path.stat().st_mtime_ns if path.is_file() else before
        seen, before = seen + (now != before), now
    os.killpg(process.pid, stop)
    _, errors = process.communicate()
    return process.returncode, errors


def same_weights(one, other):
    one, other = (load_file(folder / "weights.safetensors") for folder in (one, other))
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


def rows(folder):
    """Return the table of epochs without the times."""
    return [line.rpartition(",")[0] for line in (folder / "metrics.csv").read_text().splitlines()]


def test_a_killed_run_goes_on_inside_the_epoch(tmp_path, reference):
    folder = tmp_path / "run"
    status, _ = run_until(start(folder), folder, signal.SIGKILL, at_least=3)
    assert status == -signal.SIGKILL
    done = step(folder)
    assert done % 22  # inside an epoch
    status, _ = run_until(command("--resume", folder), folder, signal.SIGKILL, at_least=2)
    assert step(folder) > done
    assert not rows(folder)[22 // max(done, 22) + 1 :]
    run = van.train(resume=str(folder), workers=2, quiet=True)  # with loading processes, too
    assert run.finished
    assert same_weights(run.folder, reference)
    assert rows(run.folder) == rows(reference)


@pytest.mark.parametrize(
    ("stop", "workers"),
    [
        (signal.SIGTERM, 1),
        (signal.SIGINT, 1),
        pytest.param(signal.SIGHUP, 0, marks=pytest.mark.slow),
        pytest.param(signal.SIGINT, 0, marks=pytest.mark.slow),
    ],
)
def test_signals_save(tmp_path, stop, workers, reference):
    """They go to the whole group, loading processes included."""
    folder = tmp_path / "run"
    config = write_options(tmp_path, workers=workers)  # a checkpoint only where the signal comes, or the epoch ends
    process = subprocess.Popen(
        command("--config", config, "--output", folder), stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (folder / "run.json").is_file() and process.poll() is None:
        time.sleep(0.01)
    os.killpg(process.pid, stop)
    _, errors = process.communicate()
    assert "Stopping after this step" in errors
    assert "Traceback" not in errors
    assert 0 < step(folder) < 44
    if stop == signal.SIGTERM:
        assert same_weights(van.train(resume=str(folder), quiet=True).folder, reference)


FCOS = {
    "task": "detection",
    "model": {
        "architecture": "fcos",
        "backbone_args": {key: MODEL[key] for key in ("embed_dims", "depths", "mlp_ratios")},
        "min_size": [48],
        "max_size": 64,
        "pyramid_channels": 8,
    },
    "epochs": 90,  # long enough for twenty kills
    "batch_size": 4,
    "lr": 0.003,
}


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.parametrize(("own", "workers"), [({**OPTIONS, "epochs": 6}, 0), ({**OPTIONS, "epochs": 6}, 2), (FCOS, 0)])
def test_twenty_kills(tmp_path, own, workers):
    if own is FCOS:
        make_shapes(tmp_path / "shapes", 60, 48)
        own = {**own, "data": str(tmp_path / "shapes")}
    config = tmp_path / "options.yaml"
    config.write_text(json.dumps({**own, "workers": workers, "checkpoint_minutes": 0}))
    whole = van.train(config=config, output=str(tmp_path / "whole"), quiet=True)
    folder, kills = tmp_path / "run", 0
    arguments = command("--config", config, "--output", folder)
    while kills < 20:
        status, errors = run_until(arguments, folder, signal.SIGKILL, at_least=1 + kills % 4)
        assert status == -signal.SIGKILL, errors
        kills += 1
        if step(folder):
            arguments = command("--resume", folder)
        else:
            shutil.rmtree(folder, ignore_errors=True)
    done = step(folder)
    run = van.train(resume=str(folder), quiet=True)
    assert 20 <= done < torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["global_step"]
    assert same_weights(run.folder, whole.folder)
    assert rows(run.folder) == rows(whole.folder)


# ------------------------------------------------------------------------------------------------ damage


@pytest.fixture
def finished(tmp_path, reference):
    return Path(shutil.copytree(reference, tmp_path / "finished"))


def damaged(path, how):
    content = bytearray(path.read_bytes())
    if how == "bit":
        content[len(content) // 2] ^= 1
    path.write_bytes(b"" if how == "empty" else content[: len(content) // 3] if how == "short" else content)


@pytest.mark.parametrize("how", ["bit", "short", "empty"])
def test_the_checkpoint_before_a_damaged_one_is_taken(finished, how):
    last = finished / "checkpoints" / "last.ckpt"
    damaged(last, how)
    path, notes = resumable(finished)
    assert path.name == "previous.ckpt"
    assert str(last) in notes[0]
    with pytest.raises(VanError, match=r"last\.ckpt is damaged .*--resume .*\.ckpt"):
        resumable(last)
    for other in ("previous.ckpt", "best.ckpt"):
        damaged(finished / "checkpoints" / other, how)
    with pytest.raises(VanError, match="No other checkpoint is left"):
        resumable(finished)


def test_a_damaged_run_ends_like_one_that_is_whole(finished, reference, capsys):
    damaged(finished / "checkpoints" / "last.ckpt", "bit")
    run = van.train(resume=str(finished), quiet=False)
    assert "last.ckpt is damaged" in capsys.readouterr().out
    assert same_weights(run.folder, reference)
    assert rows(run.folder) == rows(reference)


def test_a_checkpoint_can_be_named(finished):
    best = finished / "checkpoints" / "best.ckpt"
    assert resumable(best) == (best, [])
    with pytest.raises(VanError, match="cannot be resumed"):
        resumable(finished / "checkpoints" / "first.ckpt")


class Malicious:
    def __reduce__(self):
        return (os.mkdir, ("owned",))


def test_a_malicious_checkpoint_runs_nothing(finished, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Malicious()}, finished / "checkpoints" / "last.ckpt")
    with pytest.raises(VanError, match="not a checkpoint of van train") as error:
        van.train(resume=str(finished), quiet=True)
    assert "weights_only" not in str(error.value)
    assert not Path("owned").exists()


# ------------------------------------------------------------------------------------------- other data and options


def test_what_a_continued_run_must_have_in_common(tmp_path):
    ours = {"class_names": ["a", "b"], "model": {"variant": "van_b0", "depths": [1]}, "fingerprint": "1"}
    compare(ours, dict(ours), tmp_path)
    compare({}, ours, tmp_path)  # checkpoints of earlier versions say nothing
    with pytest.raises(VanError, match=r"class names is \['b', 'a'\], but \['a', 'b'\]"):
        compare(ours, {**ours, "class_names": ["b", "a"]}, tmp_path)
    with pytest.raises(VanError, match=r"model\.depths is \[2\], but \[1\]"):
        compare(ours, {**ours, "model": {"variant": "van_b0", "depths": [2]}}, tmp_path)
    with pytest.raises(VanError, match="data is not what"):
        compare(ours, {**ours, "fingerprint": "2"}, tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimization": {"optimizer": "sgd"}}, "optimizer is sgd, but adamw"),
        ({"model_args": {**MODEL, "depths": [1, 1, 2, 1]}}, "depths is"),
    ],
)
def test_a_refused_continuation_leaves_the_run_as_it_was(finished, options, message):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    with pytest.raises(VanError, match=message):
        van.train(resume=str(finished), epochs=3, quiet=True, **options)
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


def test_a_second_process_is_refused(finished):
    with locked(finished), pytest.raises(VanError, match="in use by another van train"):
        van.train(resume=str(finished), epochs=3, quiet=True)
    assert van.train(resume=str(finished), epochs=3, quiet=True).finished


# ------------------------------------------------------------------------------------------------ SLURM


def test_slurm_queues_the_job_again(tmp_path, monkeypatch):
    folder, tool = tmp_path / "run", tmp_path / "bin" / "scontrol"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/called\n')
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tool.parent}:{os.environ['PATH']}")
    job = {"JOB_ID": "7", "JOB_NAME": "train", "NTASKS": "1", "PROCID": "0", "LOCALID": "0", "NODEID": "0"}
    for name, value in {**job, "NNODES": "1", "JOB_NODELIST": "localhost"}.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    arguments = [a for a in start(folder) if a != "--quiet"]
    _, errors = run_until([*arguments, "--devices", "1"], folder, signal.SIGUSR1)
    assert (tmp_path / "called").read_text() == "requeue 7\n", errors
    assert 0 < step(folder) < 44
