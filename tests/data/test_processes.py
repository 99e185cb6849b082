import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from van.data.processes import loading_errors
from van.errors import DataError

ROOT = Path(__file__).parents[2]


class Trouble(Dataset):
    """Does something to its process at index 5."""

    def __init__(self, what):
        self.what = what

    def __len__(self):
        return 8

    def __getitem__(self, index):
        if index == 5:
            self.what()
        return torch.tensor(index)


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def left():
    os._exit(3)


def refused():
    raise DataError("5.png is broken: see the ValueError: above.")


def failed():
    raise RuntimeError("another thing")


@pytest.mark.skipif(os.name != "posix", reason="signals are POSIX's")
@pytest.mark.parametrize(
    ("what", "words"),
    [
        (killed, r"^A loading process was ended by the signal 'Killed'\. The system kills .* memory.*--workers"),
        (left, r"^A loading process ended unexpectedly( with exit code 3)?\. .*--workers"),
        (refused, r"^5\.png is broken: see the ValueError: above\.\n$"),
    ],
)
def test_troubles_of_processes_are_one_sentence(what, words):
    """In a process of its own: torch may speak of the dead process once more, wherever Python is then."""
    script = f"from tests.data.test_processes import load, {what.__name__} as what; load(what)"
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=ROOT)
    assert re.search(words, run.stdout), run.stderr
    assert run.stdout.count("\n") == 1


def load(what):
    """Load everything, print the error, and end at once."""
    loader = DataLoader(Trouble(what), batch_size=2, num_workers=2, persistent_workers=True)
    try:
        with loading_errors():
            list(loader)  # starts the processes, one of which may be dead before this has the first batch
    except DataError as error:
        print(error, flush=True)
    for process in loader._iterator._workers:
        process.kill()  # one that waits for the lock of the dead one would keep the output open
    os._exit(0)


def test_other_errors_stay_as_they_are():
    iterator = iter(DataLoader(Trouble(failed), batch_size=2, num_workers=1))
    with pytest.raises(RuntimeError, match="Original Traceback"), loading_errors():
        list(iterator)
    iterator._shutdown_workers()
