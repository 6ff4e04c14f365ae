"""The run directory: units that are committed whole, with keys that chain over their inputs.

A unit (`capture`, `label/rules`, `score/rules/simulation`) is a folder whose manifest.json is
written last. Work happens in `UNIT.partial`; one rename commits it. The key of a unit hashes its
name, the version of its code, its settings and the keys of its inputs, so a unit is *stale* when an
input has been recomputed with another key. A killed stage leaves its partial folder, and the same
command continues from there; a partial folder that was begun with other settings is thrown away.

One process at a time writes to a run: `locked` holds a file lock, which the system releases even
after kill -9.
"""

from __future__ import annotations

import contextlib
import difflib
import importlib.metadata
import json
import os
import shutil
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.errors import NotReady, UsageError
from core.files import canonical_hash, read_json, sha256, write_json
from core.records import Manifest
from core.settings import RunSettings, from_table, key_table

HOME = "BRAIN_SURGERY_HOME"  # environment: the folder that holds runs/, models/
FORMAT = 1
PACKAGES = (
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "faiss-cpu",
    "umap-learn",
    "hdbscan",
    "scikit-learn",
)


def home_folder() -> Path:
    """Where runs and converted models lie: $BRAIN_SURGERY_HOME, else ./data."""
    return Path(os.environ.get(HOME) or "data")


def runs_folder() -> Path:
    """Where runs are found by name: under $BRAIN_SURGERY_HOME, else ./data."""
    return home_folder() / "runs"


def run_path(name: str) -> Path:
    """`name` as a path where it looks like one, else the folder of that name among the runs."""
    is_path = os.sep in name or (Path(name) / "run.json").exists()
    return Path(name) if is_path else runs_folder() / name


def known_runs() -> list[str]:
    """Names of the runs that are found by name, sorted."""
    return sorted(
        str(p.parent.relative_to(runs_folder())) for p in runs_folder().glob("*/run.json")
    )


def differences(old: dict, new: dict) -> list[str]:
    """`name old -> new` for every entry that differs."""
    return [
        f"{name} {old.get(name)} -> {new.get(name)}"
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name)
    ]


def _no_such_run(name: str) -> NotReady:
    """The error for a run that is not there, with the name that was probably meant."""
    known = known_runs()
    if close := difflib.get_close_matches(name, known, 1):
        return NotReady(
            f"There is no run {name!r}. Did you mean {close[0]!r}?",
            "List the runs: python main.py status",
        )
    there = f"Runs here: {', '.join(known)}." if known else "There are none yet."
    return NotReady(f"There is no run {name!r}. {there}", f"Make it: python main.py new {name}")


