"""What options of training do to a run: accumulation, freezing, growing images, recomputed activations, compilation."""

from functools import partialmethod

import lightning
import numpy as np
import pytest
import torch
from lightning.pytorch.callbacks import Callback
from PIL import Image
from tests.engine import toy_task
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import van
from van.engine import registry
from van.engine.callbacks import AveragedWeights
from van.engine.learner import Learner
from van.engine.options import Optimization, TrainOptions
from van.engine.progressive import resize, size_at
from van.errors import VanError
from van.networks.registry import from_dict, register

pytestmark = [
    pytest.mark.usefixtures("coarse_plots"),
    pytest.mark.filterwarnings(
        "ignore:.*does not have many workers.*", "ignore:.*`isinstance.treespec, LeafSpec.` is deprecated.*",
        "ignore:Found .* in eval mode.*",
    ),
]  # fmt: skip

TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}


class Nothing:
    """An evaluator without metrics."""

    def reset(self):
        pass

    def update(self, outputs, targets):
        pass

    def compute(self):
        return {}


class Scores(Learner):
    """Trains a classifier on pairs of images and labels."""

    def losses(self, batch):
        return {"loss": nn.functional.cross_entropy(self.model(batch[0]), batch[1])}


def learner_of(model, epochs=2, steps=2, lr=0.01, image_size=None, **options) -> Learner:
    given = TrainOptions(data="none", **{"lr": lr, "optimization": Optimization(warmup_epochs=0), **options})
    given.check()
    return Scores(model, (), Nothing(), given, image_size).plan(epochs, steps)


def fit(learner, epochs=2, batches=2, size=32, **options):
    torch.manual_seed(1)
    images, labels = torch.randn(4 * batches, 3, size, size), torch.arange(4 * batches) % 4
    data = DataLoader(TensorDataset(images, labels), 4)
    trainer = lightning.Trainer(
        max_epochs=epochs, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False, num_sanity_val_steps=0, **options,
    )  # fmt: skip
    trainer.fit(learner, data, data)
    return trainer


def classifier(**options):
    torch.manual_seed(0)
    return van.create_model("van_b0", num_classes=4, **TINY, **options)


def segmenter(**backbone):
    torch.manual_seed(0)
    options = {"architecture": "semantic_fpn", "backbone_args": {**TINY, **backbone}}
    return from_dict("semantic", {**options, "pyramid_channels": 8, "channels": 8}).build(3)


