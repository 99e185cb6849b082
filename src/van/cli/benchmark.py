"""`van benchmark`."""

from van.cli.selecting import report


def run(arguments: list[str]) -> int:
    """Run van.analysis.benchmark, and print its report."""
    return report(arguments, "benchmark")
