"""What the aggregator frees each tick it asks for again the next one."""

import subprocess
import sys

ROUNDS = 50
FREE_AND_TAKE = f"""
import resource
from supervisor import linux

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

def take_and_free():
    for _ in range({ROUNDS}):
        [b"x" * (200 << 10) for _ in range(8)]

take_and_free()
before = faults()
take_and_free()
given_back = faults() - before
linux.keep_freed_memory(2 << 20)
take_and_free()
before = faults()
take_and_free()
print(given_back, faults() - before)
"""


def test_memory_that_is_kept_is_not_had_again_from_the_kernel_page_by_page() -> None:
    said = subprocess.run([sys.executable, "-c", FREE_AND_TAKE], capture_output=True, text=True, check=True)
    given_back, kept = map(int, said.stdout.split())
    assert kept < ROUNDS
    assert kept * 10 < given_back
