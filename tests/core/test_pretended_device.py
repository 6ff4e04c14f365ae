"""No path mixes devices; see `tests/core/pretended_device.py`.

Its tests run in a process of their own, because torch has to know of every device before its first
gradient.
"""

import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_no_path_mixes_devices():
    made = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider",
         "tests/core/pretended_device.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )  # fmt: skip
    assert made.returncode == 0, made.stdout[-4000:]
