"""What malloc is told: in processes of their own, for it is told once and for all."""

import platform
import subprocess
import sys

import pytest

PROGRAM = """
import resource, sys
from specop.trainer.libraries import keep_freed
if sys.argv[1] == "kept":
    keep_freed()
def large():
    bytearray(64 << 20)
large()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(4):
    large()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    done = subprocess.run([sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_what_is_freed_is_used_again_without_a_page_fault() -> None:
    assert faults("kept") < faults("returned") / 10
