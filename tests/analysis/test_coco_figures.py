import contextlib
import copy
import io
import json

import numpy as np
import pytest
import torch.distributed as dist
from van.analysis.coco import FIGURES, CocoEvaluator

from van.errors import DataError, VanError

mask_tools = pytest.importorskip("faster_coco_eval.core.mask")


def rle(mask):
    code = mask_tools.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {
        "size": code["size"],
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
def test_agrees_with_pycocotools(kind, seed):
    pytest.importorskip("pycocotools")
    truth, results = made_up(seed=seed)
    evaluator = CocoEvaluator(truth, kind)
    half = len(results) // 2
    evaluator.update(results[:half])
    evaluator.update(results[half:])
    figures = evaluator.compute()
    expected = reference(truth, results, kind)
    assert tuple(figures) == FIGURES[kind]
    assert list(figures.values()) == pytest.approx(list(expected), abs=1e-9)
    assert 0.05 < figures["AP"] < 0.95  # a case that can tell


def test_perfect_results():
    truth, _ = made_up()
    for kind in FIGURES:
        evaluator = CocoEvaluator(truth, kind)
        evaluator.update({**a, "score": 1.0} for a in truth["annotations"] if not a["iscrowd"])
        assert evaluator.compute()["AP"] == pytest.approx(1.0)


def test_no_results_and_no_objects():
    truth, _ = made_up()
    assert CocoEvaluator(truth, "bbox").compute()["AP"] == 0.0
    evaluator = CocoEvaluator({**truth, "annotations": []}, "bbox")
    evaluator.update([{"image_id": 11, "category_id": 2, "bbox": [1, 2, 30, 40], "score": 0.5}])
    assert evaluator.compute()["AP"] == -1.0
    assert [row["AP"] for row in evaluator.per_category()] == [None] * 3


def test_per_category():
    truth, results = made_up()
    evaluator = CocoEvaluator(truth, "bbox")
    evaluator.update(results)
    rows = evaluator.per_category()
    assert [(row["class"], row["id"]) for row in rows] == [("a", 2), ("b", 5), ("never", 9)]
    assert rows[2]["AP"] is None
    assert np.mean([row["AP"] for row in rows[:2]]) == pytest.approx(evaluator.compute()["AP"], abs=1e-5)
    assert sum(row["objects"] for row in rows) == sum(not a["iscrowd"] for a in truth["annotations"])


def test_ids_of_the_file_do_not_matter():
    """An id of 0, and one that comes twice, would spoil COCO's own matching."""
    truth, results = made_up()
    clean = CocoEvaluator(truth, "bbox")
    clean.update(results)
    for annotation in truth["annotations"]:
        annotation["id"] //= 3
        del annotation["iscrowd"]
    expected = copy.deepcopy(truth)
    odd = CocoEvaluator(truth, "bbox")
    odd.update(results)
    again = CocoEvaluator(
        {**expected, "annotations": [{**a, "id": i + 1} for i, a in enumerate(expected["annotations"])]}
    )
    again.update(results)
    assert odd.compute() == again.compute()
    assert truth == expected  # what was given is left as it was


def test_only_what_counts():
    truth, results = made_up()
    some = [image["id"] for image in truth["images"][:4]]
    dropped = {a["id"] for a in truth["annotations"] if a["image_id"] == some[1]}
    evaluator = CocoEvaluator(truth, "segm", image_ids=some, drop=dropped)
    evaluator.update(results)
    small = copy.deepcopy(truth)
    small["images"] = small["images"][:4]
    small["annotations"] = [a for a in small["annotations"] if a["image_id"] in some[2:]]
    expected = CocoEvaluator(small, "segm")
    expected.update(r for r in results if r["image_id"] in some)
    assert evaluator.compute() == expected.compute()
    assert {r["image_id"] for r in evaluator.results} <= set(some)


def test_results_file(tmp_path):
    truth, results = made_up()
    (tmp_path / "truth.json").write_text(json.dumps(truth))
    evaluator = CocoEvaluator(tmp_path / "truth.json", "segm")
    evaluator.update(results)
    figures = evaluator.compute()
    path = evaluator.write_results(tmp_path / "detections.json")
    assert json.loads(path.read_text()) == results  # evaluation adds nothing to them
    again = CocoEvaluator(tmp_path / "truth.json", "segm")
    again.update(json.loads(path.read_text()))
    assert again.compute() == figures
    evaluator.reset()
    assert evaluator.compute()["AP"] == 0.0


def test_results_of_several_processes(monkeypatch):
    truth, results = made_up()
    whole = CocoEvaluator(truth, "bbox")
    whole.update(results)
    expected = whole.compute()

    def gather(parts, own):
        parts[0], parts[1] = own, results[20:]

    half = CocoEvaluator(truth, "bbox")
    half.update(results[:20])
    monkeypatch.setattr(dist, "is_initialized", lambda: True)
    monkeypatch.setattr(dist, "get_world_size", lambda: 2)
    monkeypatch.setattr(dist, "all_gather_object", gather)
    assert half.compute() == expected
    assert half.results == results


@pytest.mark.parametrize(
    ("content", "words"),
    [("[1]", "lists images"), ('{"images": []}', "lists images"), ("{", "cannot be read"), (None, "cannot be read")],
)
def test_not_an_annotation_file(tmp_path, content, words):
    path = tmp_path / "truth.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(DataError, match=words) as error:
        CocoEvaluator(path)
    assert "truth.json" in str(error.value)


def test_wrong_use():
    truth, _ = made_up()
    with pytest.raises(VanError, match=r"'boxes'.*bbox, segm, keypoints"):
        CocoEvaluator(truth, "boxes")
    with pytest.raises(VanError, match="no segmentation"):
        CocoEvaluator(truth, "segm").update([{"image_id": 11, "category_id": 2, "score": 1.0, "bbox": [0, 0, 1, 1]}])
    for annotation in truth["annotations"]:
        annotation["segmentation"] = []
    with pytest.raises(DataError, match="annotation 1 has no mask"):
        CocoEvaluator(truth, "segm")
