"""Class weights, focal loss and sampling by class: what every task does with them, or why it does not."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import van
from van.engine.api import train_options

WEIGHED = ("classification", "instances", "semantic")  # trained with cross-entropy, with the architectures tested here
SEVERAL = ("classification", "detection", "instances", "semantic", "panoptic")  # have several classes


def last(folder) -> dict:
    return torch.load(Path(folder) / "checkpoints" / "last.ckpt", weights_only=True)


def names_of(data: Path, task: str) -> list[str]:
    if task == "classification":
        return ["blue", "green", "red"]
    if task == "semantic":
        return (data / "semantic" / "classes.txt").read_text().split()
    kind = "panoptic" if task == "panoptic" else "instances"
    content = json.loads((data / "annotations" / f"{kind}_train.json").read_text())
    return [category["name"] for category in content["categories"]]


def test_class_weights_and_focal_loss_change_training_or_are_refused(cli, options_of, data, task):
    options = options_of(task, epochs=1, limit_batches=1)
    Path("own.yaml").write_text(yaml.safe_dump(options))
    Path("w.json").write_text(json.dumps({names_of(data[task], task)[0] if task in SEVERAL else "person": 5.0}))
    runs = {
        "plain": (),
        "weights": ("--class-weights", "w.json"),
        "balanced": ("--class-weights", "balanced"),
        "focal": ("--focal-gamma", "2"),
    }
    losses = {}
    for name, arguments in runs.items():
        status, out, err = cli("train", "--config", "own.yaml", *arguments, "--output", name, "--no-quiet")
        if task in WEIGHED or name == "plain":
            assert status == 0, err
            losses[name] = last(name)["losses"]["train_loss"] if "train_loss" in last(name)["losses"] else None
            losses[name] = float((Path(name) / "metrics.csv").read_text().splitlines()[1].split(",")[1])
            assert ("class weights" in out) == (name in ("weights", "balanced"))
        else:
            assert status == 1
            assert len(err.strip().splitlines()) == 1 + err.count("loading")
            assert "Leave" in err
            assert not Path(name).exists()
    assert len(set(losses.values())) == len(losses)


@pytest.mark.parametrize("how", ["balanced", "repeat-factor"])
def test_sampling_shows_images_by_their_classes_or_is_refused(options_of, task, how):
    more = {"repeat_threshold": 0.9} if how == "repeat-factor" else {}
    options = options_of(task, epochs=1, limit_batches=1, output="run", sampling=how, **more)
    if task not in SEVERAL:
        with pytest.raises(van.VanError, match="several classes"):
            van.train(**options)
        assert not Path("run").exists()
        return
    assert van.train(**options).finished
    found, given = train_options(task=task, options={**options, "output": None})
    module = found.data(given, 1)
    plain = len(list(module.order(1, 0).batches(0)))
    module.resample(how, more.get("repeat_threshold"))
    module.batch_size = 2
    order = module.order(1, 0)
    indices = [index for epoch in range(20) for batch in order.batches(epoch) for _, index in batch]
    counts = torch.bincount(torch.tensor(indices), minlength=len(module.train)).double().numpy()
    expected = module.factors * len(indices) / module.factors.sum()
    assert plain > 0
    assert abs(counts - expected).max() <= 0.25 * expected.max() + 2


def test_a_run_with_sampling_goes_on_inside_the_epoch(options_of, monkeypatch):
    from van.engine.callbacks import LastCheckpoint
    from van.engine.guard import Stopped

    options = options_of("classification", batch_size=4, sampling="repeat-factor", repeat_threshold=0.9)
    whole = van.train(**options, output="whole")
    usual = LastCheckpoint.on_train_batch_end

    def stopping(self, trainer, module, outputs, batch, batch_idx):
        usual(self, trainer, module, outputs, batch, batch_idx)
        if trainer.global_step == 3:
            self._save_checkpoint(trainer, str(Path(str(self.dirpath)) / "last.ckpt"))
            raise Stopped

    monkeypatch.setattr(LastCheckpoint, "on_train_batch_end", stopping)
    assert not van.train(**options, output="parts").finished
    monkeypatch.undo()
    with pytest.raises(van.VanError, match="sampling is"):
        van.train(resume="parts", sampling="balanced", repeat_threshold=None)
    van.train(resume="parts")
    one, other = (last(folder)["state_dict"] for folder in (whole.folder, "parts"))
    assert all(torch.equal(value, other[key]) for key, value in one.items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"sampling": "balanced", "class_weights": "balanced"}, "both balanced"),
        ({"repeat_threshold": 0.1}, "only sampling repeat-factor uses"),
        ({"sampling": "repeat-factor", "repeat_threshold": 0.0}, "above 0"),
        ({"focal_gamma": 0.0}, "focal_gamma is 0.0"),
        ({"class_weights": {"bleu": 2.0}}, "Did you mean blue"),
        ({"class_weights": "no.json"}, "no.json cannot be read"),
    ],
)
def test_wrong_options_are_refused(options_of, options, words):
    with pytest.raises(van.VanError, match=words):
        van.train(**options_of("classification", output="run"), **options)
    assert not Path("run").exists()