def snapshot(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


def changed(model, before) -> set[str]:
    return {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}


# ------------------------------------------------------------------------------------------------ accumulation


@pytest.fixture
def mean_colour(tmp_path, monkeypatch):
    """Train the task of CONTRIBUTING, whose network has no BatchNorm, on 24 images: mean_colour(output, **options)."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    monkeypatch.setitem(registry._TASKS, "mean_colour", toy_task.MeanColourTask())
    register("mean_colour", "linear", toy_task.LinearOptions)
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")

    def train(output, **options):
        given = {"epochs": 2, "lr": 0.01, "device": "cpu", "quiet": True, "optimization": {"warmup_epochs": 1}}
        return van.train("mean_colour", data="images", output=output, **{**given, **options}).folder

    return train


def checkpoint(folder):
    return torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)


class TestAccumulation:
    def test_equals_a_larger_batch(self, mean_colour):
        whole = checkpoint(mean_colour("whole", batch_size=8))
        parts = checkpoint(mean_colour("parts", batch_size=4, accumulate=2))
        assert whole["global_step"] == parts["global_step"] == 6
        for key, value in whole["state_dict"].items():
            torch.testing.assert_close(parts["state_dict"][key], value)

    def test_learning_rate_follows_steps(self, mean_colour):
        rates = []
        for name, options in (("whole", {"batch_size": 8}), ("parts", {"batch_size": 4, "accumulate": 2})):
            lines = (mean_colour(name, epochs=3, **options) / "metrics.csv").read_text().splitlines()
            rates.append([line.split(",")[1] for line in lines])
        assert rates[0] == rates[1]

    def test_batches_that_do_not_fill_a_step_are_left_out(self, mean_colour):
        folder = mean_colour("run", batch_size=5, accumulate=3)  # 4 batches in an epoch
        assert checkpoint(folder)["global_step"] == 2

    def test_limit_counts_steps(self, mean_colour):
        folder = mean_colour("run", batch_size=4, accumulate=2, limit_batches=2)
        assert checkpoint(folder)["global_step"] == 4

    def test_an_epoch_needs_one_step(self, mean_colour, tmp_path):
        with pytest.raises(VanError, match="accumulate is 8, but an epoch has only 3 batches of 8"):
            mean_colour("run", batch_size=8, accumulate=8)
        assert not (tmp_path / "run").exists()

    def test_effective_batch_is_printed(self, mean_colour, capsys):
        mean_colour("run", batch_size=4, accumulate=2, quiet=False)
        assert "Effective batch: 8 images (2 batches of 4)." in capsys.readouterr().out

    def test_averaged_weights_count_steps(self):
        average = AveragedWeights(0.9)
        fit(learner_of(classifier(), accumulate=2), batches=4, accumulate_grad_batches=2, callbacks=[average])
        assert average._average_model.n_averaged == 4


# ------------------------------------------------------------------------------------------------ freezing


class TestFreezing:
    def test_frozen_parts_stay_as_they_are(self):
        model = classifier(drop_path_rate=0.5)
        before = snapshot(model)
        learner = learner_of(model, freeze=["stages.1", "patch_embed"])
        fit(learner)
        found = changed(model, before)
        assert not any(name.startswith("stages.1.") or ".patch_embed." in name for name in found)
        assert {"stages.0.blocks.0.norm1.running_mean", "stages.2.blocks.0.mlp.fc1.weight", "head.fc.bias"} <= found
        learner.train()
        assert not any(module.training for module in model.stages[1].modules())
        assert model.stages[2].blocks[0].norm1.training

    def test_batchnorm_keeps_its_statistics_but_learns(self):
        model = classifier()
        before = snapshot(model)
        fit(learner_of(model, freeze_batchnorm=True))
        found = changed(model, before)
        assert not any("running_" in name or "num_batches" in name for name in found)
        assert {"stages.0.blocks.0.norm1.weight", "stages.0.blocks.0.norm1.bias"} <= found

    def test_single_parameters(self):
        model = classifier()
        before = snapshot(model)
        fit(learner_of(model, freeze=["fc.bias"]))
        found = changed(model, before)
        assert "head.fc.bias" not in found
        assert "head.fc.weight" in found

    def test_survives_synchronized_batchnorm(self):
        """Their modules are others, which must be found again."""
        network = segmenter()
        learner = Learner(network, (), None, TrainOptions(data="none", freeze=["head"], freeze_batchnorm=True))
        learner = nn.SyncBatchNorm.convert_sync_batchnorm(learner).train()
        norms = [module for module in network.modules() if isinstance(module, nn.SyncBatchNorm)]
        assert norms
        assert not any(norm.training for norm in norms)

    def test_frozen_norms_of_a_backbone_survive_synchronized_batchnorm(self):
        options = {"architecture": "semantic_fpn", "backbone_args": TINY, "freeze_norm": True, "frozen_stages": 1}
        network = nn.SyncBatchNorm.convert_sync_batchnorm(from_dict("semantic", options).build(3)).train()
        frozen = [m for m in network.backbone.modules() if isinstance(m, nn.SyncBatchNorm)]
        assert frozen
        assert not any(norm.training or norm.weight.requires_grad for norm in frozen)
        assert network.head.levels[0][0][1].training

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"freeze": ["stage.0"]}, "freeze names 'stage.0', .* Did you mean stages.0"),
            ({"freeze": ["stages", "head"]}, "Every parameter of the network is frozen"),
            ({"freeze_batchnorm": True, "sync_batchnorm": True}, "sync_batchnorm has no effect where freeze_batchnorm"),
            ({"compile": True, "checkpoint_gradients": True}, "torch.compile cannot take checkpoint_gradients"),
        ],
    )
    def test_impossible_ones(self, options, words):
        with pytest.raises(VanError, match=words):
            learner_of(classifier(), **options)

    def test_freeze_batchnorm_needs_one(self):
        with pytest.raises(VanError, match="the network has no BatchNorm"):
            learner_of(nn.Linear(2, 2), freeze_batchnorm=True)


# ------------------------------------------------------------------------------------------------ several devices


class TestSynchronizedBatchNorm:
    def test_one_device_is_told(self, mean_colour, capsys):
        mean_colour("run", sync_batchnorm=True, quiet=False)
        assert "Note: sync_batchnorm has no effect on one device." in capsys.readouterr().out

    def test_processes_on_the_cpu_are_refused(self, mean_colour, tmp_path):
        with pytest.raises(VanError, match="sync_batchnorm is not available on the CPU"):
            mean_colour("run", sync_batchnorm=True, devices=2)
        assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------------------------------------ growing images


class Sizes(nn.Module):
    """Remembers the size of its images."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4))
        self.seen: list[int] = []

    def forward(self, images):
        if self.training:
            self.seen.append(images.shape[-1])
        return images.mean((1, 2, 3))[:, None] * self.scale


class TestGrowingImages:
    def test_sizes_have_equal_shares_and_end_with_the_full_one(self):
        sizes = [size_at(step / 10, 128, (224, 224)) for step in range(12)]
        assert sizes == [(s, s) for s in (*[128] * 3, *[160] * 2, *[192] * 3, *[224] * 4)]

    def test_proportions_are_kept_in_multiples_of_32(self):
        assert [size_at(step / 3, 128, (256, 192)) for step in range(3)] == [(160, 128), (224, 160), (256, 192)]
        assert size_at(0.99, 32, (48, 48)) == (48, 48)

    def test_training_sees_them_and_validation_the_full_size(self):
        model = Sizes()
        fit(learner_of(model, epochs=2, steps=3, progressive_size=32, image_size=(96, 96)), batches=3, size=96)
        assert model.seen == [32, 32, 64, 64, 96, 96]

    def test_size_follows_steps_where_gradients_are_accumulated(self):
        model = Sizes()
        learner = learner_of(model, epochs=1, steps=2, progressive_size=32, image_size=(64, 64), accumulate=2)
        fit(learner, epochs=1, batches=4, size=64, accumulate_grad_batches=2)
        assert model.seen == [32, 32, 64, 64]

    def test_maps_follow_their_images(self):
        learner = learner_of(Sizes(), progressive_size=32, image_size=(64, 64))
        labels = torch.zeros(2, 64, 64, dtype=torch.uint8)
        labels[:, 32:] = 255
        images, small = learner.resized((torch.full((2, 3, 64, 64), 51, dtype=torch.uint8), labels), (32, 32))
        assert images.shape == (2, 3, 32, 32)
        torch.testing.assert_close(images, torch.full_like(images, 0.2))
        assert small.dtype == torch.uint8
        assert small.unique().tolist() == [0, 255]
        assert (small[:, 16:] == 255).all()
        assert resize(torch.zeros(0, 64, 64), (32, 32)).shape == (0, 32, 32)

    @pytest.mark.parametrize(
        ("start", "size", "words"),
        [
            (32, None, "needs training images of one size"),
            (64, (64, 96), "progressive_size is 64, expected less than the short edge of the training images, 64"),
            (40, (64, 96), "progressive_size is 40, expected a multiple of 32"),
        ],
    )
    def test_impossible_ones(self, start, size, words):
        with pytest.raises(VanError, match=words):
            learner_of(Sizes(), progressive_size=start, image_size=size)


# ------------------------------------------------------------------------------------------------ memory and speed


def step_of(network, **options):
    """Gradients and BatchNorm statistics after one training step of a segmentation network."""
    Learner(network, (), None, TrainOptions(data="none", **options))
    torch.manual_seed(2)
    images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 3, (2, 64, 64))
    sum(network.train()(images, labels).values()).backward()
    gradients = {name: parameter.grad for name, parameter in network.named_parameters()}
    return {**gradients, **{f"buffer {name}": buffer for name, buffer in network.named_buffers()}}


