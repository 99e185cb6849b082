import pytest
import torch

import van  # noqa: F401 - registers the backbones
from van.errors import DataError, VanError
from van.networks.segmentation.options import Mask2FormerOptions
from van.networks.segmentation.queries import segments

pytest.importorskip("transformers")
TINY = {"embed_dims": (8, 8, 16, 16), "depths": (1, 1, 1, 1), "mlp_ratios": (2, 2, 2, 2)}
SMALL = {
    "pyramid_channels": 64, "queries": 6, "encoder_layers": 1, "decoder_layers": 1, "encoder_width": 32,
    "decoder_width": 32, "heads": 4, "points": 128,
}  # fmt: skip


@pytest.fixture
def model():
    torch.manual_seed(0)
    return Mask2FormerOptions(backbone_args=TINY, **SMALL).build(3)


def outputs(*found: tuple[int, float, tuple[int, int, int, int]], size=(30, 40)):
    """What the network would say of an image: (label, probability of it, box of the mask in cells of 4 pixels)."""
    classes = torch.full((1, len(found), 4), -20.0)
    masks = torch.full((1, len(found), 8, 10), -20.0)
    for i, (label, probability, (x1, y1, x2, y2)) in enumerate(found):
        classes[0, i, label] = torch.tensor(probability).log()
        classes[0, i, 3] = torch.tensor(1 - probability).log()
        masks[0, i, y1:y2, x1:x2] = 20.0
    return {"class_logits": classes, "mask_logits": masks, "size": size}


class TestTraining:
    def test_segments_of_different_numbers_and_none(self, model):
        images = torch.rand(2, 3, 50, 60)
        masks = torch.zeros(3, 50, 60, dtype=torch.bool)
        masks[0, :20], masks[1, 20:, :30], masks[2, 20:, 30:] = True, True, True
        targets = [
            {"masks": masks, "labels": torch.tensor([0, 1, 1])},
            {"masks": masks[:0], "labels": torch.zeros(0, dtype=torch.long)},
        ]
        losses = model.train()(images, targets)
        assert set(losses) == {"class", "mask", "dice"}
        torch.stack(list(losses.values())).sum().backward()
        assert all(p.grad.isfinite().all() for p in model.parameters() if p.grad is not None)
        empty = model(images, [targets[1], targets[1]])
        assert empty["class"].item() > 0
        assert empty["mask"].item() == empty["dice"].item() == 0

    def test_labels_are_the_same_as_a_mask_for_each_class(self, model):
        images, labels = torch.rand(2, 3, 64, 64), torch.randint(0, 2, (2, 64, 64))
        labels[:, 50:] = 255
        masks = [{"masks": torch.stack([m == 0, m == 1]), "labels": torch.tensor([0, 1])} for m in labels]
        model.train()
        torch.manual_seed(1)
        one = model(images, labels)
        torch.manual_seed(1)
        other = model(images, masks)
        for name in one:
            assert one[name].item() == pytest.approx(other[name].item(), rel=1e-3)

    def test_every_layer_is_supervised(self):
        few, many = (
            Mask2FormerOptions(backbone_args=TINY, **{**SMALL, "decoder_layers": n}).build(3).train() for n in (1, 8)
        )
        images, labels = torch.rand(2, 3, 64, 64), torch.zeros(2, 64, 64, dtype=torch.long)
        losses = [model(images, labels)["class"].item() for model in (few, many)]
        assert losses[1] > 3 * losses[0]

    def test_wrong_targets_are_named(self, model):
        images, mask = torch.rand(2, 3, 64, 64), torch.ones(1, 64, 64)
        good = {"masks": mask, "labels": torch.tensor([2])}
        model.train()
        with pytest.raises(DataError, match="1 targets for 2 images"):
            model(images, [good])
        with pytest.raises(DataError, match=r"masks of shape \(1, 32, 64\), expected \(1, 64, 64\)"):
            model(images, [good, {**good, "masks": mask[:, :32]}])

    def test_wrong_sizes_are_named(self):
        with pytest.raises(VanError, match="pyramid_channels is 48"):
            Mask2FormerOptions(pyramid_channels=48).build(3)


