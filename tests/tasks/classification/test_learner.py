import math
import random

import lightning
import numpy as np
import pytest
import torch
from timm.data import Mixup
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

import van
from van.data.augmentation import ClassificationAugmentation
from van.engine.guard import Guard
from van.errors import VanError
from van.tasks.classification.learner import ClassificationLearner
from van.tasks.classification.options import ClassificationOptimization, ClassificationTrainOptions

pytestmark = pytest.mark.filterwarnings(
    "ignore:.*does not have many workers.*",
    "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*",
    "ignore:Found .* in eval mode.*",
)


def tiny(num_classes=4):
    torch.manual_seed(0)
    return van.create_model(
        "van_b0", embed_dims=(8, 16, 24, 32), depths=(1, 1, 1, 1), num_classes=num_classes, drop_path_rate=0.0
    )


def task(model=None, num_classes=4, lr=2e-3, epochs=4, steps=5, mixup=0.0, cutmix=0.0, **options):
    model = tiny(num_classes) if model is None else model
    given = ClassificationTrainOptions(
        lr=lr,
        optimization=ClassificationOptimization(**options),
        augmentation=ClassificationAugmentation(mixup=mixup, cutmix=cutmix),
    )
    return ClassificationLearner(model, num_classes, given).plan(epochs, steps)


def fit(module, train, epochs=1, **options):
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(module, train, train)


@pytest.fixture
def batch():
    torch.manual_seed(1)
    return torch.randn(8, 3, 32, 32), torch.arange(8) % 4


def loader(images, labels, batch_size=8):
    return DataLoader(TensorDataset(images, labels), batch_size)


# ------------------------------------------------------------------------------------------------ training


def test_training_lowers_the_loss(batch):
    images, labels = batch
    module = task(epochs=20, steps=1, warmup_epochs=0)
    before = F.cross_entropy(module.model.eval()(images), labels)
    fit(module.train(), loader(images, labels), epochs=20)
    after = F.cross_entropy(module.model.eval()(images), labels)
    assert before > 1.2
    assert after < 0.5 * before


class Rates(lightning.Callback):
    def __init__(self):
        self.rates = []

    def on_train_batch_start(self, trainer, module, batch, index):
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def test_learning_rate(batch):
    """Two epochs of warm-up, the cosine to the end of the fourth, one epoch of cool-down; five steps each."""
    images, labels = batch
    rates = Rates()
    module = task(
        nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), lr=1.0, warmup_epochs=2, cooldown_epochs=1, min_lr=0.01
    )
    data = loader(images.repeat(5, 1, 1, 1), labels.repeat(5))
    fit(module, data, epochs=5, callbacks=[rates])
    warm_up = [0.01 + 0.99 * step / 10 for step in range(10)]
    cosine = [0.01 + 0.99 * (1 + math.cos(math.pi * step / 20)) / 2 for step in range(10, 20)]
    assert rates.rates == pytest.approx([*warm_up, *cosine, *[0.01] * 5])


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        # falls at the end of epochs 2 and 3; the warm-up counts as part of them
        ({"schedule": "step", "milestones": [2, 3]}, [*[1.0] * 5, *[0.1] * 5, *[0.01] * 5]),
        ({"schedule": "step", "milestones": [3], "gamma": 0.5}, [*[1.0] * 10, *[0.5] * 5]),
        ({"schedule": "poly", "power": 1.0}, [1 - step / 20 for step in range(5, 20)]),
        ({"schedule": "poly", "power": 0.9}, [(1 - step / 20) ** 0.9 for step in range(5, 20)]),
    ],
)
def test_other_schedules(batch, options, expected):
    images, labels = batch
    rates = Rates()
    options = {"min_lr": 0.0, **options} if options["schedule"] == "poly" else {"warmup_lr": 0.0, **options}
    module = task(nn.Sequential(nn.Flatten(), nn.Linear(3072, 4)), lr=1.0, warmup_epochs=1, **options)
    fit(module, loader(images.repeat(5, 1, 1, 1), labels.repeat(5)), epochs=4, callbacks=[rates])
    assert rates.rates == pytest.approx([*(step / 5 for step in range(5)), *expected])


def test_no_warm_up_starts_at_the_top(batch):
    (optimizer,), _ = task(lr=0.3, warmup_epochs=0).configure_optimizers()
    assert {group["lr"] for group in optimizer.param_groups} == {0.3}


