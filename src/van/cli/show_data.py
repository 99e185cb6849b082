"""`van show-data`."""

from van.cli import loading
from van.cli.selecting import select


def run(arguments: list[str]) -> None:
    """Draw a data set; see van.show_data."""
    from van.engine.showing import run_show, show_options

    # the data may come first, without its option
    data = ["--data", arguments.pop(0)] if arguments and not arguments[0].startswith("-") else []
    # these decide which other options there are
    chosen, rest = select([*data, *arguments], "task", "config", "data", "model.architecture")
    task, config = chosen.pop("task", None), chosen.pop("config", None)
    if architecture := chosen.pop("model.architecture", None):
        chosen["model"] = {"architecture": architecture}
    found, options = show_options(task, config, chosen, rest)
    loading("show-data", "PyTorch and the data", options.quiet)
    shown = run_show(found, options)
    if not options.quiet:
        print(shown)
