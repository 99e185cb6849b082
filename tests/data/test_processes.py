import os
import signal

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from van.data.processes import loading_errors
from van.errors import DataError


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
        (refused, r"^5\.png is broken: see the ValueError: above\.$"),
    ],
)
def test_troubles_of_processes_are_one_sentence(what, words):
    loader = DataLoader(Trouble(what), batch_size=2, num_workers=2, persistent_workers=True)
    with pytest.raises(DataError, match=words) as error, loading_errors():
        list(loader)  # starts the processes, one of which may be dead before this has the first batch
    assert "\n" not in str(error.value)
    loader._iterator._shutdown_workers()


def test_other_errors_stay_as_they_are():
    iterator = iter(DataLoader(Trouble(failed), batch_size=2, num_workers=1))
    with pytest.raises(RuntimeError, match="Original Traceback"), loading_errors():
        list(iterator)
    iterator._shutdown_workers()
