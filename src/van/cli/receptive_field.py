"""`van receptive-field`: which pixels the middle of a network's last map depends on."""


def receptive_field(
    models: list[str],
    *,
    images: list[str] | None = None,
    count: int = 8,
    image_size: tuple[int, int] | None = None,
    layer: str | None = None,
    pretrained: bool = True,
    max_seconds: float = 600.0,
    seed: int = 0,
    device: str | None = None,
    output: str | None = None,
) -> None:
    """Draw effective receptive fields beside each other, and say how large they are (Fig. 8).

    Args:
        models: One or more: a weight file or run folder, or any name that timm knows, such as van_b2 or resnet50.
        images: Image files and folders; by default random parts of two photographs that come with scikit-learn.
        count: How many images at most; the paper takes 100.
        image_size: Height and width of the images that the models see, 1120 x 1120 by default.
        layer: Layer in whose middle the position lies; by default the last with a map.
        pretrained: Whether names of models stand for published weights or, with --no-pretrained, for random ones.
        max_seconds: No further image is begun after this time, for each model.
        seed: Of the random parts and the random weights.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: Folder for picture and figures; by default runs/receptive-field, numbered.
    """
    import csv
    import sys

    from PIL import Image
    from sklearn.datasets import load_sample_images
    from tqdm import tqdm

    from van.analysis.counting import theoretical_extent
    from van.analysis.explain_pictures import receptive_field_picture, write_figure
    from van.analysis.networks import open_network
    from van.analysis.fields import SHARES, random_crops, square_side
    from van.analysis.fields import receptive_field as measure
    from van.cli.run_folder import run_folder
    from van.data.images import list_images
    from van.errors import VanError
    from van.models import VAN

    image_size = image_size or (1120, 1120)
    if count < 1 or not max_seconds > 0:
        raise VanError(f"count is {count} and max_seconds {max_seconds}, expected at least 1 and above 0.")
    if len(set(models)) < len(models):
        raise VanError(f"A model is named twice: {', '.join(models)}. Name each once.")
    paths = list_images(images)[:count] if images else None
    total = len(paths) if paths else count
    fields, notes, rows = {}, {}, []
    for source in models:
        network = open_network(source, pretrained=pretrained, image_size=image_size, device=device, seed=seed)
        size = tuple(network.preprocessing["input_size"][1:])
        # parts are cut at the size, a file is resized and its middle taken
        network.preprocessing["crop_pct"] = 1.0
        photographs = [Image.fromarray(array) for array in load_sample_images().images]
        pictures = paths or random_crops(photographs, count, (size[0], size[1]), seed)
        with tqdm(total=total, desc=network.name, unit=" images", file=sys.stderr) as bar:
            tensors = (network.tensors([picture])[0] for picture in pictures)
            field = measure(network.model, tensors, layer, max_seconds, lambda _, bar=bar: bar.update())
        name = network.name if network.trained else f"{network.name}, random weights"
        ratios = field.area_ratios(SHARES)
        fields[name] = field
        extent = theoretical_extent(network.model) if layer is None and isinstance(network.model, VAN) else None
        if extent:
            notes[name] = f"in theory {extent} x {extent} pixels"
        rows.append(
            {
                "model": network.name,
                "trained": network.trained,
                "layer": field.layer,
                "height": size[0],
                "width": size[1],
                "images": field.images,
                **{f"area_ratio_{round(100 * share)}": f"{ratio:.6g}" for share, ratio in ratios.items()},
                **{f"side_{round(100 * share)}": square_side(field.energy, share) for share in SHARES},
                "theoretical_side": extent or "",
            }
        )
        if field.images < total:
            print(f"{network.name}: stopped after {field.images} of {total} images, {max_seconds:g} s are over.")
    folder = run_folder(output, "receptive-field")
    least, most = min(f.images for f in fields.values()), max(f.images for f in fields.values())
    over = f"{least} image{'s' * (least > 1)}" if least == most else f"{least} to {most} images"
    height, width = image_size
    title = f"Effective receptive field of the middle position, {height} x {width}, mean over {over}"
    files = write_figure(receptive_field_picture(fields, title, notes), folder / "receptive_field")
    with (folder / "receptive_field.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    wide = max(map(len, fields))
    head = "".join(f"{share:>9.0%}" for share in SHARES)
    print(f"Area of the square that holds a share of the energy, in % of {height} x {width} pixels; {over}")
    print(f"{'':<{wide}}{head}   in theory")
    for (name, field), row in zip(fields.items(), rows, strict=True):
        ratios = "".join(f"{100 * ratio:>9.2f}" for ratio in field.area_ratios(SHARES).values())
        side = row["theoretical_side"]
        print(f"{name:<{wide}}{ratios}   {f'{side} x {side} pixels' if side else '-'}")
    print(f"pictures and figures: {folder}: {' '.join([*files, 'receptive_field.csv'])}")
