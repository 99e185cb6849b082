"""`van predict` for saliency: maps of what stands out, and pictures of it."""

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
    """Say of every pixel how much it stands out.

    Writes for each image NAME.png, the map from 0 to 255, and NAME.jpg: the image, the map, and the image with the rest
    dimmed; and predictions.json.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file or run folder of van train --task saliency.
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
    from van.analysis.pixel_pictures import draw_saliency, saliency_image
    from van.cli.evaluate.pixels import looking
    from van.cli.predict.pixels import predict_all, prepare
    from van.data.images import read_image
    from van.inference.pixels import SaliencyPredictor

    predictor = SaliencyPredictor(weights, device, batch_size, **looking(slide, crop, stride, scales, flip))
    paths, folder = prepare(images, weights, output)

    def write(number: int, path: str, name: str, found: Any) -> tuple[dict[str, Any], str]:
        draw_saliency(read_image(path), found).save(folder / f"{name}.jpg", quality=92)
        saliency_image(found).save(folder / f"{name}.png")
        share = round(float((found > 0.5).mean()), 6)
        return {"picture": f"{name}.jpg", "map": f"{name}.png", "salient": share}, f"{share:.1%} stands out"

    return predict_all(predictor, paths, folder, workers, write)
