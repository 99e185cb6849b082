"""The task of all networks that label pixels, and lengths given in steps."""

import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from van.errors import VanError
from van.tasks.base import Task
from van.tasks.optimization import Optimization
from van.tasks.pixels import PixelTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"
)


class TwoLosses(nn.Module):
    """Losses are squares of two weights."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))

    def forward(self, images, targets):
        first, second = (self.weight**2).unbind()
        return {"class": first, "mask": second}


class Recorder:
    def __init__(self):
        self.calls = []

    def reset(self):
        self.calls.append("reset")

    def update(self, outputs, targets):
        self.calls.append((outputs, targets))

    def compute(self):
        return {"PQ": 0.25, "SQ": 0.5}


def run(task, epochs=1):
    images = [(torch.zeros(2, 3, 4, 4), torch.zeros(2, 4, 4))] * 3
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(task, DataLoader(images, batch_size=None), DataLoader([(["image"], ["truth"])], batch_size=None))
    return trainer.callback_metrics


def test_losses_are_added_and_figures_are_logged():
    recorder = Recorder()
    looked = []

    def look(model, images):
        looked.append((model, images))
        return ["found"]

    network = TwoLosses()
    metrics = run(PixelTask(network, 1e-9, 1, 3, Optimization(min_lr=0.0), recorder, look, "PQ"))
    assert metrics["train_loss"] == pytest.approx(5.0, abs=1e-4)
    assert (metrics["train_class"], metrics["train_mask"]) == (pytest.approx(1, abs=1e-4), pytest.approx(4, abs=1e-4))
    assert recorder.calls == ["reset", (["found"], ["truth"])]
    assert looked == [(network, ["image"])]
    assert (metrics["val_PQ"], metrics["val_SQ"], metrics["iteration"]) == (0.25, 0.5, 3)


def rates(options, by_steps=False, epochs=2, steps=10):
    task = Task(nn.Conv2d(1, 1, 1), 1.0, epochs, steps, options, by_steps)
    (optimizer,), (schedule,) = task.configure_optimizers()
    found = []
    for step in range(epochs * steps):
        schedule["scheduler"].step_update(step)
        found.append(optimizer.param_groups[0]["lr"])
    return found


def test_warm_up_in_steps_and_poly():
    found = rates(Optimization(schedule="poly", power=0.9, warmup_iterations=4, min_lr=0.0))
    assert found[:4] == pytest.approx([0, 0.25, 0.5, 0.75])
    assert found[4:] == pytest.approx([(1 - step / 20) ** 0.9 for step in range(4, 20)])


def test_milestones_are_steps_where_the_length_is():
    options = Optimization(schedule="step", milestones=[12, 15], warmup_iterations=0, min_lr=0.0)
    assert rates(options, by_steps=True) == pytest.approx([1.0] * 12 + [0.1] * 3 + [0.01] * 5)
    with pytest.raises(VanError, match="rising epochs between 0 and 2"):
        rates(options)
    options.milestones = [12, 25]
    with pytest.raises(VanError, match="rising steps between 0 and 20"):
        rates(options, by_steps=True)


def test_negative_warm_up():
    with pytest.raises(VanError, match="warmup_iterations is -1"):
        rates(Optimization(warmup_iterations=-1))
