"""`van tasks`."""

from van.cli.selecting import call


def tasks() -> None:
    """List the tasks with their architectures, data formats and built-in data.

    van train --task TASK --help shows the options of a task.
    """
    from van.engine.registry import get_task, task_names
    from van.networks.registry import architectures

    for name in task_names():
        task = get_task(name)
        print(f"{name}: {task.summary}")
        if task.architecture and (choices := architectures(name)):
            print(f"  architectures: {', '.join(choices)}")
        print(f"  data:          {'; '.join(task.formats)}")
        print(f"  built in:      {task.demo_data} (van train --task {name})")
        print(f"  metrics:       {', '.join(metric.label for metric in task.metrics)}")


def run(arguments: list[str]) -> None:
    """List tasks."""
    call(tasks, arguments, "tasks")
