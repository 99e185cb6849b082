"""`van predict` for panoptic segmentation: pictures of segments, and COCO's panoptic format."""

from typing import Any


def predict(
    images: list[str],
    *,
    weights: str,
    object_threshold: float | None = None,
    overlap_threshold: float | None = None,
    size: tuple[int, int] | None = None,
    batch_size: int = 4,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Divide images into things and stuff.

    Writes for each image NAME.jpg, coloured with names and a legend; all segments in COCO's panoptic format as
    panoptic.json and panoptic/NAME.png; and predictions.json.

    Args:
        images: Image files, and folders whose images are taken in natural order of their paths.
        weights: Weight file or run folder of van train --task panoptic.
        object_threshold: Segments that are less certain are left out; by default as in training.
        overlap_threshold: Masks of which others leave a smaller share are left out; by default as in training.
        size: Short and long edge in pixels that images are scaled to fit into, results have their own size; by default
            as in training. A large image at its own size takes gigabytes.
        batch_size: Images of one size that are looked at together.
        workers: Processes that decode; by default none for a few images, else one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/predict-WEIGHTS, numbered.
    """
    from pathlib import Path

    from van.analysis.pixel_pictures import draw_segments
    from van.cli.evaluate.panoptic import looking
    from van.cli.predict.pixels import predict_all, prepare
    from van.data.images import read_image
    from van.data.panoptic import PanopticWriter, panoptic_categories
    from van.inference.pixels import PanopticPredictor, Segments

    predictor = PanopticPredictor(weights, device, batch_size, **looking(object_threshold, overlap_threshold, size))
    paths, folder = prepare(images, weights, output)
    names = predictor.class_names
    categories = panoptic_categories(names, predictor.category_ids, predictor.isthing)
    with PanopticWriter(folder / "panoptic.json", categories) as writer:

        def write(number: int, path: str, name: str, found: Segments) -> tuple[dict[str, Any], str]:
            picture = draw_segments(read_image(path), found.segmentation, found.segments, names)
            picture.save(folder / f"{name}.jpg", quality=92)
            png = writer.add(number, Path(path).name, found.segmentation, found.segments)
            segments = [{"class": names[s["label"]], **s, "area": int((found.segmentation == s["id"]).sum())}
                        for s in found.segments]  # fmt: skip
            found_names = [segment["class"] for segment in segments]
            counts = ", ".join(f"{found_names.count(n)} {n}" for n in dict.fromkeys(found_names)) or "nothing found"
            entry = {"picture": f"{name}.jpg", "panoptic": f"panoptic/{png.name}", "image_id": number}
            return {**entry, "segments": segments}, counts

        return predict_all(predictor, paths, folder, workers, write)
