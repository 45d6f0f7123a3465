"""What a network frees is not given back to the system and asked for again."""

import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from models.allocation import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
torch.set_num_threads(1)

def look():
    for _ in range(20):
        maps = torch.ones(3, 64, 256, 256) * 2  # 48 MiB
        del maps

look()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
look()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how):
    command = [sys.executable, "-c", FAULTS, how]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_maps_that_are_freed_are_used_again():
    # Once more is asked for where something small lies in what was freed.
    assert 10 * faults("keep") < faults("as it comes")


def test_another_allocator_is_left_alone(monkeypatch):
    from models import allocation

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: pytest.fail("asked"))
    allocation.keep_freed_memory()