def test_weight_decay_leaves_out_biases_norms_and_layer_scales():
    module = task(weight_decay=0.07)
    (optimizer,), _ = module.configure_optimizers()
    names = {parameter: name for name, parameter in module.model.named_parameters()}
    groups = {g["weight_decay"]: {names[p] for p in g["params"]} for g in optimizer.param_groups}
    assert set(groups) == {0.0, 0.07}
    assert groups[0.0] == {
        name for name, p in module.model.named_parameters() if p.ndim == 1 or name.endswith(".gamma")
    }
    assert groups[0.07] | groups[0.0] == set(names.values())
    assert any(name.endswith(".gamma") for name in groups[0.0])
    assert "head.fc.weight" in groups[0.07]


@pytest.mark.parametrize("name", ["adamw", "sgd", "lamb"])
def test_optimizers(name):
    (optimizer,), _ = task(optimizer=name).configure_optimizers()
    assert type(optimizer).__name__.lower() == name


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "nonsense"}, r"The optimizer 'nonsense' cannot be built .*such as adamw or sgd"),
        ({"schedule": "step", "milestones": [3, 2]}, r"expected rising epochs between 0 and 4"),
        ({"schedule": "step", "milestones": [4]}, r"milestones is \[4\], expected rising epochs between 0 and 4"),
    ],
)
def test_impossible_options(options, message):
    with pytest.raises(VanError, match=message):
        task(**options).configure_optimizers()


# ------------------------------------------------------------------------------------------------ loss


class Recorder(nn.Module):
    """Remembers its input; its logits are a fixed function of the mean of each image."""

    def __init__(self, num_classes=4):
        super().__init__()
        self.scale = nn.Parameter(torch.linspace(-1, 1, num_classes))
        self.seen = []

    def forward(self, images):
        self.seen.append(images.clone())
        return images.mean(dim=(1, 2, 3))[:, None] * self.scale


def loss_of(module, batch):
    module.log = lambda *args, **kwargs: None
    return module.training_step(batch, 0)


