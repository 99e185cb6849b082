import csv
import json
import shutil
from pathlib import Path

import pytest
import torch

import van
from van.engine.api import train_options
from van.engine.data import DataModule
from van.errors import DataError, VanError
from van.models.weight_file import read_header
from van.networks.options import SimpleBaselineOptions
from van.tasks.pose.learner import PoseLearner
from van.tasks.pose.options import PoseTrainOptions

pytest.importorskip("faster_coco_eval")

BACKBONE = {"embed_dims": [8, 8, 16, 16], "depths": [1, 1, 1, 1], "mlp_ratios": [2, 2, 2, 2]}
KEYS = ["AP", "AP50", "AP75", "APm", "APl", "AR", "AR50", "AR75", "ARm", "ARl"]


def truth_of(folder):
    return json.loads((folder / "annotations" / "person_keypoints_val.json").read_text())


def persons_of(truth):
    return [a for a in truth["annotations"] if a["num_keypoints"] and not a["iscrowd"]]


class Recorder:
    """Stands in for the evaluator."""

    def __init__(self):
        self.seen = []

    def reset(self):
        self.seen = []

    def update(self, maps, batch):
        self.seen.append((tuple(maps.shape), batch["image_id"].tolist()))

    def compute(self):
        return dict.fromkeys(("AP", "AP50", "AP75"), 0.25)


def batch_of(count):
    generator = torch.Generator().manual_seed(0)
    points = torch.rand(count, 17, 3, generator=generator) * 32
    points[..., 2] = 2.0
    image = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
    return {"image": image, "keypoints": points, "image_id": torch.arange(count)}


@pytest.fixture
def learner(monkeypatch):
    torch.manual_seed(0)
    network = SimpleBaselineOptions(backbone_args=BACKBONE, image_size=[32, 32], channels=8).build(17)
    learner = PoseLearner(network, Recorder(), PoseTrainOptions())
    learner.logged = {}
    monkeypatch.setattr(learner, "log", lambda name, value, **_: learner.logged.update({name: value}))
    return learner


class TestLearner:
    def test_learns_a_batch(self, learner):
        batch = batch_of(4)
        optimizer = torch.optim.Adam(learner.parameters(), 1e-2)
        losses = []
        for _ in range(30):
            optimizer.zero_grad()
            (loss,) = learner.losses(batch).values()
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert losses[-1] < 0.5 * losses[0]

    def test_positions_of_unlabeled_keypoints_change_nothing(self, learner):
        batch = batch_of(2)
        batch["keypoints"][:, 5, 2] = 0
        before = learner.losses(batch)["heat_map"]
        batch["keypoints"][:, 5, :2] += 7
        assert learner.losses(batch)["heat_map"] == before
        batch["keypoints"][:, 6, :2] += 7
        assert learner.losses(batch)["heat_map"] != before

    def test_validation_gives_maps_to_the_evaluator(self, learner):
        learner.eval()
        learner.on_validation_epoch_start()
        learner.validation_step(batch_of(3), 0)
        assert learner.evaluator.seen == [((3, 17, 8, 8), [0, 1, 2])]
        learner.on_validation_epoch_end()
        assert learner.logged["val_AP"] == 0.25
        assert learner.logged["val_loss"].compute() > 0


