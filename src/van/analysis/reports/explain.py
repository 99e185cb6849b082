"""What classifiers look at."""

from collections.abc import Iterable, Sequence
from itertools import count
from typing import TYPE_CHECKING, Any

from van.analysis.tables import Report
from van.errors import VanError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from matplotlib.figure import Figure

    from van.analysis.cam import ClassMaps
    from van.analysis.networks import Network

_ROWS = 6  # images on a sheet


def explain(
    images: list[str],
    *,
    models: list[str] | None = None,
    classes: list[str] | None = None,
    layers: list[str] | None = None,
    attention: bool = True,
    block: int = -1,
    image_size: tuple[int, int] | None = None,
    pretrained: bool = True,
    device: str | None = None,
    output: str | None = None,
) -> Report:
    """Show what classifiers look at: Grad-CAM with the prediction (Fig. 6), and VAN's attention maps (Fig. 9).

    Args:
        images: Image files, and folders whose images are taken in natural order.
        models: Weight files, run folders or timm models, such as van_b0 or convnext_tiny, shown side by side; by
            default van_b0 with its published weights.
        classes: Classes to explain, by name or number, one column each; by default the predicted class.
        layers: Layer for Grad-CAM, one for all models or one for each; by default the last feature map.
        attention: Also draw the attention maps of models that are VANs.
        block: Block of each stage whose attention map is drawn; -1 is the last one.
        image_size: Height and width of the images that the models see; by default the models' own.
        pretrained: Load published weights for models that are given by name; --no-pretrained takes random weights.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: Folder for the figures; by default a numbered one below runs.

    Returns:
        For each image and column: image, model, layer, class and probability of what is explained, predicted class and
        its probability, and empty where no position is evidence for the class.

    Raises:
        VanError: a model, class, layer or block does not exist, or weights are not those of a classifier.
    """
    from van.analysis.networks import open_network
    from van.data.images import list_images
    from van.engine.plots import write_figure
    from van.engine.run import check_output, new_folder

    check_output(output)
    paths = list_images(images)
    sources = models or ["van_b0"]
    if layers is not None and len(layers) not in (1, len(sources)):
        raise VanError(f"{len(layers)} layers are given for {len(sources)} models. Give one, or one for each model.")
    networks = [open_network(source, pretrained=pretrained, image_size=image_size, device=device) for source in sources]
    for source, network in zip(sources, networks, strict=True):
        if network.target is not None and network.target.kind == "regression":
            raise VanError(f"{source} predicts numbers, and only classes can be explained. Give weights with classes.")
    each = [None] * len(sources) if layers is None else layers if len(layers) > 1 else layers * len(sources)
    targets = [[None] if classes is None else [network.class_index(c) for c in classes] for network in networks]
    columns = list(zip(sources, networks, each, targets, strict=True))
    folder, files, rows = None, [], []
    for start in range(0, len(paths), _ROWS):
        some = paths[start : start + _ROWS]
        figures, found = _sheets(some, columns, block if attention else None)
        rows += found
        folder = folder or new_folder(output, "explain")
        suffix = f"-{start // _ROWS + 1}" if len(paths) > _ROWS else ""
        for name, figure in figures.items():
            files += write_figure(figure, folder / f"{name}{suffix}")
    return Report("\n".join(map(_sentence, rows)), rows, folder, files)


_Columns = Sequence[tuple[str, "Network", str | None, Sequence[int | None]]]


def _sheets(paths: list[str], columns: _Columns, block: int | None) -> "tuple[dict[str, Figure], list[dict[str, Any]]]":
    """Explain a few images: figures by the names of their files, and a row for each image and column."""
    from pathlib import Path

    from van.analysis.cam import grad_cam
    from van.analysis.explain_plots import cam_sheet

    names = [Path(path).name for path in paths]
    cams: dict[str, list[tuple[np.ndarray, np.ndarray, str]]] = {}
    sheets: dict[str, Figure] = {}
    rows: list[dict[str, Any]] = []
    drawn: set[str] = set()  # a model can come again with another layer; its attention is the same
    for source, network, layer, targets in columns:
        batch = network.tensors(paths)
        seen = network.pictures(batch)
        for target in targets:
            cam = grad_cam(network.model, batch, target, layer, network.probabilities)
            name = network.name if target is None else f"{network.name}: {network.short_name(target)}"
            heading = _free(name, cams)
            found = [_row(path, heading, network, cam, i) for i, path in enumerate(paths)]
            answers = [f"predicted {_answer(row)}" for row in found]
            cams[f"{heading}\n{cam.layer}"] = list(zip(seen, cam.maps, answers, strict=True))
            rows += found
        if block is not None and network.is_van and source not in drawn:
            drawn.add(source)
            captions = [
                f"{name}\n{row['predicted']} {row['predicted_probability']:.1%}"
                for name, row in zip(names, rows[-len(paths) :], strict=True)
            ]
            sheets[_free(network.name, sheets)] = _attention(network, batch, seen, block, captions)
    random = "" if all(network.trained for _, network, *_ in columns) else " (random weights)"
    named = {f"attention-{_file_name(name)}": figure for name, figure in sheets.items()}
    return {"gradcam": cam_sheet(cams, f"Grad-CAM{random}", names), **named}, rows


def _attention(
    network: "Network", batch: "torch.Tensor", seen: "np.ndarray", block: int, captions: list[str]
) -> "Figure":
    from van.analysis.cam import lka_attention
    from van.analysis.explain_plots import attention_sheet

    maps = {_stage(name): m for name, m in lka_attention(network.model, batch, block).items()}
    random = "" if network.trained else " (random weights)"
    return attention_sheet(seen, maps, f"Large kernel attention, {network.name}{random}", captions)


def _row(path: str, heading: str, network: "Network", cam: "ClassMaps", i: int) -> dict[str, Any]:
    probabilities = cam.probabilities[i]
    shown, best = int(cam.classes[i]), int(probabilities.argmax())
    return {
        "image": path,
        "model": heading,
        "layer": cam.layer,
        "class": network.short_name(shown),
        "probability": float(probabilities[shown]),
        "predicted": network.short_name(best),
        "predicted_probability": float(probabilities[best]),
        "empty": bool(cam.is_zero[i]),
    }


def _answer(row: dict[str, Any], separator: str = "\n") -> str:
    """Return the prediction, and the class that is explained where that is another."""
    text = f"{row['predicted']} {row['predicted_probability']:.1%}"
    same = row["class"] == row["predicted"]
    return text if same else f"{text}{separator}shown {row['class']} {row['probability']:.1%}"


def _sentence(row: dict[str, Any]) -> str:
    note = "; the map is zero everywhere: no position is evidence for this class" if row["empty"] else ""
    return f"{row['image']}: {row['model']}, {row['layer']}: predicted {_answer(row, ', ')}{note}"


def _free(name: str, taken: Iterable[str]) -> str:
    """Return a name that no other column has; two models can have the same."""
    names = {heading.partition("\n")[0] for heading in taken}
    numbered = (f"{name} ({number})" for number in count(2))
    return name if name not in names else next(free for free in numbered if free not in names)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _stage(layer: str) -> str:
    """Turn stages.0.blocks.2.attn.lka into stage 1, block 3."""
    _, stage, _, block, *_ = layer.split(".")
    return f"stage {int(stage) + 1}, block {int(block) + 1}"
