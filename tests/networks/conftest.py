import pytest
import torch


@pytest.fixture(scope="package", autouse=True)
def one_thread():
    """Tiny operations gain nothing from a second thread, and wait for it for minutes where the cores are busy."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
