import csv

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from van.engine.callbacks import AveragedWeights, Checkpoints, EpochTable, LoadingTime
from van.engine.guard import Guard
from van.engine.learner import Learner
from van.engine.metric import Metric
from van.engine.options import Optimization, TrainOptions
from van.errors import VanError

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*",
    "ignore:.*exists and is not empty.*",
)  # fmt: skip


class Script:
    """An evaluator whose values were written down before."""

    def __init__(self, key, values):
        self.key, self.values = key, iter(values)

    def reset(self):
        pass

    def update(self, outputs, targets):
        pass

    def compute(self):
        return {self.key: next(self.values)}


class Constant(Learner):
    def losses(self, batch):
        return {"loss": (self.model(batch[0]) - 1).square().mean()}


def fit(tmp_path, metric, values, resume=None, callbacks=(), lr=0.1):
    learner = Constant(
        nn.Linear(2, 1), (metric,), Script(metric.key, values),
        TrainOptions(data="none", lr=lr, optimization=Optimization(warmup_epochs=0, optimizer="sgd", weight_decay=0.0)),
    ).plan(len(values), 1)  # fmt: skip
    data = DataLoader(TensorDataset(torch.ones(4, 2), torch.ones(4)), 4)
    keep = [Checkpoints(tmp_path, metric), Checkpoints(tmp_path)]
    table = EpochTable(tmp_path / "metrics.csv", ("train_loss", f"val_{metric.key}"), metric, "short")
    trainer = lightning.Trainer(
        max_epochs=len(values), accelerator="cpu", logger=False, enable_progress_bar=False, num_sanity_val_steps=0,
        enable_model_summary=False, callbacks=[*keep, table, *callbacks],
    )  # fmt: skip
    trainer.fit(learner, data, data, ckpt_path=resume)
    return learner


def epoch_of(path):
    return torch.load(path, weights_only=True)["epoch"]


@pytest.mark.parametrize(
    ("higher", "values", "best"),
    [
        (True, [0.1, 0.3, 0.2], 1),
        (True, [0.3, 0.3, 0.2], 1),  # of equal ones the later
        (True, [0.0, 0.0, 0.0], 2),
        (False, [0.3, 0.1, 0.2], 1),
        (False, [0.1, 0.1, 0.2], 1),
    ],
)
def test_the_best_checkpoint_follows_the_metric(tmp_path, higher, values, best, capsys):
    fit(tmp_path, Metric("m", "measure", "", higher), values)
    assert epoch_of(tmp_path / "best.ckpt") == best
    assert epoch_of(tmp_path / "last.ckpt") == len(values) - 1
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines] == [f"{i}/{len(values)}:" for i in range(1, len(values) + 1)]
    with (tmp_path / "metrics.csv").open() as file:
        assert [float(row["val_m"]) for row in csv.DictReader(file)] == pytest.approx(values)


def test_a_moved_run_remembers_its_best_epoch(tmp_path):
    metric = Metric("m", "measure")
    (tmp_path / "old").mkdir()
    fit(tmp_path / "old", metric, [0.9, 0.1])
    (tmp_path / "old").rename(tmp_path / "new")
    fit(tmp_path / "new", metric, [0.5, 0.5, 0.5], resume=tmp_path / "new" / "last.ckpt")
    assert epoch_of(tmp_path / "new" / "best.ckpt") == 0


def test_averaged_weights_warm_up(tmp_path):
    """After a few steps the average is near the weights, not near the random start, however long its memory is."""
    metric = Metric("m", "measure")
    torch.manual_seed(0)
    start = nn.Linear(2, 1)(torch.ones(1, 2)).item()
    torch.manual_seed(0)
    learner = fit(tmp_path, metric, [0.0] * 20, callbacks=[AveragedWeights(0.9999)])
    reached = learner.model(torch.ones(1, 2)).item()
    assert abs(start - 1) > 0.2
    assert abs(reached - 1) < 0.2 * abs(start - 1)


def test_averaged_weights_reach_their_decay():
    average = AveragedWeights(0.5)._kwargs["avg_fn"]
    old, new = torch.zeros(3), torch.ones(3)
    assert torch.allclose(average(old, new, torch.tensor(100_000)), torch.full((3,), 0.5))
    assert torch.allclose(average(old, new, torch.tensor(0)), new)


@pytest.mark.parametrize(("pause", "advised"), [(0.02, True), (0.0, False)])
def test_steps_that_wait_for_data_are_told_about(capsys, monkeypatch, pause, advised):
    clock = [0.0]  # of its own: a busy machine would make steps wait
    monkeypatch.setattr("van.engine.callbacks.time.perf_counter", lambda: clock[0])

    def spend(seconds):
        clock[0] += seconds

    class Slow(TensorDataset):
        def __getitem__(self, index):
            spend(pause)
            return super().__getitem__(index)

    class Work(Constant):
        def losses(self, batch):
            spend(0.01)
            return super().losses(batch)

    learner = Work(nn.Linear(2, 1), (), Script("x", []), TrainOptions(data="none", lr=0.1))
    data = DataLoader(Slow(torch.ones(6, 2), torch.ones(6)), 1)
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", logger=False, enable_progress_bar=False, enable_checkpointing=False,
        enable_model_summary=False, callbacks=[LoadingTime(1, 0, "images")], limit_val_batches=0,
    )  # fmt: skip
    trainer.fit(learner.plan(2, 6), data, data)
    out = capsys.readouterr().out
    assert out.count("steps wait for data") == 1
    assert ("--workers 2" in out) == advised


def test_a_metric_that_is_nan_is_never_the_best(tmp_path):
    metric = Metric("AP", "AP")
    with pytest.raises(VanError, match="val_AP is nan in epoch 2"):
        fit(tmp_path, metric, [0.5, float("nan"), 0.7], callbacks=[Guard(tmp_path, "AP")])
    assert epoch_of(tmp_path / "best.ckpt") == epoch_of(tmp_path / "last.ckpt") == 0
