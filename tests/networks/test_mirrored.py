"""Detection on images and their mirror images."""

import torch

from van.networks.detection.mirrored import with_mirrored


def brightest(images):
    """Find the columns that are lit in the left half of each image: a detector that is blind on the right."""
    found = []
    for image in images:
        height, width = image.shape[-2:]
        columns = [x for x in range(width // 2 + 1) if image[0, :, x].any()]
        boxes = torch.tensor([[x, 0, x + 1, height] for x in columns], dtype=torch.float32).reshape(-1, 4)
        masks = torch.zeros(len(columns), 1, height, width)
        for mask, x in zip(masks, columns, strict=True):
            mask[0, :, x] = 0.9
        scores = torch.tensor([float(image[0, 0, x]) for x in columns])
        order = scores.argsort(descending=True)
        found.append(
            {
                "boxes": boxes[order],
                "labels": torch.ones(len(order)).long(),
                "scores": scores[order],
                "masks": masks[order],
            }
        )
    return found


def test_both_sides_are_found_and_what_is_found_twice_is_there_once():
    image = torch.zeros(1, 3, 7)
    for x, score in ((1, 0.5), (3, 0.8), (6, 0.6)):  # the middle column is seen from both sides
        image[0, :, x] = score
    (found,) = with_mirrored(brightest, [image], 0.5)
    assert found["boxes"][:, 0].tolist() == [3, 6, 1]
    assert found["scores"].tolist() == torch.tensor([0.8, 0.6, 0.5]).tolist()
    assert [mask.nonzero()[0, 1].item() for mask in found["masks"][:, 0]] == [3, 6, 1]
    (best,) = with_mirrored(brightest, [image, torch.zeros(1, 3, 4)], 0.5, most=2)[:1]
    assert best["boxes"][:, 0].tolist() == [3, 6]


def test_nothing_is_found_on_an_empty_image():
    (found,) = with_mirrored(brightest, [torch.zeros(1, 3, 4)], 0.5)
    assert len(found["scores"]) == 0
