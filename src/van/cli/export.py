"""`van export`."""

from van.cli.selecting import call
from van.export import FormatName, LayoutName, PrecisionName


def export(
    weights: str,
    *,
    format: FormatName = "onnx",
    output: str | None = None,
    image_size: tuple[int, int] | None = None,
    preprocess: bool = False,
    postprocess: bool = False,
    features: bool = False,
    precision: PrecisionName = "float32",
    layout: LayoutName = "file",
    calibration: str | None = None,
    evaluation_data: str | None = None,
) -> None:
    """Write trained weights in a format that other software runs. The file is compared with the network first.

    Args:
        weights: Weight file, run folder, or name of published weights such as van_b0.
        format: onnx, openvino, torch (torch.export, .pt2), executorch, coreml or safetensors (the weights alone).
        output: New file; by default the weight file with the ending of the format.
        image_size: Height and width that the network is traced with; images of other sizes can be computed all the
            same. By default those it was trained with.
        preprocess: Put the preprocessing into the file, which then takes images of bytes, of any size.
        postprocess: Put the postprocessing into the file, which then returns results.
        features: Export the backbone of a classifier: the file returns its four feature maps.
        precision: float32; float16 in openvino and coreml files, with half the size; bfloat16 in openvino and torch
            files, computed in it; int8 in openvino and onnx files, with about a third of the size.
        layout: file, or triton: the folder of a model for NVIDIA Triton Inference Server, for onnx and openvino; give
            it as output.
        calibration: For int8, typical images, from which the ranges of activations are taken: data that the task trains
            on, of which the training split is used, or images such as a folder.
        evaluation_data: Labeled images; what van evaluate measures on them, size and speed of the network are printed
            for the weights and for the file.
    """
    from van.export import export as write
    from van.export import format_named

    comparison = None
    if evaluation_data:
        from van.export.comparison import Comparison

        parts = {"preprocess": preprocess, "postprocess": postprocess, "features": features}
        inside = [name for name, given in (parts | {"layout triton": layout == "triton"}).items() if given]
        comparison = Comparison(weights, evaluation_data, format, inside)
    path = write(weights, format, output, image_size, preprocess, postprocess, features, precision, layout, calibration)
    kind = format_named(format)
    files = [path, *path.rglob("*"), *(path.with_suffix(ending) for ending in kind.beside)]
    size = sum(file.stat().st_size for file in files if file.is_file())
    compared = (
        ", run and compared with the network" if kind.runs else ", not run on this machine" if kind.traces else ""
    )
    print(f"{path}: {size / 1e6:.1f} MB{compared}")
    if comparison:
        print(comparison.table(path))


def run(arguments: list[str]) -> None:
    """Export weights."""
    call(export, arguments, "export")