class TestTrain:
    def test_tables_and_weights(self, run_of):
        folder = run_of("pose").folder
        with (folder / "metrics.csv").open() as file:
            rows = list(csv.DictReader(file))
        columns = ["epoch", "lr", "train_loss", "val_loss", "val_AP", "val_AP50", "val_AP75", "seconds"]
        assert list(rows[0]) == columns
        assert (folder / "keypoint_results.json").is_file()
        header = read_header(folder)
        assert (header.task, header.class_names) == ("pose", ["person"])
        assert header.model["image_size"] == [64, 64]
        assert header.extra["keypoint_names"][:2] == ["nose", "left_eye"]
        assert header.extra["flip_pairs"][0] == [1, 2]

    def test_starts_from_a_backbone(self, options_of, run_of):
        model = {**options_of("pose")["model"], "backbone_args": {}}
        backbone = run_of("classification").folder
        options = options_of("pose", pretrained=str(backbone), epochs=1, output="new")
        assert van.train(**options).finished
        assert "norm_eps" in read_header("new").model["backbone_args"]
        with pytest.raises(VanError, match="backbone"):
            van.train(**{**options, "model": model, "output": "other"})

    @pytest.mark.parametrize(
        ("changes", "words"),
        [({"keypoints": 5}, "keypoints is 5"), ({"model": {"image_size": [60, 64]}}, "multiples of 32")],
    )
    def test_wrong_options_write_nothing(self, options_of, changes, words):
        with pytest.raises(VanError, match=words):
            van.train(**{**options_of("pose", output="new"), **changes})
        assert not Path("new").exists()

    def test_bad_annotations_are_refused_or_skipped(self, options_of, data):
        shutil.copytree(data["pose"], "bad")
        path = Path("bad/annotations/person_keypoints_train.json")
        content = json.loads(path.read_text())
        content["annotations"][0]["keypoints"] = content["annotations"][0]["keypoints"][:-3]
        path.write_text(json.dumps(content))
        options = options_of("pose", data="bad", output="new", epochs=1)
        with pytest.raises(DataError, match=f"annotation {content['annotations'][0]['id']}"):
            van.train(**options)
        assert van.train(**options, on_bad_image="skip").finished

    def test_data_of_several_processes(self, options_of, monkeypatch):
        """Each person is validated by one process only."""
        task, options = train_options("pose", None, {k: v for k, v in options_of("pose").items() if k != "task"})
        data = task.data(options, 2)
        assert isinstance(data, DataModule)
        seen = []
        for rank in range(2):
            monkeypatch.setattr("van.data.loaders.processes_and_rank", lambda *_, rank=rank: (2, rank))
            seen += [index for batch in data.val_dataloader() for index in batch["index"].tolist()]
        assert sorted(seen) == list(range(len(data.val)))


class TestEvaluate:
    def test_ten_metrics_and_results(self, cli, run_of, data):
        folder = run_of("pose").folder
        status, out, err = cli("evaluate", "--weights", folder, "--data", data["pose"], "--output", "new")
        assert status == 0, err
        report = json.loads(Path("new/evaluation.json").read_text())
        assert list(report)[-10:] == KEYS
        assert report["flip_test"] is True
        assert report["boxes"] == "annotated"
        assert all(f"keypoint {key} " in out for key in KEYS)
        results = json.loads(Path("new/keypoint_results.json").read_text())
        persons = persons_of(truth_of(data["pose"]))
        assert sorted(r["image_id"] for r in results) == sorted(a["image_id"] for a in persons)
        assert {len(r["keypoints"]) for r in results} == {51}

    def test_detector_boxes(self, run_of, data):
        persons = persons_of(truth_of(data["pose"]))
        found = [
            {"image_id": a["image_id"], "category_id": c, "bbox": a["bbox"], "score": s}
            for a in persons
            for c, s in ((1, 0.9), (1, 0.6), (1, 0.2), (2, 0.9))
        ]
        Path("boxes.json").write_text(json.dumps(found))
        options = {"data": data["pose"], "boxes": "boxes.json", "quiet": True}
        van.evaluate(run_of("pose").folder, **options, score_threshold=0.5, output="new")
        # the second box of each person gives the same pose, which is left out
        assert len(json.loads(Path("new/keypoint_results.json").read_text())) == len(persons)
        assert json.loads(Path("new/evaluation.json").read_text())["boxes"] == "boxes.json"
        van.evaluate(run_of("pose").folder, **options, oks_threshold=1.0, flip_test=False, output="all")
        assert len(json.loads(Path("all/keypoint_results.json").read_text())) == 3 * len(persons)

    def test_a_threshold_without_boxes_is_refused(self, run_of, data):
        with pytest.raises(VanError, match=r"score_threshold is 0\.4, which has no effect on annotated boxes"):
            van.evaluate(run_of("pose").folder, data["pose"], score_threshold=0.4, output="new", quiet=True)
        assert not Path("new").exists()

    def test_other_keypoints_are_refused(self, run_of, data):
        shutil.copytree(data["pose"], "other")
        path = Path("other/annotations/person_keypoints_val.json")
        path.write_text(path.read_text().replace('"nose"', '"beak"'))
        with pytest.raises(DataError, match="beak"):
            van.evaluate(run_of("pose").folder, "other", output="new", quiet=True)
        assert not Path("new").exists()


def test_images_of_the_same_name_keep_their_pictures(cli, weights, image, tmp_path):
    for name in ("a/x.png", "b/x.png", "b/X.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        image.save(tmp_path / name)
    assert cli("predict", "a", "b", "--weights", weights, "--output", "new")[0] == 0
    assert sorted(p.name for p in (tmp_path / "new").glob("*.jpg")) == ["X-2.jpg", "x-3.jpg", "x.jpg"]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_stick_figures_are_learned():
    run = van.train("pose", output="new", workers=0, quiet=True)
    assert json.loads((run.folder / "evaluation.json").read_text())["AP50"] >= 0.8
