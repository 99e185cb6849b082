"""`van ablate`."""

from van.cli import loading
from van.cli.selecting import print_report, select


def run(arguments: list[str]) -> int:
    """Train the rows of an ablation table; see van.analysis.ablate."""
    from van.analysis.reports.ablate import ablate_options, run_ablation

    chosen, rest = select(arguments, "config", "data", "resume", "output")
    options = ablate_options(chosen.pop("config", None), chosen, rest)
    loading("ablate", "PyTorch and the data", options.quiet)
    return print_report(run_ablation(options), "ablate")
