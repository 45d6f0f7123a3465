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


KEPT = """
import re
import torch
from models.allocation import give_back_freed_memory, keep_freed_memory

def resident_mib():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10

keep_freed_memory()
maps = [torch.ones(2**20 * 8) for _ in range(12)]  # 32 MiB each
del maps
kept = resident_mib()
give_back_freed_memory()
print(kept - resident_mib())
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another allocator than glibc's")
def test_what_is_kept_counts_as_free_when_somebody_asks():
    done = subprocess.run([sys.executable, "-c", KEPT], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 300


def test_another_allocator_is_left_alone(monkeypatch):
    from models import allocation

    monkeypatch.setattr(platform, "libc_ver", lambda: ("", ""))
    monkeypatch.setattr(allocation.ctypes, "CDLL", lambda name: pytest.fail("asked"))
    allocation.keep_freed_memory()
    allocation.give_back_freed_memory()
