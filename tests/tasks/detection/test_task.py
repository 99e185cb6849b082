import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import van
from van.errors import DataError, VanError, WeightsError
from van.models.weight_file import Header, read_weights, write_weights
from van.tasks.detection.evaluation import detections_of
from van.tasks.detection.task import DETECTION, INSTANCES

pytest.importorskip("faster_coco_eval")


class TestPrediction:
    def test_in_the_pixels_of_the_image(self, with_masks, pictures):
        found = van.load(with_masks, score_threshold=0.0, batch_size=2)(pictures)
        assert [f.size for f in found] == [(48, 64), (80, 64), (64, 64)]
        for one in found:
            height, width = one.size
            assert 0 < len(one) <= 5
            assert (one.boxes[:, :2] >= 0).all()
            assert (one.boxes[:, 2] <= width).all()
            assert (one.boxes[:, 3] <= height).all()
            assert one.masks.shape == (len(one), height, width)
            assert one.masks.dtype == bool
            assert (np.diff(one.scores) <= 0).all()
            assert set(one.classes) <= {"cat", "dog", "emu"}
            assert {o["category_id"] for o in one.to_dict()["objects"]} <= {4, 7, 9}

    def test_same_as_the_network(self, boxes_only, pictures):
        predictor = van.load(boxes_only, score_threshold=0.0, device="cpu")
        image = torch.from_numpy(np.asarray(Image.open(pictures[0])).copy()).permute(2, 0, 1)
        with torch.no_grad():
            (output,) = predictor.model([image])
        found = predictor(pictures[0])
        assert found.masks is None
        assert found.boxes == pytest.approx(output["boxes"].numpy(), abs=1e-4)
        assert found.labels.tolist() == output["labels"].tolist()

    def test_best_first_and_none_without_area(self):
        output = {
            "boxes": torch.tensor([[0.0, 0, 1, 1], [0.0, 0, 2, 2], [3.0, 0, 3, 2], [0.0, 1, 4, 1.001]]),
            "labels": torch.tensor([0, 1, 0, 0]), "scores": torch.tensor([0.25, 0.5, 0.9, 0.8]),
            "masks": torch.tensor([0.4, 0.6, 0.9, 0.9])[:, None, None, None].expand(4, 1, 3, 4),
        }  # fmt: skip
        found = detections_of(output, (3, 4), ["a", "b"])
        assert found.labels.tolist() == [1, 0]
        assert found.masks.all(axis=(1, 2)).tolist() == [True, False]

    def test_score_threshold(self, boxes_only, pictures):
        everything = van.load(boxes_only, score_threshold=0.0)(pictures[0])
        threshold = float(np.median(everything.scores))
        some = van.load(boxes_only, score_threshold=threshold)(pictures[0])
        assert 0 < len(some) < len(everything)
        assert (some.scores >= threshold).all()
        assert some.best_score == everything.scores[0]

    def test_max_detections(self, boxes_only, pictures):
        everything = van.load(boxes_only, score_threshold=0.0)(pictures[0])
        few = van.load(boxes_only, score_threshold=0.0, max_detections=2)(pictures[0])
        assert few.scores.tolist() == everything.scores[:2].tolist()
        more = van.load(boxes_only, score_threshold=0.0, max_detections=200)(pictures[0])
        assert len(everything) <= 30 < len(more)

    def test_classes(self, boxes_only, pictures):
        everything = van.load(boxes_only, score_threshold=0.0)(pictures[0])
        assert set(everything.labels) == {0, 1, 2}
        some = van.load(boxes_only, score_threshold=0.0, classes=["emu", "cat"])(pictures[0])
        assert some.labels.tolist() == [label for label in everything.labels if label != 1]
        with pytest.raises(VanError, match=r"'ca'.*cat"):
            van.load(boxes_only, classes=["ca"])

    @pytest.mark.parametrize(
        ("changes", "same_class"), [({"iou": 0.1}, True), ({"iou": 0.1, "agnostic_nms": True}, False)]
    )
    def test_overlaps(self, boxes_only, pictures, changes, same_class):
        from torchvision.ops import box_iou

        def overlapping(found):
            iou = box_iou(*[torch.from_numpy(found.boxes)] * 2).fill_diagonal_(0) > 0.11
            same = torch.from_numpy(found.labels[:, None] == found.labels)
            return int((iou & same).sum()), int((iou & ~same).sum())

        before = overlapping(van.load(boxes_only, score_threshold=0.0, max_detections=100)(pictures[0]))
        assert min(before) > 0
        options = {"score_threshold": 0.0, "max_detections": 100, **changes}
        within, between = overlapping(van.load(boxes_only, **options)(pictures[0]))
        assert within == 0
        assert (between > 0) == same_class

    def test_detrs_have_no_suppression(self, weights_of, pictures):
        pytest.importorskip("transformers")
        sizes = {"queries": 10, "encoder_layers": 1, "decoder_layers": 2, "feedforward_width": 16}
        weights = weights_of("rt_detr", **sizes, denoising_queries=0)
        with pytest.raises(VanError, match="rt_detr has no"):
            van.load(weights, iou=0.5)
        few = van.load(weights, iou=0.01, agnostic_nms=True, score_threshold=0.0)(pictures[0])
        assert len(few) <= len(van.load(weights, score_threshold=0.0)(pictures[0]))

    @pytest.mark.parametrize(
        ("options", "words"),
        [({"score_threshold": 2.0}, "score_threshold is 2"), ({"iou": -1.0}, "iou is -1"), ({"classes": []}, "classes"),
         ({"max_detections": 0}, "max_detections is 0"), ({"threshold": 0.5}, "score_threshold")],
    )  # fmt: skip
    def test_wrong_options(self, boxes_only, options, words):
        with pytest.raises(VanError, match=words):
            van.load(boxes_only, **options)

    def test_weights_that_do_not_fit(self, boxes_only, tmp_path):
        header, tensors = read_weights(boxes_only)
        del tensors[next(key for key in tensors if key.endswith("weight"))]
        with pytest.raises(WeightsError, match="fit"):
            van.load(write_weights(header, tensors, tmp_path / "a.safetensors"))
        other = write_weights(Header("detection", ["a"], {"size": 3}, {}), tensors, tmp_path / "b.safetensors")
        with pytest.raises(VanError, match="'size'"):
            van.load(other)


