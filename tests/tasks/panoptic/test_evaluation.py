"""Panoptic quality, against torchmetrics and against COCO's definition written out."""

import itertools

import numpy as np
import pytest
import torch
from torchmetrics.detection import PanopticQuality

from van.errors import DataError
from van.tasks.panoptic.evaluation import PanopticEvaluator
from van.tasks.panoptic.metrics import METRICS

CLASSES = ["cat", "dog", "sky", "road"]
THINGS = {0, 1}
ISTHING = [True, True, False, False]
KEYS = [metric.key for metric in METRICS]


def random_image(rng, crowds=False, height=24, width=20):
    """Segments that are patches of a coarse grid, in part the same in truth and prediction."""
    coarse = rng.integers(0, 9, (6, 5))
    other = np.where(rng.random(coarse.shape) < 0.25, rng.integers(0, 9, coarse.shape), coarse)
    images = []
    for grid, labels in ((other, None), (coarse, None)):
        ids = np.kron(grid, np.ones((height // 6, width // 5), int))
        ids = np.where(rng.random(ids.shape) < 0.05, np.roll(ids, 1, 1), ids)
        labels = np.array([0, 0, 0, 1, 1, 2, 3, 0, 1]) if rng.random() < 0.7 else rng.integers(0, 4, 9)
        segments = [{"id": i, "label": int(labels[i])} for i in range(1, 9)]
        images.append({"segmentation": torch.from_numpy(ids), "segments": segments})
    if crowds:
        for segment in images[1]["segments"]:
            segment["iscrowd"] = segment["label"] in THINGS and rng.random() < 0.4
    return images


def written_out(images, things=THINGS, number=4):
    """COCO's definition, one pair of segments after the other."""
    iou, tp, fp, fn = (np.zeros(number) for _ in range(4))
    for output, target in images:
        found, true = np.asarray(output["segmentation"]), np.asarray(target["segmentation"])
        masks = {s["id"]: (found == s["id"], s["label"]) for s in output["segments"] if (found == s["id"]).any()}
        real = {s["id"]: (true == s["id"], s["label"], s.get("iscrowd", False)) for s in target["segments"]}
        real = {i: entry for i, entry in real.items() if entry[0].any()}
        matched, hit = set(), set()
        for (i, (mask, label)), (j, (area, true_label, crowd)) in itertools.product(masks.items(), real.items()):
            union = ((mask & (true > 0)) | area).sum()
            if label == true_label and not crowd and (mask & area).sum() / union > 0.5:
                iou[label] += (mask & area).sum() / union
                tp[label] += 1
                matched.add(i)
                hit.add(j)
        for j, (_, label, crowd) in real.items():
            fn[label] += j not in hit and not crowd
        for i, (mask, label) in masks.items():
            excused = true == 0
            for area, true_label, crowd in real.values():
                if crowd and true_label == label:
                    excused = excused | area
            fp[label] += i not in matched and (mask & excused).sum() / mask.sum() <= 0.5
    rows = {k: (iou[k] / (n := tp[k] + fp[k] / 2 + fn[k] / 2), iou[k] / max(tp[k], 1), tp[k] / n)
            for k in range(number) if tp[k] + fp[k] + fn[k]}  # fmt: skip
    groups = (list(rows), [k for k in rows if k in things], [k for k in rows if k not in things])
    return dict(zip(KEYS, [float(np.mean([rows[k][i] for k in g])) for g in groups for i in range(3)], strict=True))


@pytest.mark.parametrize("crowds", [False, True])
def test_as_the_definition_says(crowds):
    rng = np.random.default_rng(0)
    images = [random_image(rng, crowds) for _ in range(12)]
    evaluator = PanopticEvaluator(CLASSES, ISTHING)
    for output, target in images:
        evaluator.update([output], [target])
    values = evaluator.compute()
    assert list(values) == KEYS
    assert 0.1 < values["PQ"] < 0.9
    assert values == pytest.approx(written_out(images))
    rows = evaluator.per_class()
    assert np.mean([row["PQ"] for row in rows]) == pytest.approx(values["PQ"], abs=1e-6)
    assert [row["isthing"] for row in rows] == [True, True, False, False]


def test_crowds_make_a_difference():
    rng = np.random.default_rng(0)
    values = []
    images = [random_image(rng, crowds=True) for _ in range(12)]
    for kept in (True, False):
        evaluator = PanopticEvaluator(CLASSES, ISTHING)
        for output, target in images:
            segments = [{**s, "iscrowd": kept and s["iscrowd"]} for s in target["segments"]]
            evaluator.update([output], [{**target, "segments": segments}])
        values.append(evaluator.compute()["PQ"])
    assert values[0] != pytest.approx(values[1], abs=0.01)


def test_as_torchmetrics_where_there_are_no_crowds():
    rng = np.random.default_rng(1)
    evaluator = PanopticEvaluator(CLASSES, ISTHING)
    reference = PanopticQuality(things=THINGS, stuffs={2, 3}, allow_unknown_preds_category=True, return_sq_and_rq=True)
    for _ in range(8):
        images = []
        for image in random_image(rng):
            labels = torch.tensor([99] + [s["label"] for s in image["segments"]])
            # torchmetrics takes all pixels of a stuff class for one segment
            ids = image["segmentation"]
            if not images:  # unlike COCO it does not count in a union what the prediction leaves open
                ids = ids.clamp(min=1)
            category = labels[ids]
            for label in (2, 3):
                ids = torch.where(category == label, 100 + label, ids)
            segments = [s for s in image["segments"] if s["label"] in THINGS]
            segments += [{"id": 100 + label, "label": label} for label in (2, 3)]
            images.append(({"segmentation": ids, "segments": segments}, torch.stack([category, ids], -1)))
        (output, found), (target, true) = images
        evaluator.update([output], [target])
        reference.update(found[None], true[None])
    values = evaluator.compute()
    assert [values["PQ"], values["SQ"], values["RQ"]] == pytest.approx(reference.compute().tolist(), abs=1e-6)


def test_the_same_segments_are_perfect_whatever_their_numbers():
    _, target = random_image(np.random.default_rng(2))
    output = {
        "segmentation": target["segmentation"] * 1000,
        "segments": [{"id": 1000 * s["id"], "label": s["label"]} for s in target["segments"]],
    }
    evaluator = PanopticEvaluator(CLASSES, ISTHING)
    evaluator.update([output], [target])
    assert set(evaluator.compute().values()) == {1.0}


def test_nothing_found_and_nothing_there():
    evaluator = PanopticEvaluator(CLASSES, ISTHING)
    evaluator.update([], [])
    assert set(evaluator.compute().values()) == {-1.0}
    empty = {"segmentation": torch.zeros(4, 4, dtype=torch.int32), "segments": []}
    cat = {"segmentation": torch.ones(4, 4, dtype=torch.int32), "segments": [{"id": 1, "label": 0}]}
    evaluator.update([cat], [empty])  # all of it lies where nothing is known
    assert evaluator.compute()["PQ"] == -1.0
    evaluator.update([empty], [cat])
    values = evaluator.compute()
    assert (values["PQ"], values["PQ_things"], values["PQ_stuff"]) == (0.0, 0.0, -1.0)
    assert evaluator.per_class()[0] == {"class": "cat", "isthing": True, "segments": 1, "PQ": 0.0, "SQ": 0.0, "RQ": 0.0}
    assert evaluator.per_class()[3]["PQ"] is None
    evaluator.reset()
    evaluator.update([empty], [empty])
    assert evaluator.compute()["PQ"] == -1.0


def test_what_does_not_fit_is_refused():
    evaluator = PanopticEvaluator(CLASSES, ISTHING)
    cat = {"segmentation": np.ones((4, 4), int), "segments": [{"id": 1, "label": 0}]}
    for other, message in (
        ({**cat, "segmentation": np.ones((4, 5), int)}, r"shape \(4, 5\), true ones \(4, 4\)"),
        ({**cat, "segmentation": np.full((4, 4), 3)}, "pixels of segment 3"),
        ({**cat, "segments": [{"id": 1, "label": 4}]}, r"labels \[4\], expected 0 to 3"),
    ):
        with pytest.raises(DataError, match=message):
            evaluator.update([other], [cat])
