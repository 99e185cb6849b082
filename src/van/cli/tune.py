"""`van tune`."""

import sys

from van.cli import loading
from van.cli.selecting import select
from van.cli.train import parsed

_USAGE = """usage: van tune lr [--steps 100] [--plot FILE.png] [options of van train]
       van tune batch-size [--steps 3] [options of van train]

Find a learning rate or the largest batch size for van train, on one device. Nothing else is written.

  lr          train at learning rates that grow from 1e-7 to 1, and suggest the one where the loss falls fastest
  batch-size  train some steps at batch sizes that double, until memory does not suffice; on a CPU, until the next one
              would take more than 90 % of the free memory
  --steps     steps of the optimizer: in all for lr, at each size for batch-size
  --plot      new file for the loss over the learning rate

van train --help shows the other options."""


def run(arguments: list[str]) -> int:
    """Find what to train with; see van.tune."""
    if not arguments or {"-h", "--help"} & set(arguments):
        print(_USAGE)
        return 0
    from pathlib import Path

    from van.engine.parsing import OptionError

    find, *rest = arguments
    chosen, rest = select(rest, "steps", "plot")
    steps, plot = chosen.get("steps"), chosen.get("plot")
    if find not in ("lr", "batch-size"):
        raise OptionError(f"{find!r} is not to be found, expected lr or batch-size.")
    if plot and find != "lr":
        raise OptionError("--plot is for van tune lr. Leave it out.")
    if steps is not None and not steps.isdecimal():
        raise OptionError(f"--steps is {steps}, expected a whole number.")
    if plot and Path(plot).exists():
        raise OptionError(f"{plot} exists. Give another --plot.")
    task, options = parsed(rest)
    loading("tune", "PyTorch and the data", options.quiet)
    from van.engine.tuning import LearningRates, find_batch_size, find_lr

    found = (find_lr if find == "lr" else find_batch_size)(task, options, **({"steps": int(steps)} if steps else {}))
    print(found)
    if plot and isinstance(found, LearningRates):
        found.figure().savefig(plot)
        print(f"plot: {plot}")
    if found.suggestion is None:
        print(f"van tune: {find}: nothing to suggest.", file=sys.stderr)
    return 0 if found.suggestion is not None else 1
