"""Several programs time the same work in turns: one process each, in environments of their own,
never two at once.

A contender is a generator that prepares itself and then yields: each `next` does one turn of work
and yields how many units it did. `take_turns` starts a process for each, lets each do one untimed
turn, and then round after round one turn each, so that what else the machine does falls on all
alike. Only ratios within a round count. With one thread the clock is that of the processor's own
work, which other work hardly changes.
"""

import importlib
import os
import pathlib
import subprocess
import sys
import time

import numpy as np

ROOT = pathlib.Path(__file__).parents[2]
MALLOC = {
    "MALLOC_MMAP_THRESHOLD_": "4294967296",
    "MALLOC_TRIM_THRESHOLD_": "8589934592",
    "MALLOC_TOP_PAD_": "268435456",
}
AS_MAIN = MALLOC | {"TOKENIZERS_PARALLELISM": "true"}  # as main.py runs
QUIET = {
    "HF_HUB_OFFLINE": "1",
    "WANDB_MODE": "disabled",
    "SPARSIFY_DISABLE_TRITON": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
WORK = "import sys; sys.path.insert(0, sys.argv[1]); from tests.benchmarks.turns import work; work(*sys.argv[2:])"


def peak_mb():
    """Largest resident memory of this process, MB."""
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def work(module, name, threads, *arguments):
    """The other end: do a turn for each line that comes in, and answer `units seconds peak-MB`.

    What the libraries print goes to stderr.
    """
    import torch

    torch.set_num_threads(int(threads))
    clock = time.process_time if int(threads) == 1 else time.perf_counter
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)
    turns = getattr(importlib.import_module(module), name)(*arguments)
    for _ in sys.stdin:
        start = clock()
        units = next(turns)
        answers.write(f"turn {units} {clock() - start} {peak_mb()}\n")


class Contender:
    """The process of one contender; `python` is its interpreter, `name` the generator in `module`."""

    def __init__(self, python, module, name, arguments=(), threads=2, log=None, as_main=False):
        self.name, self.seconds, self.units, self.peak = name, [], 0, 0.0
        command = [
            str(python),
            "-c",
            WORK,
            str(ROOT),
            module,
            name,
            str(threads),
            *map(str, arguments),
        ]
        environment = (
            os.environ | QUIET | {"OMP_NUM_THREADS": str(threads)} | (AS_MAIN if as_main else {})
        )
        pipes = {
            "stdin": subprocess.PIPE,
            "stdout": subprocess.PIPE,
            "stderr": log or subprocess.DEVNULL,
        }
        self.process = subprocess.Popen(
            command, cwd=ROOT, env=environment, text=True, bufsize=1, **pipes
        )

    def turn(self):
        """Seconds a unit of one turn; raises SystemExit when the process has ended."""
        self.process.stdin.write("go\n")
        answer = self.process.stdout.readline().split()
        if not answer:
            raise SystemExit(
                f"{self.name} ended with {self.process.wait()}; give --log FILE to see why"
            )
        self.units, seconds, self.peak = int(answer[1]), float(answer[2]), float(answer[3])
        return seconds / self.units

    def stop(self):
        self.process.stdin.close()
        self.process.wait()


def take_turns(contenders, rounds, unit):
    """Print the median rate of each, and the ratio of the first one's to it (median over rounds);
    return the medians, units a second.
    """
    try:
        for contender in contenders:
            contender.turn()
        for _ in range(rounds):
            for contender in contenders:
                contender.seconds.append(contender.turn())
    finally:
        for contender in contenders:
            contender.stop()
    first, rates = np.array(contenders[0].seconds), {}
    for contender in contenders:
        each = np.array(contender.seconds)
        rates[contender.name] = 1 / float(np.median(each))
        ratio = float(np.median(each / first))
        print(
            f"{contender.name:24} {rates[contender.name]:12,.0f} {unit}/s   {contender.peak:7,.0f} MB   {contenders[0].name} / it {ratio:6.2f}",
            flush=True,
        )
    return rates
