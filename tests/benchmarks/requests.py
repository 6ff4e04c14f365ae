"""CPU and rate of the LLM door against a local endpoint with a fixed latency, from the question to
the stored reply.

    python tests/benchmarks/requests.py [--requests 2000] [--latency 0.2]

CPU is that of the client's process alone, the store's writes included; the prompt has 3.4 kB. The
rate has the server beside it on the same cores.
"""

import argparse
import pathlib
import sys
import tempfile
import time

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from autointerp.llm.client import answer  # noqa: E402
from autointerp.llm.endpoint import Endpoint  # noqa: E402
from autointerp.llm.replies import ReplyStore  # noqa: E402
from tests.jobs.test_faults import fault_server  # noqa: E402


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=2000)
    parser.add_argument("--latency", default="0.2")
    arguments = parser.parse_args()
    with fault_server("--faults", "0", "--latency", arguments.latency) as (url, _):
        endpoint = Endpoint(url, "none-given")
        for concurrency in (8, 64, 256):
            with (
                tempfile.TemporaryDirectory() as folder,
                ReplyStore(pathlib.Path(folder) / "replies.sqlite") as store,
            ):
                n = min(arguments.requests, 30 * concurrency)
                ask = lambda name, n, c=concurrency, s=store: answer(
                    [
                        endpoint.request(
                            "m",
                            [{"role": "user", "content": f"{name} {i} " + "x " * 1700}],
                            max_tokens=64,
                        )
                        for i in range(n)
                    ],
                    s,
                    endpoint,
                    concurrency=c,
                )
                ask("warm", concurrency)
                wall, cpu = time.perf_counter(), time.process_time()
                replies = ask("question", n)
                wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
                assert not any(reply.error for reply in replies.values())
                print(
                    f"{concurrency:4} in flight: {n / wall:6.0f} requests/s, {1000 * cpu / n:.2f} ms of CPU a request"
                )


if __name__ == "__main__":
    main()
