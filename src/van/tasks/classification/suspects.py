"""Images whose class a classifier contradicts: confident learning."""

from typing import Any

import numpy as np
import torch

from van.data.images import read_image
from van.data.samples import Samples
from van.engine.predictor import Predictor
from van.engine.suspects import Suspects
from van.tasks.classification.data import evaluation_loader


def contradicted(probabilities: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Find labels that probabilities contradict, by confident learning (Northcutt et al. 2021, arXiv 1911.00068).

    A class is confident for an image where its probability reaches the mean probability of that class over the images
    labeled with it. The label of an image is contradicted where another class is confident and more probable than every
    other confident class.

    Args:
        probabilities: Of each class, shape (N, classes).
        labels: Given class of each image, shape (N,).

    Returns:
        Indices of the contradicted images, the largest difference of probabilities first, and the class of each.
    """
    counts = np.bincount(labels, minlength=probabilities.shape[1])
    given = probabilities[np.arange(len(labels)), labels]
    means = np.bincount(labels, given, minlength=len(counts)) / np.maximum(counts, 1)
    thresholds = np.where(counts > 0, means, np.inf)
    confident = np.where(probabilities >= thresholds, probabilities, -1.0)
    best = confident.argmax(1)
    found = np.flatnonzero((confident.max(1) >= 0) & (best != labels))
    margins = probabilities[found, best[found]] - given[found]
    order = np.argsort(-margins, kind="stable")
    return found[order], best[found[order]]


def find_suspects(predictor: Predictor, split: Samples, workers: int) -> Suspects:
    """Return the images whose class a classifier contradicts."""
    from van.engine.drawing import draw_note
    from van.engine.plots import PANEL

    loader = evaluation_loader(split, predictor.extra["preprocessing"], predictor.batch_size, workers)
    seen, targets = [], []
    with torch.inference_mode():
        for images, target in loader:
            seen.append(predictor.model(images.to(predictor.device)).float().softmax(dim=1).cpu().numpy())
            targets.append(target.numpy())
    probabilities, labels = np.concatenate(seen), np.concatenate(targets)
    names, places = split.class_names, {}
    rows: list[dict[str, Any]] = []
    for i, label in zip(*(part.tolist() for part in contradicted(probabilities, labels)), strict=True):
        own, other = float(probabilities[i, labels[i]]), float(probabilities[i, label])
        places[split.name(i)] = i
        rows.append(
            {
                "image": str(split.name(i)), "labeled": names[labels[i]], "predicted": names[label],
                "score": round(other - own, 6), "labeled_probability": round(own, 6),
                "predicted_probability": round(other, 6), "cross_entropy": round(float(-np.log(max(own, 1e-12))), 4),
            }
        )  # fmt: skip

    where = {str(name): i for name, i in places.items()}

    def draw(row: dict[str, Any]) -> list[Any]:
        image = read_image(split.load(where[row["image"]]), name=row["image"])
        factor = PANEL / max(image.size)
        size = (max(1, round(image.width * factor)), max(1, round(image.height * factor)))
        return [draw_note(image.resize(size), f"labeled {row['labeled']}")]

    rule = (
        "another class is more probable than usual for images of that class (confident learning), sorted by how much "
        "more probable it is than the labeled one"
    )
    return Suspects(rule, rows, draw, lambda row: f"predicted {row['predicted']} {row['predicted_probability']:.2f}")