class Run:
    """One run directory, opened. `settings` is what the run is about."""

    def __init__(self, path: Path, settings: RunSettings):
        self.path = path
        self.settings = settings
        inside = path.is_relative_to(runs_folder())
        self.name = str(path.relative_to(runs_folder())) if inside else str(path)

    @classmethod
    def create(cls, name: str, settings: RunSettings) -> Run:
        """A new run directory, or the one that is there when it is about the same thing."""
        path = run_path(name)
        if (path / "run.json").exists():
            run = cls.open(name)
            if changed := differences(asdict(run.settings), asdict(settings)):
                raise NotReady(
                    f"{run.name} exists and is about something else: {'; '.join(changed)}.",
                    "Choose another name for the new run.",
                )
            return run
        path.mkdir(parents=True, exist_ok=True)
        write_json(
            path / "run.json",
            {
                "format": FORMAT,
                "made": datetime.now().isoformat(timespec="seconds"),
                **asdict(settings),
            },
        )
        return cls(path, settings)

    @classmethod
    def open(cls, name: str) -> Run:
        path = run_path(name)
        try:
            table = read_json(path / "run.json")
        except FileNotFoundError:
            raise _no_such_run(name) from None
        except json.JSONDecodeError as error:
            raise UsageError(
                f"{path / 'run.json'} is not JSON: {error}.",
                "Restore it from a copy, or make a new run.",
            ) from None
        if table.pop("format", None) != FORMAT:
            raise UsageError(
                f"{path} was written by another version of this program.", "Make a new run."
            )
        table.pop("made", None)
        return cls(path, from_table(RunSettings, table))

    # ------------------------------------------------------------ units

    def folder(self, unit: str) -> Path:
        """The committed folder of `unit`; raises NotReady, naming the verb to run, when there is
        none.
        """
        self.manifest(unit)
        return self.path / unit

    def manifest(self, unit: str) -> Manifest:
        """The manifest of a committed unit; raises NotReady when the unit does not exist."""
        found = self.find(unit)
        if found is None:
            raise NotReady(
                f"{unit} has not been made in run {self.name}.", f"Run: {self.command(unit)}"
            )
        return found

    def command(self, unit: str) -> str:
        """What to type to make `unit`."""
        stage, *rest = unit.split("/")
        name = rest[0] if rest else ""
        label_set = "llm" if stage == "label" and name.startswith("llm-") else name
        return f"python main.py {stage} {self.name}" + (
            f" --{'name' if stage == 'sweep' else 'labels'} {label_set}" if label_set else ""
        )

    def find(self, unit: str) -> Manifest | None:
        """The manifest of `unit`, or None when it is not committed."""
        folder = self.path / unit
        old = folder.with_name(folder.name + ".old")
        if old.exists() and not folder.exists():  # killed between the two renames of a replacement
            os.replace(old, folder)
        try:
            return Manifest(**read_json(folder / "manifest.json"))
        except FileNotFoundError:
            return None

    def committed(self) -> list[str]:
        """Names of all committed units, in path order."""
        found = (p.parent.relative_to(self.path) for p in self.path.glob("**/manifest.json"))
        return sorted(
            str(unit) for unit in found if ".partial" not in str(unit) and ".old" not in str(unit)
        )

    def state(self, unit: str) -> str:
        """absent, partial, done, or stale (an input was recomputed, or is itself stale)."""
        manifest = self.find(unit)
        if manifest is None:
            return "partial" if self._partial(unit).exists() else "absent"
        for name, key in manifest.inputs.items():
            current = self.find(name)
            if current is None or current.key != key or self.state(name) == "stale":
                return "stale"
        return "done"

    def _partial(self, unit: str) -> Path:
        return self.path / f"{unit}.partial"

    def begun_with(self, unit: str) -> dict[str, Any] | None:
        """Settings with which a partial unit was begun, or None."""
        plan = self._partial(unit) / "plan.json"
        return read_json(plan)["settings"] if plan.exists() else None

    def _key(
        self, unit: str, version: int, settings: Any, inputs: list[str]
    ) -> tuple[str, dict, dict]:
        """(key of the unit, its settings, the keys of its inputs)."""
        keys = {name: self.manifest(name).key for name in inputs}
        table = settings if isinstance(settings, dict) else key_table(settings)
        subject = {} if inputs else key_table(self.settings)
        return (
            canonical_hash(
                {
                    "unit": unit,
                    "version": version,
                    "settings": table,
                    "run": subject,
                    "inputs": keys,
                }
            ),
            table,
            keys,
        )

    def is_current(self, unit: str, version: int, settings: Any, inputs: list[str]) -> bool:
        """Whether `unit` is committed as `begin` with the same arguments would make it."""
        found = self.find(unit)
        return found is not None and found.key == self._key(unit, version, settings, inputs)[0]

    def begin(
        self,
        unit: str,
        version: int,
        settings: Any,
        inputs: list[str],
        redo: bool = False,
        extend: bool = False,
    ) -> Work | None:
        """A place to work on `unit`, or None when it is committed with the same key and not to be
        extended. `settings` is a settings dataclass, or a table of what decides what the unit
        holds.

        Raises NotReady when an input is missing or stale, or when the unit is committed with
        another key and `redo` is not set.
        """
        if stale := [name for name in inputs if self.state(name) == "stale"]:
            raise NotReady(
                f"{stale[0]} is stale: something it was made from has changed.",
                f"Run: {self.command(stale[0])} --redo",
            )
        key, table, keys = self._key(unit, version, settings, inputs)
        found = self.find(unit)
        if found and found.key == key and not (redo or extend):
            return None
        if found and found.key != key and not redo:
            changed = (
                differences(found.settings, table)
                + differences(found.inputs, keys)
                + differences({"version": found.version}, {"version": version})
            )
            shown = "; ".join(
                c if len(c) < 90 else c.split(" ")[0] + " was recomputed" for c in changed
            )
            raise NotReady(
                f"{unit} is committed and differs: {shown}.",
                f"Recompute it with the flags you want: {self.command(unit)} --redo",
            )
        work = Work(self, unit, version, key, table, keys)
        work.open()
        return work

    # ------------------------------------------------------------ lock

    @contextlib.contextmanager
    def locked(self, verb: str) -> Iterator[None]:
        """Hold the run for writing; raises NotReady, telling who holds it, when another process
        does.
        """
        lock, holder = FileLock(self.path / "lock", blocking=False), self.path / "holder"
        try:
            lock.acquire()
        except Timeout:
            said = holder.read_text(encoding="utf-8").strip() if holder.exists() else ""
            raise NotReady(
                f"{self.name} is in use by {said or 'another process'}.",
                "Wait for it to end, or stop it; then type the same command again.",
            ) from None
        try:
            said = f"process {os.getpid()} ({verb}, since {datetime.now():%H:%M:%S})"
            holder.write_text(said, encoding="utf-8")
            yield
        finally:
            holder.unlink(missing_ok=True)
            lock.release()


