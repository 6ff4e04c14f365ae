"""Join a Ray cluster, and check its machines before they make a shard.

The run's folder must be on a file system that all machines share: workers write shards there, and
the driver commits them. Each machine says which code and which packages it has, reads a file of
the driver and writes one that the driver reads.
"""

from __future__ import annotations

import importlib.util
import os
import secrets
import socket
from collections.abc import Callable
from typing import Any

from core.errors import NotReady, UsageError
from core.run import PACKAGES
from core.workers import ANY_GPU, Engine

INSTALL = "pip install -r requirements-cluster.txt"
ANSWER = 5.0  # seconds in which a head answers
OURS = ("core", "autointerp")  # packages whose code must be the same on every machine
COMPARED = (*PACKAGES, "safetensors", "pandas", "pyarrow")


def _find_ray() -> Any:
    """The package `ray`; raises UsageError where it is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise UsageError("--engine ray needs the package ray, which is not installed.", INSTALL)
    import ray

    return ray


class Cluster:
    """A Ray cluster that this process has joined, and the machines that were checked."""

    def __init__(self, ray: Any, engine: Engine, address: str):
        self.ray, self.folder = ray, engine.folder.absolute()
        self.address = address or "this machine"
        self.checked: set[str] = set()  # ids of machines
        self.gpus = self._gpus(engine.gpus)
        self.own = _make_probe()("", "", "", *_compared())
        for node in self.nodes():
            self.check(node["NodeID"])

    @classmethod
    def join(cls, engine: Engine) -> Cluster:
        """Join the cluster that `engine` names, or start one on this machine.

        Raises UsageError without the package ray, for an address that does not answer, and where a
        GPU is asked for and no machine has one; NotReady for a machine with other code or packages,
        or one that cannot see the run's folder.
        """
        ray = _find_ray()
        address = engine.address or os.environ.get("RAY_ADDRESS", "")
        if not ray.is_initialized():
            _connect(ray, address, engine.workers)
        return cls(ray, engine, address)

    def nodes(self) -> list[dict[str, Any]]:
        """The machines that are alive."""
        return [node for node in self.ray.nodes() if node["Alive"]]

    def resource(self, name: str) -> float:
        """How much of `name` (CPU, GPU) all machines have together."""
        return float(sum(node["Resources"].get(name, 0.0) for node in self.nodes()))

    def _gpus(self, asked: float) -> float:
        """GPUs of a worker; raises UsageError where there is none to ask for."""
        there = self.resource("GPU")
        if asked == ANY_GPU:
            return 1.0 if there else 0.0
        if asked > 0 and not there:
            raise UsageError(
                f"A worker asks for {asked:g} GPU, and no machine of the cluster at "
                f"{self.address} has one.",
                "Start a machine with GPUs (ray start --num-gpus 1), or use --gpus-per-worker 0.",
            )
        return asked

    def check(self, node_id: str) -> None:
        """Check one machine, once: its code, its packages, and that it shares the run's folder."""
        if node_id in self.checked:
            return
        token = secrets.token_hex(8)
        ours, theirs = (self.folder / f".{who}-{token}" for who in ("driver", "machine"))
        ours.write_text(token)
        try:
            said = self._ask(node_id, str(ours), str(theirs), token)
            if said is None:  # the machine left while it was asked
                return
            name = said["name"]
            if said["read"] != token or not theirs.exists():
                raise NotReady(
                    f"{name} and this machine do not share {self.folder}.",
                    "Put the run on a file system that all machines mount at the same path.",
                )
        finally:
            ours.unlink(missing_ok=True)
            theirs.unlink(missing_ok=True)
        self._compare(name, said)
        self.checked.add(node_id)

    def _ask(self, node_id: str, ours: str, theirs: str, token: str) -> dict[str, str] | None:
        ray = self.ray
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        place = NodeAffinitySchedulingStrategy(node_id=node_id, soft=False)
        probe = ray.remote(_make_probe()).options(num_cpus=0, scheduling_strategy=place)
        try:
            said: dict[str, str] = ray.get(probe.remote(ours, theirs, token, *_compared()))
        except ray.exceptions.RayTaskError:
            raise
        except ray.exceptions.RayError:
            return None
        return said

    def _compare(self, name: str, said: dict[str, str]) -> None:
        for what in ("code", *sorted(said.keys() - {"name", "read", "code"})):
            if said[what] != self.own[what]:
                here, there = (table[what][:12] for table in (self.own, said))
                raise NotReady(
                    f"{name} has another version of {_kind(what)} than this machine: "
                    f"{there}, here {here}.",
                    "Install the same code and the same requirements.txt on every machine, "
                    "and start its Ray again.",
                )


def _kind(what: str) -> str:
    return "this program" if what == "code" else what


def _connect(ray: Any, address: str, workers: int) -> None:
    """Join the cluster at `address`; without one, start a cluster on this machine."""
    if address and address not in ("auto", "local"):
        _knock(address)
    started = address in ("", "local")
    try:
        ray.init(
            address="local" if started else address,
            num_cpus=(workers or os.cpu_count()) if started else None,
            include_dashboard=False if started else None,
            log_to_driver=False,
            logging_level="ERROR",
            configure_logging=False,
        )
    except (ConnectionError, RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UsageError(
            f"The Ray cluster at {address or 'this machine'} cannot be joined: {why}",
            "Run the command on a machine of the cluster: ray start --address HEAD:6379",
        ) from None


def _knock(address: str) -> None:
    """Raise UsageError for an address that is none, or where nothing answers."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit() or "//" in address:
        raise UsageError(
            f"{address!r} is not the address of a Ray cluster's head.",
            "Give host:port, such as --ray 10.0.0.1:6379.",
        )
    try:
        socket.create_connection((host, int(port)), ANSWER).close()
    except (OSError, OverflowError) as error:
        raise UsageError(
            f"Nothing answers at {address}: {error}.",
            "Start the head (ray start --head --port 6379), and give its host:port to --ray.",
        ) from None


def _compared() -> tuple[tuple[str, ...], tuple[str, ...]]:
    return OURS, COMPARED


def _make_probe() -> Callable[..., dict[str, str]]:
    """A function that describes the machine that it runs on.

    It is sent to the machine as code, not by name, because the machine may have other code.
    """

    def probe(
        ours: str, theirs: str, token: str, folders: tuple[str, ...], packages: tuple[str, ...]
    ) -> dict[str, str]:
        import hashlib
        import importlib.metadata
        import importlib.util
        import pathlib
        import platform

        said = {"name": platform.node(), "read": "", "Python": platform.python_version()}
        if ours:
            try:
                said["read"] = pathlib.Path(ours).read_text()
                pathlib.Path(theirs).write_text(token)
            except OSError:
                said["read"] = ""
        for package in packages:
            try:
                said[package] = importlib.metadata.version(package)
            except importlib.metadata.PackageNotFoundError:
                said[package] = "not installed"
        code = hashlib.sha256()
        for folder in folders:
            found = importlib.util.find_spec(folder)
            for root in found.submodule_search_locations or () if found else ():
                for path in sorted(pathlib.Path(root).rglob("*.py")):
                    code.update(str(path.relative_to(root)).encode() + path.read_bytes())
        said["code"] = code.hexdigest()
        return said

    return probe
