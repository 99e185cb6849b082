"""`van predict` for semantic segmentation: coloured pictures with a legend, and maps of classes."""

from typing import Any


def predict(
    images: list[str],
    *,
    weights: str,
    slide: bool = False,
    crop: tuple[int, int] | None = None,
    stride: tuple[int, int] | None = None,
    scales: list[float] | None = None,
    flip: bool = False,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Say of every pixel to which class it belongs.

    Writes for each image NAME.jpg, coloured with a legend, and NAME_classes.png, whose pixels are the numbers of the
    classes; and predictions.json with the classes and their shares of the pixels.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file or run folder of van train --task semantic.
        slide: Slide a window over the images and average where windows overlap: large images in little memory.
        crop: Height and width of that window; by default that of the weights, 512 x 512 unless they say otherwise.
        stride: Pixels from one window to the next, down and to the right; by default two thirds of crop.
        scales: Look at each image, or window, in these sizes and average, such as 0.75 1.0 1.25.
        flip: Look at the mirror images too.
        batch_size: Images of one size that are looked at together.
        workers: Processes that decode; by default none for a few images, else one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/predict-WEIGHTS, numbered.
    """
    from van.analysis.pixel_pictures import class_map, class_shares, draw_labels
    from van.cli.evaluate.pixels import looking
    from van.cli.predict.pixels import predict_all, prepare
    from van.data.images import read_image
    from van.inference.pixels import SemanticPredictor

    predictor = SemanticPredictor(weights, device, batch_size, **looking(slide, crop, stride, scales, flip))
    paths, folder = prepare(images, weights, output)
    names = predictor.class_names

    def write(number: int, path: str, name: str, labels: Any) -> tuple[dict[str, Any], str]:
        draw_labels(read_image(path), labels, names).save(folder / f"{name}.jpg", quality=92)
        class_map(labels, len(names)).save(folder / f"{name}_classes.png")
        shares = {key: round(share, 6) for key, share in class_shares(labels, names).items()}
        entry = {"picture": f"{name}.jpg", "classes": f"{name}_classes.png", "labels": names, "shares": shares}
        return entry, ", ".join(f"{key} {share:.1%}" for key, share in list(shares.items())[:6])

    return predict_all(predictor, paths, folder, workers, write)