class TestOptions:
    def test_each_task_has_its_architectures(self):
        assert DETECTION.network_options("fcos")
        assert INSTANCES.network_options("cascade_mask_rcnn")
        with pytest.raises(VanError, match="instances"):
            DETECTION.network_options("mask_rcnn")
        with pytest.raises(VanError, match="detection"):
            INSTANCES.network_options("fcos")

    def test_evaluation_takes_what_means_something_there(self, cli, boxes_only):
        out = cli("evaluate", "--weights", boxes_only, "--help")[1]
        assert all(name in out for name in ("--iou", "--score-threshold"))
        assert not any(name in out for name in ("--classes", "--max-detections", "--agnostic-nms"))

    def test_metrics_differ_by_masks(self):
        assert (DETECTION.metrics[0].key, DETECTION.metrics[0].label) == ("AP", "box AP")
        assert (INSTANCES.metrics[0].key, INSTANCES.metrics[0].label) == ("mask_AP", "mask AP")


class TestEvaluation:
    @pytest.fixture
    def own(self, data, tmp_path):
        """A copy of the data that a test may spoil."""
        return shutil.copytree(data["detection"], tmp_path / "own")

    @pytest.fixture
    def measure(self, run_of):
        def measure(data, output, **options):
            return van.evaluate(run_of("detection").folder, data, workers=0, output=output, quiet=True, **options)

        return measure

    @staticmethod
    def spoil(folder, function):
        path = folder / "annotations" / "instances_val.json"
        content = json.loads(path.read_text())
        function(content)
        path.write_text(json.dumps(content))

    @pytest.mark.parametrize("task", ["detection", "instances"])
    def test_pycocotools_reads_the_results_and_agrees(self, run_of, data, tmp_path, task):
        coco = pytest.importorskip("pycocotools.coco")
        cocoeval = pytest.importorskip("pycocotools.cocoeval")
        content = json.loads((run_of(task).folder / "evaluation.json").read_text())
        results = json.loads((run_of(task).folder / "detections.json").read_text())
        truth = coco.COCO(str(data[task] / "annotations" / "instances_val.json"))
        for kind, prefix in (("bbox", ""), ("segm", "mask_")):
            if f"{prefix}AP" not in content:
                continue
            plain = [{k: v for k, v in r.items() if k != "bbox" or kind == "bbox"} for r in results]
            evaluation = cocoeval.COCOeval(truth, truth.loadRes(plain), kind)
            evaluation.evaluate()
            evaluation.accumulate()
            evaluation.summarize()
            names = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR1", "AR10", "AR100", "ARs", "ARm", "ARl"]
            values = [content[prefix + name] for name in names]
            assert values == pytest.approx(evaluation.stats.tolist(), abs=1e-9)
        assert [row["type"] for row in content["errors"]] == ["cls", "loc", "both", "dupe", "bkg", "miss"]
        assert 0 <= content["best_F1"]["threshold"] <= 1
        for name in ("confusion_matrix.png", "precision_recall.png", "f1_threshold.png", "errors.png"):
            assert (run_of(task).folder / name).is_file()
        assert (run_of(task).folder / "worst_images.csv").read_text().startswith("image,objects,correct,wrong_class")
        assert sum(row["objects"] for row in content["per_class"]) == sum(
            not a["iscrowd"] for a in truth.dataset["annotations"]
        )

    def test_classes_are_matched_by_name(self, measure, data, own):
        before = measure(data["detection"], "before")

        def renumber(content):
            for record in content["categories"]:
                record["id"] += 50
            for record in content["annotations"]:
                record["category_id"] += 50
            content["categories"].reverse()

        self.spoil(own, renumber)
        assert measure(own, "renumbered") == pytest.approx(before, abs=2e-3)
        self.spoil(own, lambda c: c["categories"].append({"id": 99, "name": "unused"}))
        assert measure(own, "more") == pytest.approx(before, abs=2e-3)
        self.spoil(own, lambda c: [r.update(name="ghost") for r in c["categories"] if r["name"] == "person"])
        with pytest.raises(DataError, match=r"ghost.*person"):
            measure(own, "unknown")

    def test_train_split_and_sheet(self, measure, data):
        measure(data["detection"], "out", split="train", score_threshold=0.05)
        assert json.loads(Path("out/evaluation.json").read_text())["images"] == 16
        with Image.open("out/predictions.png") as picture:
            assert np.asarray(picture.convert("L")).std() > 5

    def test_bad_annotations_are_refused_or_skipped(self, measure, own, tmp_path):
        self.spoil(own, lambda content: content["annotations"][0].update(category_id=77))
        with pytest.raises(DataError, match="77"):
            measure(own, "refused")
        assert not (tmp_path / "refused").exists()
        assert "AP" in measure(own, "skipped", on_bad_image="skip")

    def test_everything_counts_whatever_the_threshold(self, measure, data):
        assert measure(data["detection"], "low", score_threshold=0.0) == measure(
            data["detection"], "high", score_threshold=1.0
        )


def test_csv_is_refused_before_anything_is_written(cli, boxes_only, pictures, tmp_path):
    status, _, err = cli("predict", pictures[0], "--weights", boxes_only, "--output", "out.csv")
    assert status == 1
    assert ".jsonl" in err
    assert not (tmp_path / "out.csv").exists()


@pytest.mark.parametrize(
    ("min_size", "augmentation"),
    [
        ([64], {"scale_range": [0.5, 1.5], "crop_size": [64, 64], "photometric": 0.5}),
        ([48, 64], {"random_crop": 0.5, "random_crop_resize": [40, 48], "random_crop_range": [32, 48]}),
    ],
    ids=["jitter", "crop"],
)
def test_sizes_ema_and_half_precision(options_of, min_size, augmentation):
    options = options_of("instances", epochs=1, output="run", precision="bf16-mixed")
    options["model"] = {**options["model"], "min_size": min_size}
    run = van.train(**options, augmentation=augmentation, optimization={"ema_decay": 0.9})
    assert "mask_AP" in run.metrics