def test_label_smoothing_is_timms(batch):
    images, labels = batch
    model = Recorder()
    loss = loss_of(task(model, label_smoothing=0.1), batch)
    _, soft = Mixup(label_smoothing=0.1, num_classes=4, prob=0.0)(images.clone(), labels)
    expected = -(soft * model(images).log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.isclose(loss, expected)
    assert not torch.isclose(loss, F.cross_entropy(model(images), labels))


def test_no_label_smoothing(batch):
    model = Recorder()
    assert torch.isclose(loss_of(task(model, label_smoothing=0.0), batch), F.cross_entropy(model(batch[0]), batch[1]))


@pytest.mark.parametrize(("mixup", "cutmix"), [(1.0, 0.0), (0.0, 1.0), (0.8, 1.0)])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_mixing_changes_images_and_targets(batch, mixup, cutmix, smoothing):
    images, labels = batch
    module = task(Recorder(), mixup=mixup, cutmix=cutmix, label_smoothing=smoothing)
    np.random.seed(3)  # noqa: NPY002 - what timm draws from
    loss = loss_of(module, (images, labels))
    torch.manual_seed(1)
    assert torch.equal(images, torch.randn(8, 3, 32, 32))  # the batch itself is left alone
    (seen,) = module.model.seen
    assert not torch.equal(seen, images)
    # the same mixture as timm makes with its own smoothing
    np.random.seed(3)  # noqa: NPY002
    mix = Mixup(mixup_alpha=mixup, cutmix_alpha=cutmix, label_smoothing=smoothing, num_classes=4)
    mixed, target = mix(images.clone(), labels)
    assert torch.equal(seen, mixed)
    expected = -(target * module.model(mixed).log_softmax(dim=1)).sum(dim=1).mean()
    assert torch.isclose(loss, expected)


def test_no_mixing_leaves_images_alone(batch):
    module = task(Recorder())
    loss_of(module, batch)
    assert torch.equal(module.model.seen[0], batch[0])


@pytest.mark.parametrize(("size", "used"), [(7, 6), (2, 2), (1, 1)])
def test_mixing_of_odd_batches(batch, size, used):
    module = task(Recorder(), mixup=0.8, cutmix=1.0)
    assert torch.isfinite(loss_of(module, (batch[0][:size], batch[1][:size])))
    assert len(module.model.seen[0]) == used


@pytest.mark.parametrize("mixup", [0.0, 0.8])
def test_rectangles_are_erased_after_mixing(mixup):
    """In what the model sees the noise is that of one image: it was not mixed with another."""
    augmentation = ClassificationAugmentation(random_erasing=0.5, erase_mixed=True, mixup=mixup)
    module = ClassificationLearner(Recorder(), 4, ClassificationTrainOptions(augmentation=augmentation))
    images, labels = torch.zeros(64, 3, 32, 32), torch.arange(64) % 4
    random.seed(0)
    assert torch.isfinite(loss_of(module, (images, labels)))
    assert not images.any()  # the batch itself is left alone
    (seen,) = module.model.seen
    erased = [image[image != 0] for image in seen if image.any()]
    assert 0.3 < len(erased) / 64 < 0.7
    assert torch.cat(erased).std().item() == pytest.approx(1.0, abs=0.05)
    assert all(0.01 < len(noise) / images[0].numel() < 0.35 for noise in erased)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_loss_that_is_not_finite(batch, value, tmp_path):
    images, labels = batch
    with pytest.raises(VanError, match=r"The loss is (nan|inf) in epoch 1, step 0 .*Lower --lr.*clip_grad.*32-true"):
        fit(task(steps=1), loader(images * value, labels), callbacks=[Guard(tmp_path, "top1")])


def test_loss_that_turns_nan_is_seen_before_the_epoch_ends(batch, tmp_path):
    images, labels = batch
    images = images.repeat(5, 1, 1, 1)
    images[8:] = float("nan")
    with pytest.raises(VanError, match=r"The loss is nan in epoch 1, step 1 \(learning rate .*, gradient norm \d"):
        fit(task(steps=5), loader(images, labels.repeat(5)), callbacks=[Guard(tmp_path, "top1")])


# ------------------------------------------------------------------------------------------------ validation


class Table(nn.Module):
    """Looks logits up: the image holds the row."""

    def __init__(self, logits):
        super().__init__()
        self.logits = nn.Parameter(logits)

    def forward(self, images):
        return self.logits[images[:, 0, 0, 0].long()]


@pytest.mark.parametrize("classes", [2, 3, 5, 12])
def test_validation_metrics(classes):
    torch.manual_seed(classes)
    logits, labels = torch.randn(11, classes), torch.randint(classes, (11,))
    images = torch.arange(11.0)[:, None, None, None].expand(-1, 3, 1, 1)
    module = task(Table(logits), classes)
    trainer = lightning.Trainer(accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False)
    (metrics,) = trainer.validate(module, loader(images, labels, 4), verbose=False)  # batches of 4, 4 and 3
    ranked = logits.argsort(dim=1, descending=True)
    assert metrics["val_top1"] == pytest.approx((ranked[:, 0] == labels).float().mean().item())
    best = (ranked[:, :5] == labels[:, None]).any(dim=1)
    assert ("val_top5" in metrics) == (classes > 5)  # of five classes or fewer it would always be 1
    if classes > 5:
        assert metrics["val_top5"] == pytest.approx(best.float().mean().item())
    probability = logits.softmax(dim=1)[range(11), labels]
    assert metrics["val_loss"] == pytest.approx(-probability.log().mean().item(), rel=1e-5)


@pytest.mark.parametrize("stages", [0, 1, 4])
def test_frozen_stages_stay_as_they_are(batch, stages):
    model = tiny()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    given = ClassificationTrainOptions(lr=0.1, frozen_stages=stages)
    fit(ClassificationLearner(model, 4, given).plan(1, 1), loader(*batch))
    changed = {name.split(".")[1] for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {*map(str, range(stages, 4)), "fc"}


def test_forward_is_the_models(batch):
    module = task().eval()
    assert torch.equal(module(batch[0]), module.model(batch[0]))


def test_resumed_run_follows_the_options_given_now(batch, tmp_path):
    images, labels = batch
    data = loader(images.repeat(5, 1, 1, 1), labels.repeat(5))
    linear = nn.Sequential(nn.Flatten(), nn.Linear(3072, 4))
    options = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = lightning.Trainer(max_epochs=1, enable_checkpointing=False, **options)
    trainer.fit(task(linear, epochs=2, lr=1.0, warmup_epochs=0, weight_decay=0.5), data, data)
    trainer.save_checkpoint(tmp_path / "last.ckpt")

    rates = Rates()
    module = task(linear, epochs=4, lr=0.2, min_lr=0.0, warmup_epochs=0, weight_decay=0.1)
    trainer = lightning.Trainer(max_epochs=4, enable_checkpointing=False, callbacks=[rates], **options)
    trainer.fit(module, data, data, ckpt_path=tmp_path / "last.ckpt")
    assert rates.rates == pytest.approx([0.1 * (1 + math.cos(math.pi * step / 20)) for step in range(5, 20)])
    assert {group["weight_decay"] for group in trainer.optimizers[0].param_groups} == {0.0, 0.1}
