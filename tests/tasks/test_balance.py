"""Class weights, focal loss and sampling by class: what every task does with them, or why it does not."""

import json
from pathlib import Path

import pytest
import torch
from tests.tasks.conftest import TINY

import van
from van.engine.api import train_options
from van.engine.fit import prepare

WEIGHED = ("classification", "instances", "semantic")  # trained with cross-entropy, with the architectures tested here
SEVERAL = ("classification", "detection", "instances", "semantic", "panoptic")  # have several classes


def prepared(**options):
    """Data, network and loss of a training, and one batch."""
    task, given = train_options(options.pop("task"), options=options)
    found = prepare(task, given, 1)
    return found, next(iter(found.data.train_dataloader()))


def loss_of(options: dict, **changes) -> float:
    found, batch = prepared(**options, **changes)
    torch.manual_seed(0)
    return sum(loss.item() for loss in found.learner.losses(batch).values())


def names_of(data: Path, task: str) -> list[str]:
    if task == "classification":
        return ["blue", "green", "red"]
    if task == "semantic":
        return (data / "semantic" / "classes.txt").read_text().split()
    kind = "panoptic" if task == "panoptic" else "instances"
    content = json.loads((data / "annotations" / f"{kind}_train.json").read_text())
    return [category["name"] for category in content["categories"]]


def test_class_weights_and_focal_loss_change_the_loss_or_are_refused(options_of, data, task):
    options = options_of(task, batch_size=4)
    name = names_of(data[task], task)[0] if task in SEVERAL else "person"
    Path("w.json").write_text(json.dumps({name: 5.0}))
    changes = [{"class_weights": "w.json"}, {"class_weights": {name: 3.0}}, {"focal_gamma": 2.0}]
    changes.append({"class_weights": "balanced", "focal_gamma": 1.5})
    if task in WEIGHED:
        losses = [loss_of(options), *(loss_of(options, **change) for change in changes)]
        assert len(set(losses)) == len(losses)
        assert min(losses) > 0
        return
    for change in changes:
        with pytest.raises(van.VanError, match="not trained with cross-entropy over classes"):
            prepared(**options, **change)


def test_set_losses_refuse_class_weights(options_of):
    pytest.importorskip("transformers")
    model = TINY["panoptic"].options["model"]
    with pytest.raises(van.VanError, match="class_weights has no effect on mask2former"):
        prepared(**{**options_of("semantic"), "model": model}, class_weights="balanced")


@pytest.mark.parametrize("how", ["balanced", "repeat-factor"])
def test_sampling_shows_images_by_their_classes_or_is_refused(options_of, task, how):
    more = {"repeat_threshold": 0.9} if how == "repeat-factor" else {}
    options = options_of(task, batch_size=2, sampling=how, **more)
    if task not in SEVERAL:
        with pytest.raises(van.VanError, match="several classes"):
            prepared(**options)
        return
    module = prepared(**options)[0].data
    assert any(note.startswith(f"sampling {how}") for note in module.notes)
    order = module.order(1, 0)
    indices = [index for epoch in range(20) for batch in order.batches(epoch) for _, index in batch]
    counts = torch.bincount(torch.tensor(indices), minlength=len(module.train)).double().numpy()
    expected = module.factors * len(indices) / module.factors.sum()
    assert abs(counts - expected).max() <= 0.25 * expected.max() + 2


def test_a_run_with_sampling_goes_on_inside_the_epoch(options_of, monkeypatch):
    from van.engine.callbacks import LastCheckpoint
    from van.engine.guard import Stopped

    options = options_of("classification", epochs=1, batch_size=4, sampling="repeat-factor", repeat_threshold=0.9)
    whole = van.train(**options, output="whole")
    usual = LastCheckpoint.on_train_batch_end

    def stopping(self, trainer, module, outputs, batch, batch_idx):
        usual(self, trainer, module, outputs, batch, batch_idx)
        if trainer.global_step == 3:
            self._save_checkpoint(trainer, str(Path(str(self.dirpath)) / "last.ckpt"))
            raise Stopped

    with monkeypatch.context() as patch:
        patch.setattr(LastCheckpoint, "on_train_batch_end", stopping)
        assert not van.train(**options, output="parts").finished
    with pytest.raises(van.VanError, match="sampling is"):
        van.train(resume="parts", sampling="balanced", repeat_threshold=None)
    van.train(resume="parts")
    paths = (Path(folder) / "checkpoints" / "last.ckpt" for folder in (whole.folder, "parts"))
    one, other = (torch.load(path, weights_only=True)["state_dict"] for path in paths)
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
