"""`van explain`: what a classifier looks at."""

from collections.abc import Container
from itertools import count
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
) -> None:
    """Draw where networks look on images: Grad-CAM beside the prediction (Fig. 6), and LKA's attention maps (Fig. 9).

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        models: One or more: a weight file or run folder, or any name that timm knows, such as van_b0 or convnext_tiny;
            by default van_b0 with its published weights.
        classes: Classes to explain, by name or number, a column each; by default the predicted one.
        layers: Layer whose output Grad-CAM weights, one for all models or one for each; by default the last with a map.
        attention: Also draw the attention maps of each stage of the models that are VANs.
        block: Block of each stage whose attention is drawn; -1 is the last.
        image_size: Height and width of the images that the models see; their own by default.
        pretrained: Whether names of models stand for published weights or, with --no-pretrained, for random ones.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: Folder for the pictures; by default runs/explain, numbered.
    """
    from pathlib import Path

    from van.analysis.cam import grad_cam, lka_attention
    from van.analysis.explain_plots import attention_sheet, cam_sheet
    from van.analysis.networks import open_network
    from van.cli.run_folder import run_folder
    from van.data.images import list_images
    from van.engine.plots import write_figure
    from van.errors import VanError
    from van.models import VAN

    paths = list_images(images)
    sources = models or ["van_b0"]
    if layers is not None and len(layers) not in (1, len(sources)):
        raise VanError(f"{len(layers)} layers were given for {len(sources)} models. Give one, or one for each.")
    each = [None] * len(sources) if layers is None else layers if len(layers) > 1 else layers * len(sources)
    networks = [open_network(source, pretrained=pretrained, image_size=image_size, device=device) for source in sources]
    wanted = [[None] if classes is None else [network.class_index(c) for c in classes] for network in networks]
    random = "" if all(network.trained for network in networks) else " (random weights)"
    folder: Path | None = None
    files, lines = [], []
    for start in range(0, len(paths), _ROWS):
        part = paths[start : start + _ROWS]
        names = [Path(path).name for path in part]
        columns: dict[str, list[Any]] = {}
        sheets: dict[str, Any] = {}
        taken: set[str] = set()
        drawn: set[str] = set()  # a model may come again with another layer; its attention is the same
        for source, network, layer, targets in zip(sources, networks, each, wanted, strict=True):
            batch = network.tensors(part)
            seen = network.pictures(batch)
            cams = [grad_cam(network.model, batch, target, layer) for target in targets]
            for target, cam in zip(targets, cams, strict=True):
                heading = network.name if target is None else f"{network.name}: {_short(network, target)}"
                heading = _free(heading, taken)
                taken.add(heading)
                said = [_answer(network, cam, row) for row in range(len(part))]
                columns[f"{heading}\n{cam.layer}"] = list(zip(seen, cam.maps, said, strict=True))
                for path, text, zero in zip(part, said, cam.is_zero, strict=True):
                    note = "; the map is zero everywhere, no position speaks for this class" if zero else ""
                    lines.append(f"{path}: {heading}, {cam.layer}: {text.replace(chr(10), ', ')}{note}")
            if attention and isinstance(network.model, VAN) and source not in drawn:
                drawn.add(source)
                maps = {_stage(n): m for n, m in lka_attention(network.model, batch, block).items()}
                captions = [f"{name}\n{_best(network, cams[0], row)}" for row, name in enumerate(names)]
                sheets[_free(network.name, sheets)] = attention_sheet(
                    seen, maps, f"Large kernel attention, {network.name}{random}", captions
                )
        folder = folder or run_folder(output, "explain")
        suffix = f"-{start // _ROWS + 1}" if len(paths) > _ROWS else ""
        sheets = {"gradcam": cam_sheet(columns, f"Grad-CAM{random}", names)} | {
            f"attention-{_file_name(name)}": figure for name, figure in sheets.items()
        }
        for name, figure in sheets.items():
            files += write_figure(figure, folder / f"{name}{suffix}")
    print("\n".join(lines))
    print(f"pictures: {folder}: {' '.join(files)}")


def _free(name: str, taken: Container[str]) -> str:
    """Return a name that is not taken: two models may be called the same."""
    numbers = (f"{name} ({number})" for number in count(2))
    return name if name not in taken else next(free for free in numbers if free not in taken)


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "._-" else "-" for c in name)


def _short(network: "Network", index: int) -> str:
    return network.class_names[index].split(",")[0]  # ImageNet's names are lists of synonyms


def _stage(layer: str) -> str:
    """Turn stages.0.blocks.2.attn.lka into stage 1, block 3."""
    _, stage, _, block, *_ = layer.split(".")
    return f"stage {int(stage) + 1}, block {int(block) + 1}"


def _best(network: "Network", cam: "ClassMaps", row: int) -> str:
    best = int(cam.probabilities[row].argmax())
    return f"{_short(network, best)} {cam.probabilities[row, best]:.1%}"


def _answer(network: "Network", cam: "ClassMaps", row: int) -> str:
    """Say what a network predicts, and the class that was explained where that is another."""
    shown, best = int(cam.classes[row]), int(cam.probabilities[row].argmax())
    text = f"predicted {_best(network, cam, row)}"
    return text if shown == best else f"{text}\nshown {_short(network, shown)} {cam.probabilities[row, shown]:.1%}"
