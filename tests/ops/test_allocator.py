import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, torch
from van.ops.allocator import keep_freed_memory
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        torch.empty(2**24).fill_(1)  # 64 MB
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
faults()
before = faults()
took_effect = keep_freed_memory()
faults()
print(took_effect, before > 10 * (faults() + 1))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has the setting")
def test_memory_that_is_used_again_costs_no_page_faults():
    output = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True).stdout
    assert output.split() == ["True", "True"]


def test_other_c_libraries_are_left_alone(monkeypatch):
    from van.ops.allocator import keep_freed_memory

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    assert keep_freed_memory() is False
