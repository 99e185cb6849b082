"""Running a predictor over files and writing what it finds: what `van predict` does."""

import sys
from pathlib import Path
from typing import Any

from van.data.processes import loading_errors
from van.engine.result import FILE_ENDINGS, FileWriter, Result
from van.engine.run import check_output, new_folder
from van.engine.task import Task
from van.errors import DataError, VanError


@loading_errors()
def predict(task: Task, options: Any, changes: dict[str, Any]) -> int:
    """Run weights on images: a line per image, and pictures or a file of results.

    Args:
        task: That of the weights.
        options: Of prediction: an instance of task.predict_options.
        changes: Options of inference that differ from those in the weight file.

    Returns:
        Exit status: 1 if an image could not be read.

    Raises:
        VanError: weights or options cannot be used. Nothing has been written then.
    """
    output = options.output
    file = Path(output or "")
    to_file = file.suffix.lower() in FILE_ENDINGS
    if to_file and file.exists():
        raise VanError(f"{output} exists. Give another --output.")
    kind = task.result
    if file.suffix.lower() == ".csv" and kind is not Result and kind.row is Result.row:
        raise VanError(f"A {kind.__name__} object does not fit in a CSV row. Use a .jsonl file or a folder.")
    to_folder = not to_file and (task.results_in_folder or output is not None)
    if to_folder:
        check_output(output)
    from tqdm import tqdm

    from van.data.images import list_images
    from van.data.loaders import loading_processes
    from van.engine.api import load

    paths = list_images(options.images)
    predictor = load(options.weights, options.device, options.batch_size, options.engine, options.precision, **changes)
    task.configure(predictor, options)
    workers = loading_processes(options.workers, len(paths))
    name = Path(options.weights).resolve()
    folder = new_folder(output, f"predict-{name.parent.name if name.is_file() else name.name}") if to_folder else None
    writer: Any = task.writer(folder, predictor) if folder else FileWriter(file) if to_file else None
    broken = 0
    # the bar goes to standard error, so that the lines can be piped
    stream = predictor.stream(paths, workers, keep_images=folder is not None)
    bar = tqdm(stream, total=len(paths), unit=" images", desc="Predicting", disable=options.quiet or None)
    try:
        for path, result in zip(paths, bar, strict=True):
            if isinstance(result, DataError):
                broken += 1
                tqdm.write(f"van predict: {result}", file=sys.stderr)
                if writer:
                    writer.add_error(path, result)
                continue
            if writer:
                writer.add(result)
            if not (to_file or options.quiet):
                tqdm.write(f"{path}: {result.summary()}", file=sys.stdout)
    finally:
        if writer:
            writer.close()
    if predictor.engine is not None and not options.quiet:
        print(f"van predict: computed by {predictor.computed_by}", file=sys.stderr)
    if writer and not options.quiet:
        where = output if to_file else f"{folder}: predictions.json and the pictures"
        print(f"{len(paths) - broken} image{'' if len(paths) - broken == 1 else 's'}: {where}")
    if broken:
        print(f"van predict: {broken} of {len(paths)} images could not be read, see above.", file=sys.stderr)
    return 1 if broken else 0
