"""Learning rates and batch sizes to train with."""

import numpy as np
import pytest
import torch
from PIL import Image
from tests.engine import toy_task

import van
from van.cli import main
from van.engine import registry, tuning
from van.engine.learner import Learner
from van.networks.registry import register


@pytest.fixture
def toy(tmp_path, monkeypatch):
    """The task of CONTRIBUTING on 24 images, in an empty folder: its options."""
    (tmp_path / "images").mkdir()
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.delenv("VAN_RUN_FOLDER", raising=False)
    monkeypatch.setitem(registry._TASKS, "mean_colour", toy_task.MeanColourTask())
    register("mean_colour", "linear", toy_task.LinearOptions)
    rng = np.random.default_rng(0)
    for i in range(24):
        Image.fromarray(rng.integers(0, 255, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{i}.png")
    return {"task": "mean_colour", "data": str(tmp_path / "images"), "device": "cpu", "quiet": True, "workers": 0}


class TestSuggestion:
    def test_is_where_the_loss_falls_fastest(self):
        lrs = np.geomspace(1e-6, 1, 61)
        losses = 2 - 1 / (1 + np.exp(-3 * (np.log10(lrs) + 3))) + 50 * np.maximum(0, np.log10(lrs) + 0.5)
        assert tuning.suggested(lrs.tolist(), losses.tolist()) == pytest.approx(1e-3, rel=0.01)

    def test_is_none_where_it_never_falls(self):
        lrs = np.geomspace(1e-6, 1, 40).tolist()
        assert tuning.suggested(lrs, np.linspace(1, 2, 40).tolist()) is None
        assert tuning.suggested(lrs[:2], [1.0, 0.5]) is None
        assert tuning.suggested([], []) is None


class TestLearningRate:
    def test_leaves_nothing_behind(self, toy, tmp_path):
        torch.manual_seed(3)
        before = torch.get_rng_state()
        found = van.tune("lr", steps=40, **toy)
        assert torch.equal(torch.get_rng_state(), before)
        assert not list((tmp_path / "work").iterdir())
        assert found.suggestion in found.lrs
        assert found.lrs[0] == pytest.approx(1e-7)
        assert found.lrs == sorted(found.lrs)
        assert len(found.lrs) == len(found.losses) <= 40
        assert found.losses == van.tune("lr", steps=40, **toy).losses
        assert f"{found.suggestion:.2g}" in str(found)

    def test_is_for_the_batch_that_lr_is_meant_for(self, toy):
        plain = van.tune("lr", steps=30, **{**toy, "batch_size": 8})
        scaled = van.tune("lr", steps=30, **{**toy, "batch_size": 8, "optimization": {"lr_base_batch": 4}})
        assert scaled.losses == plain.losses
        assert scaled.suggestion == pytest.approx(plain.suggestion / 2)

    def test_parts_keep_their_factor(self):
        groups = [{"lr": 1.0}, {"lr": 1.0, "lr_scale": 0.1}]
        test = tuning._RangeTest(20, quiet=True)
        trainer = type(
            "Trainer", (), {"global_step": 19, "optimizers": [type("Optimizer", (), {"param_groups": groups})]}
        )
        test.on_train_batch_start(trainer, None, None, 0)
        assert [group["lr"] for group in groups] == pytest.approx([1.0, 0.1])

    def test_plot_and_sentence(self, toy, capsys):
        options = ["--task", "mean_colour", "--data", toy["data"], "--workers", "0", "--device", "cpu"]
        assert main(["tune", "lr", *options, "--steps", "30", "--plot", "lr.png"]) == 0
        assert "Learning rate: " in capsys.readouterr().out
        with Image.open("lr.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5
        assert main(["tune", "lr", *options, "--plot", "lr.png"]) == 2
        assert "exists" in capsys.readouterr().err


class TestBatchSize:
    def test_sizes_double_up_to_the_number_of_images(self, toy):
        found = van.tune("batch-size", **toy, steps=1)
        assert [trial.batch_size for trial in found.trials] == [2, 4, 8, 16]
        assert found.suggestion == 16
        assert all(trial.rate > 0 and trial.memory > 0 for trial in found.trials)
        assert "more than the 24" in str(found)

    def test_stops_where_memory_does_not_suffice(self, toy, monkeypatch):
        usual = Learner.training_step

        def step(self, batch, batch_idx):
            if self.samples(batch) > 4:
                raise RuntimeError("CUDA out of memory. Tried to allocate 1 GiB")
            return usual(self, batch, batch_idx)

        monkeypatch.setattr(Learner, "training_step", step)
        found = van.tune("batch-size", **toy, steps=1)
        assert [(trial.batch_size, trial.rate is None) for trial in found.trials] == [(2, False), (4, False), (8, True)]
        assert found.suggestion == 4
        assert "too large" in str(found)

    def test_other_errors_are_not_taken_for_it(self, toy, monkeypatch):
        def step(self, batch, batch_idx):
            raise RuntimeError("shapes differ")

        monkeypatch.setattr(Learner, "training_step", step)
        with pytest.raises(RuntimeError, match="shapes differ"):
            van.tune("batch-size", **toy)

    def test_a_size_is_not_tried_that_would_not_fit(self, toy, monkeypatch):
        monkeypatch.setattr(tuning, "_free", lambda: 0)
        monkeypatch.setattr(tuning, "_resident", iter([100, 300, 500]).__next__)
        found = van.tune("batch-size", **toy)
        assert [trial.batch_size for trial in found.trials] == [2]
        assert found.suggestion == 2
        assert "free for it" in found.reason


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["quux"], "expected lr or batch-size"),
        (["lr", "--steps", "many"], "--steps is many"),
        (["lr", "--steps", "3"], "expected 20 or more"),
        (["batch-size", "--plot", "a.png"], "--plot is for van tune lr"),
        (["lr", "--epochs", "0"], "epochs is 0"),
        (["lr", "--quux", "0"], "unknown option --quux"),
    ],
)
def test_wrong_options(toy, capsys, arguments, words):
    assert main(
        ["tune", *arguments, *(() if arguments == ["quux"] else ("--data", toy["data"], "--task", "mean_colour"))]
    )
    assert words in capsys.readouterr().err


def test_only_the_start_of_a_training_is_tuned(toy):
    run = van.train(**toy, epochs=1, output="run")
    with pytest.raises(van.VanError, match="only the start of a training"):
        van.tune("lr", resume=str(run.folder))