class Work:
    """A unit in progress. Files written under `folder` become the unit when `commit` is called."""

    def __init__(
        self, run: Run, unit: str, version: int, key: str, settings: dict, inputs: dict[str, str]
    ):
        self.run, self.unit, self.version, self.key, self.settings, self.inputs = (
            run,
            unit,
            version,
            key,
            settings,
            inputs,
        )
        self.folder = run._partial(unit)
        self.resumed = False
        self.started = time.time()

    def open(self) -> None:
        """Make the partial folder, or go on in the one that was begun with the same key."""
        plan = self.folder / "plan.json"
        if plan.exists() and read_json(plan)["key"] == self.key:
            self.resumed = True
            return
        if self.folder.exists():
            shutil.rmtree(self.folder)
        self.folder.mkdir(parents=True)
        write_json(plan, {"key": self.key, "settings": self.settings})

    def discard(self) -> None:
        """Leave no partial unit behind: nothing was made."""
        shutil.rmtree(self.folder)

    def commit(self, summary: dict) -> Manifest:
        """Hash the files, write the manifest, and rename the folder over an older unit.

        Files whose names begin with a dot are scratch: they are not hashed, and are deleted last.
        """
        found = (
            path
            for path in sorted(self.folder.rglob("*"))
            if path.is_file() and not path.name.startswith(".")
        )
        paths = [path for path in found if path.name not in ("plan.json", "manifest.json")]
        with ThreadPoolExecutor(os.cpu_count()) as pool:  # hashing leaves the interpreter free
            hashes = list(pool.map(sha256, paths))
        files = {
            str(path.relative_to(self.folder)): {"bytes": path.stat().st_size, "sha256": h}
            for path, h in zip(paths, hashes, strict=True)
        }
        seconds = round(time.time() - self.started, 1)
        manifest = Manifest(
            self.unit,
            self.version,
            self.key,
            self.settings,
            self.inputs,
            files,
            summary,
            package_versions(),
            seconds,
        )
        write_json(self.folder / "manifest.json", asdict(manifest))
        final = self.run.path / self.unit
        old = final.with_name(final.name + ".old")
        if final.exists():
            shutil.rmtree(old, ignore_errors=True)  # what an earlier kill may have left of one
            os.replace(final, old)
        os.replace(self.folder, final)
        # Not before the rename: a partial folder without its plan is thrown away, and a kill while
        # files are hashed must not cost a checkpoint.
        (final / "plan.json").unlink()
        for path in final.rglob(".*"):
            path.unlink()
        shutil.rmtree(old, ignore_errors=True)
        return manifest


def package_versions() -> dict[str, str]:
    versions = {}
    for name in PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions
