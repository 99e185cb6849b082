"""`van evaluate` for classifiers: measure trained weights on labelled images."""


def evaluate(
    *,
    weights: str,
    data: str = "digits",
    data_root: str | None = None,
    split: str | None = None,
    batch_size: int = 64,
    workers: int | None = None,
    device: str | None = None,
    output: str | None = None,
) -> int:
    """Measure trained weights on labelled images: top-1, top-5, a table per class, a confusion matrix.

    Args:
        weights: Weight file of any known layout, a run folder, or the name of published weights such as van_b0.
        data: Labelled images as van train takes them.
        data_root: Where torch/NAME and hfds/NAME are stored.
        split: train, val or all; by default val where the data has such a part, else everything.
        batch_size: Images per batch.
        workers: Processes that load images; by default one per processor, at most 8.
        device: cpu, cuda, ...; by default a GPU if there is one.
        output: New folder for the results; by default runs/evaluate-DATA, numbered.
    """
    from pathlib import Path

    from van.analysis.classification import evaluate_classifier
    from van.cli.run_folder import run_folder, write_report
    from van.data.classification import evaluation_loader, loading_processes
    from van.data.sources import open_data, relabel
    from van.errors import VanError
    from van.inference.predictor import Predictor

    parts = open_data(data, data_root)
    part = split or ("val" if "val" in parts else "all")
    if part not in parts:
        raise VanError(f"{data} has no part {part!r}, it has {', '.join(parts)}. Choose one with --split.")
    source = parts[part]
    predictor = Predictor(weights, device, batch_size)
    known_as, class_names = names_for(predictor.class_names, source.class_names)
    relabel(source, known_as, str(weights))
    source.class_names = class_names
    folder = run_folder(output, f"evaluate-{Path(data).name}")
    workers = loading_processes(data) if workers is None else workers

    loader = evaluation_loader(source, predictor.preprocessing, batch_size, workers)
    report = evaluate_classifier(predictor.model, loader, class_names, predictor.device)
    title = f"{Path(weights).name} on {data} ({part})"
    write_report(folder, source, report, title)

    rows = report.per_class()
    width = min(30, max(len(row["class"]) for row in rows) + 2)
    print(f"\n{'class':<{width}}{'images':>7}{'precision':>11}{'recall':>9}{'F1':>8}")
    shown = [row for row in rows if row["images"]]
    for row in shown[:40]:
        figures = [f"{row[k]:.3f}" if row[k] is not None else "-" for k in ("precision", "recall", "f1")]
        name = row["class"] if len(row["class"]) < width else row["class"][: width - 2] + "…"
        print(f"{name:<{width}}{row['images']:>7}{figures[0]:>11}{figures[1]:>9}{figures[2]:>8}")
    if len(shown) > 40:
        print(f"... and {len(shown) - 40} more classes in {folder / 'per_class.csv'}")
    print(f"\n{title}: {len(report.labels)} images, top-1 {report.top1:.2%}, top-5 {report.top5:.2%}")
    print(f"results: {folder}: evaluation.json per_class.csv confusion_matrix.png predictions.png")
    return 0


def names_for(class_names: list[str], data_names: list[str]) -> tuple[list[str], list[str]]:
    """Return what the model's classes are called in the data, and what to show.

    Args:
        class_names: The model's names.
        data_names: The names that the data uses.
    """
    from timm.data import ImageNetInfo

    imagenet = ImageNetInfo("imagenet-1k")
    if class_names == imagenet.label_descriptions() and set(data_names) <= set(imagenet.label_names()):
        return imagenet.label_names(), class_names  # ImageNet's folders carry WordNet numbers
    if all(name.isdecimal() for name in class_names) and len(data_names) == len(class_names):
        return data_names, data_names  # weights without names: the order of the classes is all there is
    return class_names, class_names
