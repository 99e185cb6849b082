import lightning
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader
from van.tasks.optimization import Optimization

from van.errors import VanError
from van.tasks.detection import DetectionTask

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*"
)


class TwoLosses(nn.Module):
    """Losses are squares of two weights; every image has one box as large as the first weight."""

    def __init__(self, scale=1.0):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([1.0, 2.0]))
        self.scale = scale

    def forward(self, images, targets=None):
        if self.training:
            assert len(images) == len(targets)
            first, second = (self.weight**2).unbind()
            return {"loss_classifier": first * self.scale, "bbox_regression": second}
        box = torch.stack([torch.zeros(()), torch.zeros(()), self.weight[0], self.weight[0]])
        return [{"boxes": box[None], "labels": torch.zeros(1, dtype=torch.int64), "scores": torch.ones(1)}] * len(
            images
        )


class Recorder:
    def __init__(self):
        self.calls = []
        self.seen = []

    def reset(self):
        self.calls.append("reset")
        self.seen = []

    def update(self, outputs, targets):
        self.seen += [
            (target["image_id"], output["boxes"].shape) for output, target in zip(outputs, targets, strict=True)
        ]

    def compute(self):
        self.calls.append(len(self.seen))
        return {"AP": 0.25 * len(self.calls), "AP50": 0.5, "mask_AP": 0.125}


def batches(count):
    items = [([torch.zeros(3, 8, 8)] * 2, [{"image_id": 2 * i + k} for k in range(2)]) for i in range(count)]
    return DataLoader(items, batch_size=None)


def run(module, epochs=2):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0,
    )  # fmt: skip
    trainer.fit(module, batches(3), batches(2))
    return trainer.callback_metrics


def test_sum_of_losses_is_trained_and_each_is_logged():
    module = DetectionTask(TwoLosses(), 1e-9, 2, 3, Optimization(min_lr=0.0), Recorder())
    metrics = run(module, epochs=1)
    assert metrics["train_loss"] == pytest.approx(5.0, abs=1e-4)
    assert metrics["train_classifier"] == pytest.approx(1.0, abs=1e-4)
    assert metrics["train_bbox_regression"] == pytest.approx(4.0, abs=1e-4)


def test_training_lowers_the_sum():
    module = DetectionTask(TwoLosses(), 0.1, 20, 3, Optimization(warmup_epochs=0), Recorder())
    assert run(module, epochs=20)["train_loss"] < 1


def test_validation_gives_the_evaluators_figures():
    recorder = Recorder()
    metrics = run(DetectionTask(TwoLosses(), 1e-3, 2, 3, Optimization(), recorder))
    assert recorder.calls == ["reset", 4, "reset", 4]
    assert recorder.seen == [(i, (1, 4)) for i in range(4)]
    assert metrics["val_AP"] == pytest.approx(1.0)
    assert metrics["val_AP50"] == pytest.approx(0.5)
    assert metrics["val_mask_AP"] == pytest.approx(0.125)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(value):
    module = DetectionTask(TwoLosses(value), 1e-3, 2, 3, Optimization(), Recorder())
    with pytest.raises(VanError, match=r"The loss is (nan|inf) in epoch 1, step 0"):
        run(module)


def test_forward_is_the_models():
    module = DetectionTask(TwoLosses(), 1e-3, 2, 3, Optimization(), Recorder()).eval()
    (found,) = module([torch.zeros(3, 8, 8)])
    assert found["boxes"].tolist() == [[0, 0, 1, 1]]
