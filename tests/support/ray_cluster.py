"""A Ray cluster on this machine: a head without cores and nodes of one core, each in processes of
its own.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from unittest import mock

# A busy machine starts a node's processes slowly.
PATIENT = {"RAY_raylet_start_wait_time_s": "120", "RAY_DISABLE_IMPORT_WARNING": "1"}


@contextlib.contextmanager
def ray_cluster(nodes: int, **resources: float) -> Iterator:
    """Context manager: yields a `ray.cluster_utils.Cluster` with `nodes` nodes of one core."""
    import ray
    from ray.cluster_utils import Cluster

    with mock.patch.dict(os.environ, PATIENT):
        os.environ.pop("RAY_ADDRESS", None)
        cluster = Cluster(True, head_node_args={"num_cpus": 0, "include_dashboard": False})
        try:
            for _ in range(nodes):
                cluster.add_node(num_cpus=1, **resources)
            yield cluster
        finally:
            ray.shutdown()
            cluster.shutdown()


def worker_pids() -> list[int]:
    """Process numbers of the actors that hold a subject on this machine."""
    from pathlib import Path

    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (folder / "cmdline").read_bytes().startswith(b"ray::Worker"):
                found.append(int(folder.name))
    return found