class TestCheckpointedGradients:
    def test_gradients_and_statistics_are_the_same(self):
        options = {"drop_path_rate": 0.5}
        plain = step_of(segmenter(**options))
        recomputed = step_of(segmenter(**options), checkpoint_gradients=True)
        assert plain.keys() == recomputed.keys()
        for name, value in plain.items():
            torch.testing.assert_close(recomputed[name], value, msg=name)

    def test_blocks_run_twice(self):
        network, runs = segmenter(), []
        network.backbone.body["stages_2"].blocks[0].mlp.register_forward_hook(lambda *_: runs.append(1))
        step_of(network, checkpoint_gradients=True)
        assert len(runs) == 2

    def test_networks_that_cannot(self):
        with pytest.raises(VanError, match="checkpoint_gradients needs a network with a backbone"):
            learner_of(nn.Linear(2, 2), checkpoint_gradients=True)
        options = {"architecture": "semantic_fpn", "backbone": "resnet18", "channels": 8}
        with pytest.raises(VanError, match="twice in its BatchNorms"):
            learner_of(from_dict("semantic", options).build(3), checkpoint_gradients=True)


class Names(Callback):
    """Remembers the names of the tensors in a checkpoint."""

    def on_train_end(self, trainer, pl_module):
        self.names = set(trainer._checkpoint_connector.dump_checkpoint()["state_dict"])


