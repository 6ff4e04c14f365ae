"""Clamp experiments of a run: one JSON file each under clamps/, numbered, never changed."""

from __future__ import annotations

from core.errors import UsageError
from core.files import read_json, write_json
from core.run import Run


def save_experiment(run: Run, record: dict) -> str:
    """Keep a clamp experiment under the next free number; returns its name inside the run."""
    folder = run.path / "clamps"
    folder.mkdir(exist_ok=True)
    taken = [int(p.stem) for p in folder.glob("[0-9]*.json")]
    name = f"{max(taken, default=0) + 1:04d}.json"
    write_json(folder / name, record)
    return f"clamps/{name}"


def experiments(run: Run) -> list[dict]:
    """All kept clamp experiments, oldest first, each with its `number`."""
    return [
        read_json(p) | {"number": int(p.stem)}
        for p in sorted((run.path / "clamps").glob("[0-9]*.json"))
    ]


def experiment(run: Run, number: int) -> dict:
    """One kept experiment; raises UsageError when there is none of that number."""
    path = run.path / "clamps" / f"{number:04d}.json"
    if not path.exists():
        known = (
            ", ".join(p.stem for p in sorted((run.path / "clamps").glob("[0-9]*.json")))
            or "none yet"
        )
        raise UsageError(
            f"There is no clamp experiment {number}; there are: {known}.",
            f'Make one: python main.py clamp {run.name} --set F=2x --prompt "..."',
        )
    return read_json(path) | {"number": number}
