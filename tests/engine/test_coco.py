import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch.distributed as dist

from van.data.coco import CocoFiles, CocoSplit
from van.engine.coco import KEYS, CocoEvaluator, coco_metrics
from van.errors import DataError, VanError
from van.tasks.detection.errors import DetectionErrors

mask_tools = pytest.importorskip("faster_coco_eval.core.mask")


@pytest.fixture
def open_truth(tmp_path):
    """An evaluator of the content of an annotation file."""

    def make(truth, kind="bbox"):
        path = tmp_path / "truth.json"
        path.write_text(json.dumps(truth))
        return CocoEvaluator(CocoSplit(CocoFiles(tmp_path, path)), kind)

    return make


def rle(mask):
    code = mask_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "size": [int(side) for side in code["size"]],
        "counts": code["counts"].decode() if isinstance(code["counts"], bytes) else code["counts"],
    }


def ellipse(rng, size):
    y, x = np.mgrid[:size, :size]
    a, b = rng.uniform(3, size / 3, 2)
    cx, cy = rng.uniform(a, size - a), rng.uniform(b, size - b)
    return ((x - cx) / a) ** 2 + ((y - cy) / b) ** 2 <= 1


def box_of(mask):
    y, x = np.nonzero(mask)
    return [float(x.min()), float(y.min()), float(np.ptp(x) + 1), float(np.ptp(y) + 1)]


def made_up(images=8, size=160, seed=0):
    """Objects of three categories (one of them without objects) with crowd regions, and imperfect results for them."""
    rng = np.random.default_rng(seed)
    truth = {
        "images": [{"id": 10 + i, "file_name": f"{i}.jpg", "width": size, "height": size} for i in range(images)],
        "categories": [{"id": 2, "name": "a"}, {"id": 5, "name": "b"}, {"id": 9, "name": "never"}],
        "annotations": [],
    }
    results = []
    for image in truth["images"][1:]:  # the first has no object
        for _ in range(rng.integers(1, 6)):
            mask, points = ellipse(rng, size), rng.uniform(0, size, (17, 3))
            points[:, 2] = rng.integers(0, 3, 17)
            category = int(rng.choice([2, 5]))
            crowd = bool(rng.random() < 0.15)
            truth["annotations"].append(
                {
                    "id": len(truth["annotations"]) + 1, "image_id": image["id"], "category_id": category,
                    "bbox": box_of(mask), "segmentation": rle(mask), "area": int(mask.sum()), "iscrowd": int(crowd),
                    "keypoints": points.ravel().tolist(), "num_keypoints": int((points[:, 2] > 0).sum()),
                }
            )  # fmt: skip
            for _ in range(rng.integers(0, 4)):
                moved = np.roll(mask, tuple(rng.integers(-6, 7, 2)), (0, 1))
                near = points.copy()
                near[:, :2] += rng.normal(0, size / 80, (17, 2))
                results.append(
                    {
                        "image_id": image["id"], "category_id": category if rng.random() < 0.8 else 5,
                        "bbox": box_of(moved), "segmentation": rle(moved), "score": float(rng.random()),
                        "keypoints": near.ravel().tolist(),
                    }
                )  # fmt: skip
    return truth, results


def reference(truth, results, kind):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    kept = {"bbox": "bbox", "segm": "segmentation", "keypoints": "keypoints"}[kind]
    plain = [{k: r[k] for k in ("image_id", "category_id", "score", kept)} for r in copy.deepcopy(results)]
    with contextlib.redirect_stdout(io.StringIO()):
        known = COCO()
        known.dataset = {"info": {}, **copy.deepcopy(truth)}
        known.createIndex()
        run = COCOeval(known, known.loadRes(plain), kind)
        run.evaluate()
        run.accumulate()
        run.summarize()
    return run.stats


@pytest.mark.parametrize("kind", ["bbox", "segm", "keypoints"])
@pytest.mark.parametrize("seed", [0, 1])
def test_agrees_with_pycocotools(kind, seed, open_truth):
    pytest.importorskip("pycocotools")
    truth, results = made_up(seed=seed)
    evaluator = open_truth(truth, kind)
    half = len(results) // 2
    evaluator.update(results[:half])
    evaluator.update(results[half:])
    values = evaluator.compute()
    expected = reference(truth, results, kind)
    assert tuple(values) == KEYS[kind]
    assert list(values.values()) == pytest.approx(list(expected), abs=1e-9)
    assert 0.05 < values["AP"] < 0.95  # a case that can tell