class TestPanoptic:
    THINGS = (0, 1)

    def test_things_stay_apart_and_stuff_is_merged(self, model):
        result = model.panoptic(
            outputs(
                (0, 0.99, (0, 0, 3, 3)), (0, 0.98, (6, 0, 9, 3)), (2, 0.97, (0, 5, 4, 8)), (2, 0.96, (6, 5, 10, 8))
            ),
            self.THINGS,
        )[0]
        segmentation = result["segmentation"]
        assert segmentation.shape == (30, 40)
        assert [(s["label"], s["isthing"]) for s in result["segments"]] == [(0, True), (0, True), (2, False)]
        ids = [s["id"] for s in result["segments"]]
        assert sorted(segmentation.unique().tolist()) == [0, *ids]
        assert [int(segmentation[4, x]) for x in (4, 30)] == ids[:2]
        assert [int(segmentation[26, x]) for x in (4, 30)] == [ids[2]] * 2
        assert result["segments"][0]["score"] == pytest.approx(0.99, abs=1e-3)

    def test_uncertain_and_covered_segments_are_left_out(self, model):
        result = model.panoptic(
            outputs((0, 0.99, (0, 0, 8, 8)), (1, 0.9, (1, 1, 9, 8)), (1, 0.5, (9, 0, 10, 2))), self.THINGS
        )[0]
        assert [s["label"] for s in result["segments"]] == [0]
        kept = model.panoptic(
            outputs((0, 0.99, (0, 0, 8, 8)), (1, 0.9, (1, 1, 9, 8)), (1, 0.5, (9, 0, 10, 2))), self.THINGS, 0.4, 0.05
        )[0]
        assert [s["label"] for s in kept["segments"]] == [0, 1, 1]

    def test_nothing_found(self, model):
        result = model.panoptic(outputs((0, 0.3, (0, 0, 3, 3))), self.THINGS)[0]
        assert result["segments"] == []
        assert not result["segmentation"].any()


class TestInstances:
    def test_boxes_masks_and_scores(self, model):
        found = model.instances(outputs((1, 0.9, (2, 1, 4, 3)), (2, 0.8, (5, 5, 9, 7))), detections=2)[0]
        assert found["labels"].tolist() == [1, 2]
        assert found["scores"].tolist() == pytest.approx([0.9, 0.8], abs=0.02)  # times the masks' own certainty
        assert found["masks"].shape == (2, 30, 40)
        assert found["boxes"].tolist() == [[8, 4, 16, 12], [20, 20, 36, 28]]

    def test_stuff_and_empty_masks_are_no_objects(self, model):
        found = model.instances(outputs((1, 0.9, (2, 1, 4, 3)), (2, 0.8, (5, 5, 9, 7)), (0, 0.9, (0, 0, 0, 0))), (0, 1))
        assert found[0]["labels"][found[0]["scores"] > 0.1].tolist() == [1]
        assert 2 not in found[0]["labels"]
        assert model.instances(outputs((0, 0.9, (0, 0, 0, 0))))[0]["boxes"].shape == (0, 4)


def test_semantic_takes_the_surest_mask_of_each_pixel(model):
    scores = model.semantic(outputs((0, 0.9, (0, 0, 5, 8)), (2, 0.8, (5, 0, 10, 8))))
    assert scores.shape == (1, 3, 30, 40)
    assert scores[0, :, 10, 10].tolist() == pytest.approx([0.9, 0, 0], abs=1e-3)
    assert scores[0, :, 10, 30].argmax() == 2


class TestFixedSize:
    """What exported graphs compute is what the network's methods compute image by image."""

    @pytest.fixture
    def found(self):
        torch.manual_seed(3)
        classes = torch.randn(2, 12, 4)
        masks = torch.randn(2, 12, 8, 10) * 5
        return {"class_logits": classes, "mask_logits": masks, "size": (30, 37)}

    def test_segments(self, model, found):
        result = segments(found["class_logits"], found["mask_logits"], (30, 37), (0, 1), 0.3, 0.05)
        for i, one in enumerate(model.panoptic(found, (0, 1), 0.3, 0.05)):
            assert one["segments"]
            assert torch.equal(result.segmentation[i], one["segmentation"])
            count = len(one["segments"])
            assert result.labels[i].tolist() == [s["label"] for s in one["segments"]] + [-1] * (12 - count)
            torch.testing.assert_close(
                result.scores[i, :count], torch.tensor([s["score"] for s in one["segments"]]), atol=1e-5, rtol=0
            )
        nothing = segments(found["class_logits"], found["mask_logits"], (30, 37), (0, 1), 1.0, 0.3)
        assert not nothing.segmentation.any()
        assert nothing.labels.max() == -1

    def test_stuff_is_merged(self, model):
        some = outputs((2, 0.97, (0, 5, 4, 8)), (0, 0.99, (0, 0, 3, 3)), (2, 0.96, (6, 5, 10, 8)))
        result = segments(some["class_logits"], some["mask_logits"], some["size"], (0, 1), 0.8, 0.8)
        assert torch.equal(result.segmentation[0], model.panoptic(some, (0, 1))[0]["segmentation"])
        assert result.labels[0].tolist() == [2, 0, -1]

    def test_class_scores(self, model, found):
        padded, size = torch.Size((2, 3, 32, 40)), torch.Size((2, 3, 30, 37))
        outputs = (found["class_logits"], found["mask_logits"])
        torch.testing.assert_close(model.full_scores(outputs, padded, size), model.semantic(found))
