"""How far networks look."""

from typing import TYPE_CHECKING, Any

from van.analysis.tables import Report
from van.errors import VanError

if TYPE_CHECKING:
    from van.analysis.fields import ReceptiveField
    from van.analysis.networks import Network


def receptive_field(
    models: list[str],
    *,
    images: list[str] | None = None,
    count: int = 8,
    image_size: tuple[int, int] = (1120, 1120),
    layer: str | None = None,
    pretrained: bool = True,
    max_seconds: float = 600.0,
    seed: int = 0,
    device: str | None = None,
    output: str | None = None,
    quiet: bool = False,
) -> Report:
    """Measure and draw effective receptive fields side by side (Fig. 8).

    Args:
        models: Weight files, run folders or timm models, such as van_b2 or resnet50.
        images: Image files and folders; by default random crops of the two photographs that scikit-learn ships.
        count: Largest number of images; the paper takes 100.
        image_size: Height and width of the images that the models see.
        layer: Layer whose central position is measured; by default the last feature map.
        pretrained: Load published weights for models that are given by name; --no-pretrained takes random weights.
        max_seconds: Start no further image after this time, for each model.
        seed: Seed of the random crops and random weights.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: Folder for the figure and the table; by default a numbered one below runs.
        quiet: Show no progress.

    Returns:
        For each model: its layer, the number of images, and for 20, 30, 50 and 99 % of the energy the area of the
        smallest square that holds it, as a share of the image, and its side in pixels.

    Raises:
        VanError: a model or layer does not exist, or an option is out of range.
    """
    from van.analysis.explain_plots import receptive_field_plot
    from van.analysis.fields import SHARES
    from van.analysis.networks import open_network
    from van.analysis.tables import markdown, write_csv
    from van.data.images import list_images
    from van.engine.options import at_least
    from van.engine.plots import write_figure
    from van.engine.run import check_output, new_folder

    at_least("count", count, 1)
    if not max_seconds > 0:
        raise VanError(f"max_seconds is {max_seconds}, expected a number above 0.")
    if len(set(models)) < len(models):
        raise VanError(f"A model is given twice: {', '.join(models)}. Give each once.")
    check_output(output)
    paths = list_images(images)[:count] if images else None
    total = len(paths) if paths else count
    fields: dict[str, ReceptiveField] = {}
    notes, rows, table, short = {}, [], [], []
    for source in models:
        network = open_network(source, pretrained=pretrained, image_size=image_size, device=device, seed=seed)
        field = _measure(network, paths, total, layer, max_seconds, seed, quiet)
        name = network.name if network.trained else f"{network.name}, random weights"
        row = _row(network, field, layer)
        side = row["theoretical_side"]
        fields[name] = field
        rows.append(row)
        table.append(
            {
                "% of the image": name,
                **{f"{share:.0%}": f"{100 * ratio:.2f}" for share, ratio in field.area_ratios(SHARES).items()},
                "in theory": f"{side} x {side} pixels" if side else "-",
            }
        )
        if side:
            notes[name] = f"in theory {side} x {side} pixels"
        if field.images < total:
            short.append(f"{network.name}: stopped after {field.images} of {total} images, after {max_seconds:g} s.")
    folder = new_folder(output, "receptive-field")
    fewest, most = min(f.images for f in fields.values()), max(f.images for f in fields.values())
    over = f"{fewest} image{'s' * (fewest > 1)}" if fewest == most else f"{fewest} to {most} images"
    where = f"{image_size[0]} x {image_size[1]}"
    title = f"Effective receptive field of the central position, {where}, mean of {over}"
    files = write_figure(receptive_field_plot(fields, title, notes), folder / "receptive_field")
    files.append(write_csv(folder / "receptive_field.csv", rows))
    heading = f"Area of the smallest square that holds a share of the energy, in % of {where} pixels; mean of {over}"
    return Report("\n\n".join([*short, heading, markdown(table)]), rows, folder, files)


def _measure(
    network: "Network",
    paths: list[str] | None,
    total: int,
    layer: str | None,
    max_seconds: float,
    seed: int,
    quiet: bool,
) -> "ReceptiveField":
    """Return the receptive field of a network over images, or over random crops where there are none."""
    import sys

    from PIL import Image
    from sklearn.datasets import load_sample_images
    from tqdm import tqdm

    from van.analysis.fields import random_crops, receptive_field

    height, width = network.preprocessing["input_size"][1:]
    network.preprocessing["crop_pct"] = 1.0  # crops have the size already, of a file the central square is taken
    photographs = [] if paths else [Image.fromarray(array) for array in load_sample_images().images]
    pictures = paths or random_crops(photographs, total, (height, width), seed)
    with tqdm(total=total, desc=network.name, unit=" images", file=sys.stderr, disable=quiet or None) as bar:
        tensors = (network.tensors([picture])[0] for picture in pictures)
        return receptive_field(network.model, tensors, layer, max_seconds, lambda _: bar.update())


def _row(network: "Network", field: "ReceptiveField", layer: str | None) -> dict[str, Any]:
    from van.analysis.counting import theoretical_extent
    from van.analysis.fields import SHARES, square_side

    height, width = field.energy.shape
    return {
        "model": network.name,
        "trained": network.trained,
        "layer": field.layer,
        "height": height,
        "width": width,
        "images": field.images,
        **{f"area_ratio_{round(100 * share)}": ratio for share, ratio in field.area_ratios(SHARES).items()},
        **{f"side_{round(100 * share)}": square_side(field.energy, share) for share in SHARES},
        "theoretical_side": theoretical_extent(network.model) if layer is None and network.is_van else None,
    }