@pytest.mark.parametrize("kind", ["bbox", "segm"])
@pytest.mark.parametrize("seed", [0, 1])
def test_overlaps_lead_to_the_same_ap50(kind, seed, open_truth):
    truth, results = made_up(seed=seed)
    evaluator = open_truth(truth, kind)
    evaluator.update(results)
    images = list(evaluator.overlaps())
    assert [image.image_id for image in images] == [image["id"] for image in truth["images"]]
    assert any(image.ignored.any() for image in images)
    expected = evaluator.compute()["AP50"]
    assert DetectionErrors(images, evaluator.category_ids).ap50() == pytest.approx(expected, abs=1e-3)
    assert len(next(evaluator.overlaps(most=0)).found) == 0


def test_perfect_results(open_truth):
    truth, _ = made_up()
    for kind in KEYS:
        evaluator = open_truth(truth, kind)
        evaluator.update({**a, "score": 1.0} for a in truth["annotations"] if not a["iscrowd"])
        assert evaluator.compute()["AP"] == pytest.approx(1.0)


def test_no_results_and_no_objects(open_truth):
    truth, _ = made_up()
    assert open_truth(truth, "bbox").compute()["AP"] == 0.0
    evaluator = open_truth({**truth, "annotations": []}, "bbox")
    evaluator.update([{"image_id": 11, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.5}])
    assert evaluator.compute()["AP"] == -1.0
    assert [row["AP"] for row in evaluator.per_category()] == [None] * 3


def test_per_category(open_truth):
    truth, results = made_up()
    evaluator = open_truth(truth, "bbox")
    evaluator.update(results)
    rows = evaluator.per_category()
    assert [(row["class"], row["id"]) for row in rows] == [("a", 2), ("b", 5), ("never", 9)]
    assert rows[2]["AP"] is None
    assert np.mean([row["AP"] for row in rows[:2]]) == pytest.approx(evaluator.compute()["AP"], abs=1e-5)
    assert sum(row["objects"] for row in rows) == sum(not a["iscrowd"] for a in truth["annotations"])


def test_ids_of_the_file_do_not_matter(open_truth):
    """An id of 0, and one that comes twice, would spoil COCO's own matching."""
    truth, results = made_up()
    clean = open_truth(truth, "bbox")
    clean.update(results)
    for annotation in truth["annotations"]:
        annotation["id"] //= 3
        del annotation["iscrowd"]
    expected = copy.deepcopy(truth)
    odd = open_truth(truth, "bbox")
    odd.update(results)
    again = open_truth({**expected, "annotations": [{**a, "id": i + 1} for i, a in enumerate(expected["annotations"])]})
    again.update(results)
    assert odd.compute() == again.compute()
    assert truth == expected  # what was given is left as it was


def test_only_what_counts(open_truth):
    truth, results = made_up()
    evaluator = open_truth(truth, "segm")
    evaluator.update(results)
    other = open_truth(truth, "segm")
    other.update([*results, *({**r, "image_id": 999} for r in results), *({**r, "category_id": 77} for r in results)])
    assert evaluator.compute() == other.compute()
    assert other.results == results


def test_results_file(open_truth, tmp_path):
    truth, results = made_up()
    evaluator = open_truth(truth, "segm")
    evaluator.update(results)
    values = evaluator.compute()
    path = evaluator.write_results(tmp_path / "detections.json")
    assert json.loads(path.read_text()) == results  # evaluation adds nothing to them
    again = open_truth(truth, "segm")
    again.update(json.loads(path.read_text()))
    assert again.compute() == values
    evaluator.reset()
    assert evaluator.compute()["AP"] == 0.0


def test_results_of_several_processes(monkeypatch, open_truth):
    truth, results = made_up()
    whole = open_truth(truth, "bbox")
    whole.update(results)
    expected = whole.compute()

    def gather(parts, own):
        parts[0], parts[1] = own, results[20:]

    half = open_truth(truth, "bbox")
    half.update(results[:20])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert half.compute() == expected
    assert half.results == results


def test_wrong_use(open_truth):
    truth, _ = made_up()
    with pytest.raises(VanError, match="no segmentation"):
        open_truth(truth, "segm").update([{"image_id": 11, "category_id": 2, "score": 1.0, "bbox": [0, 0, 1, 1]}])
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(DataError, match="annotation 1 has no mask"):
        open_truth(truth, "segm")


def test_metrics_have_one_spelling():
    metrics = coco_metrics("segm", "mask", "mask_")
    assert [metric.key for metric in metrics[:4]] == ["mask_AP", "mask_AP50", "mask_AP75", "mask_APs"]
    assert metrics[1].label == "mask AP50"
    assert metrics[0].text(-1.0) == "-"
