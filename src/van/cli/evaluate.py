"""`van evaluate`."""

from van.cli import loading
from van.cli.selecting import select


def run(arguments: list[str], command: str = "evaluate") -> int:
    """Measure trained weights on labeled images, run them on others, or serve them; see van.evaluate and van.load."""
    from van.engine.api import inference_options, inference_parser, run_evaluation
    from van.engine.config import read_config

    chosen, rest = select(arguments, "weights", "config")
    config = chosen.pop("config", None)
    known = "weights" in chosen or any(read_config(name).get("weights") for name in config or ())
    if not known and {"-h", "--help"} & set(rest):
        inference_parser(command, None)[0].print_help()
        return 0
    task, options, changes = inference_options(command, config, chosen, rest)
    loading(command, "PyTorch and the weights", options.quiet)
    if command == "predict":
        from van.engine.prediction import predict

        return predict(task, options, changes)
    if command == "label":
        from van.engine.labeling import label

        return label(task, options, changes)
    if command == "serve":
        from van.serve import serve

        return serve(options, changes)
    run_evaluation(task, options, changes)
    return 0