class TestCompile:
    @pytest.fixture
    def traced(self, monkeypatch):
        """Compile without generating code, which takes a minute; returns the shapes that were traced."""
        torch._dynamo.reset()
        shapes = []

        def backend(module, inputs):
            shapes.append([tuple(x.shape) for x in inputs if isinstance(x, torch.Tensor) and x.ndim == 4][-1])
            return module.forward

        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=backend))
        return shapes

    def test_same_weights_under_the_same_names(self, traced):
        results = []
        for compiled in (False, True):
            names, average = Names(), AveragedWeights(0.5)
            # Adam would blow up the rounding of gradients that should be zero
            plain_steps = Optimization(warmup_epochs=0, optimizer="sgd")
            learner = learner_of(classifier(), compile=compiled, optimization=plain_steps)
            fit(learner, callbacks=[names, average])
            results.append((names.names, learner.model.state_dict()))
        assert traced
        (names, plain), (same, weights) = results
        assert names == same
        for name, value in plain.items():
            torch.testing.assert_close(weights[name], value, msg=name)

    def test_validation_is_not_compiled(self, traced):
        learner = learner_of(classifier(), compile=True)
        fit(learner, epochs=1)
        count = len(traced)
        learner.eval()
        learner.validation_step((torch.randn(3, 3, 64, 64), torch.zeros(3).long()), 0)
        assert len(traced) == count

    @pytest.mark.parametrize("size", [None, (64, 64)])
    def test_of_networks_for_images_of_many_sizes_the_backbone_is_compiled(self, traced, size):
        network = segmenter()
        Learner(network, (), None, TrainOptions(data="none", compile=True), size)
        network(torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64).long())
        assert traced
        compiled = [name for name, module in network.named_modules() if module._compiled_call_impl is not None]
        assert compiled == (["backbone"] if size is None else [""])

    def test_falls_back_with_a_sentence(self, monkeypatch, capsys):
        def broken(module, inputs):
            raise RuntimeError("no compiler here")

        torch._dynamo.reset()
        monkeypatch.setattr(nn.Module, "compile", partialmethod(nn.Module.compile, backend=broken))
        model, plain = classifier(), classifier()
        fit(learner_of(model, compile=True))
        fit(learner_of(plain))
        err = capsys.readouterr().err
        assert err.count("torch.compile failed") == 1
        assert "no compiler here" in err
        for one, other in zip(model.state_dict().values(), plain.state_dict().values(), strict=True):
            torch.testing.assert_close(one, other)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_mixed_precision_with_and_without_clipping(clip):
    """Lightning cannot clip for a fused optimizer in mixed precision."""
    model = classifier()
    before = snapshot(model)
    learner = learner_of(model, precision="bf16-mixed", optimization=Optimization(warmup_epochs=0, clip_grad=clip))
    trainer = fit(learner, precision="bf16-mixed", gradient_clip_val=clip)
    assert bool(trainer.optimizers[0].param_groups[0]["fused"]) == (clip is None)
    assert "head.fc.weight" in changed(model, before)
    assert all(torch.isfinite(value).all() for value in model.state_dict().values())
