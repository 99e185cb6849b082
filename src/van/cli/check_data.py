"""`van check-data`."""

from van.cli.selecting import select


def run(arguments: list[str]) -> int:
    """Check a data set; see van.engine.checking.check_data."""
    from van.engine.checking import check_options, run_check

    chosen, rest = select(arguments, "task", "config")
    task = chosen.pop("task", None)
    found = run_check(task, check_options(task, chosen.pop("config", None), chosen, rest))
    print(found)
    return 1 if found.problems else 0
