import subprocess
import sys

import pytest

from distill.allocator import keep_freed_memory

PROGRAM = """
import resource, sys
import numpy as np
from distill.allocator import keep_freed_memory, give_freed_memory_back

def faults(times=4, megabytes=48):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(times):
        np.full(megabytes * 2**17, 1.0)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / times

own = faults()
assert keep_freed_memory()
faults(1)  # takes the block that is kept from here on
kept = faults()
assert give_freed_memory_back()
faults(1)
print(own, kept, faults())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not keep_freed_memory(), reason="the C library is no glibc")
def test_a_block_that_is_taken_again_is_not_mapped_anew():
    # 48 MiB are 12,288 pages of 4 KiB; numpy asks for huge pages of 2 MiB where the system lends them: 24 of them.
    said = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    own, kept, again = map(float, said.stdout.split())
    assert own >= 24
    assert kept < 1
    assert again >= 24


TRIMMED = """
from pathlib import Path
import numpy as np
from distill.allocator import keep_freed_memory, trim

def private():
    return int(Path("/proc/self/status").read_text().partition("RssAnon:")[2].split()[0]) / 1024

assert keep_freed_memory()
before = private()
blocks = [np.ones(2**17) for _ in range(48)]
last = blocks.pop()
taken = private() - before
del blocks
kept = private() - before
trim()
print(taken, kept, private() - before, last.sum())
"""


@pytest.mark.skipif(not sys.platform.startswith("linux") or not keep_freed_memory(), reason="the C library is no glibc")
def test_what_is_kept_goes_back_between_two_stages():
    # 48 blocks of 1 MiB; the last of them is held, so that the others do not lie at the end of the heap.
    said = subprocess.run([sys.executable, "-c", TRIMMED], capture_output=True, text=True, check=True)
    taken, kept, left, _ = map(float, said.stdout.split())
    assert taken == pytest.approx(48, abs=2)
    assert kept == pytest.approx(48, abs=2)
    assert left == pytest.approx(1, abs=2)
