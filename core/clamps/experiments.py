"""Clamp experiments of a run: one JSON file each under clamps/, numbered, never changed."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from core.errors import UsageError
from core.files import read_json, write_json
from core.records import Clamp
from core.run import Run

Table = dict[str, Any]


@dataclass(frozen=True)
class OtherClamps:
    """Clamps at the site of another run of the same subject, in that run's SAE units."""

    run: str
    clamps: tuple[Clamp, ...]


@dataclass(frozen=True)
class Experiment:
    """One clamp experiment: what was clamped, the texts without and with it, and doses.

    `prompts`, `seeds`, `baseline` and `clamped` have one entry for each pair of texts. What was not
    measured is None or empty.
    """

    clamps: tuple[str, ...]  # as typed: "set 1234=5x"
    features: tuple[int, ...]
    prompts: tuple[str, ...]
    baseline: tuple[str, ...]  # generated text, without the prompt
    clamped: tuple[str, ...]
    seeds: tuple[int, ...] = ()
    values: tuple[float, ...] = ()  # of the clamps, SAE units
    resolved: tuple[Clamp, ...] = ()  # the clamps in SAE units
    also: tuple[OtherClamps, ...] = ()
    temperature: float = 0.0
    tokens: int = 0  # generated per text
    positions: str = "all"  # where the clamps hold: all, prompt, generated
    at: str = ""  # a regular expression that a token's text must match
    sae: str = ""  # key of the unit `train` that the experiment was made with
    labels: Mapping[int, str] = field(default_factory=dict)

    # next tokens at each prompt's end, see `core.clamps.next_tokens`; None where not asked for
    next_tokens: tuple[Table, ...] | None = None

    # Dose and response, see `core.clamps.doses`; all are None without doses.
    doses: tuple[Table, ...] | None = None  # a row of measures for each dose
    dose_texts: tuple[Table, ...] | None = None  # prompt, baseline, and by dose clamped and random
    unclamped: Table | None = None  # the measures of unclamped text
    useful: Table | None = None  # the useful dose, by the features' own tokens
    useful_found: Table | None = None  # the useful dose, by what the subject finds again
    measured_on: Table | None = None  # how many prompts, seeds, tokens, rows and row_tokens

    shown_by: str = ""  # in a gallery: which useful dose is shown
    promoted: tuple[str, ...] = ()  # tokens that the feature's direction promotes
    replay: Table | None = None  # of a repetition: number, texts and how many are the same
    number: int = 0  # of the file; 0 before it is kept

    def label(self, feature: int) -> str:
        """Return the feature's label, or ""."""
        return self.labels.get(feature, "")

    def with_doses(self, measured: Table) -> Experiment:
        """Return this experiment with what `LoadedModel.doses` measured."""
        return replace(self, **_freeze(measured))

    def to_dict(self) -> Table:
        """Return what --json prints and a file holds, without what was not measured."""
        table = {f.name: _thaw(getattr(self, f.name)) for f in fields(self)}
        table["labels"] = {str(feature): label for feature, label in self.labels.items()}
        return {name: table[name] for name in ORDER if name in REQUIRED or table[name]}

    @classmethod
    def from_dict(cls, table: Table) -> Experiment:
        """Return the experiment in `table`; raises UsageError for missing and unknown keys."""
        missing = [f.name for f in fields(cls)[:5] if f.name not in table]
        unknown = sorted(table.keys() - {f.name for f in fields(cls)})
        if missing or unknown:
            wrong = f"has no {missing[0]!r}" if missing else f"has an unknown key {unknown[0]!r}"
            raise UsageError(f"A clamp experiment {wrong}.", "Clamp again with the same flags.")
        values = _freeze(table)
        if "resolved" in values:
            values["resolved"] = tuple(Clamp(**clamp) for clamp in values["resolved"])
        if "also" in values:
            values["also"] = tuple(
                OtherClamps(other["run"], tuple(Clamp(**clamp) for clamp in other["clamps"]))
                for other in values["also"]
            )
        if "labels" in values:
            values["labels"] = {int(feature): label for feature, label in table["labels"].items()}
        return cls(**values)


ORDER = (  # of the keys in a file
    "clamps", "values", "features", "also", "baseline", "clamped", "prompts", "seeds",
    "temperature", "tokens", "positions", "at", "resolved", "sae", "labels",
    "doses", "dose_texts", "unclamped", "useful", "useful_found", "measured_on",
    "next_tokens", "shown_by", "promoted", "replay", "number",
)  # fmt: skip
REQUIRED = ORDER[: ORDER.index("doses")]


def _freeze(table: Table) -> Table:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in table.items()
    }


def _thaw(value: Any) -> Any:
    if isinstance(value, (Clamp, OtherClamps)):
        return _thaw(asdict(value))
    if isinstance(value, tuple):
        return [_thaw(one) for one in value]
    if isinstance(value, dict):
        return {name: _thaw(one) for name, one in value.items()}
    return value


# ---------------------------------------------------------------- files


def save_experiment(run: Run, experiment: Experiment) -> str:
    """Keep a clamp experiment under the next free number; return its name inside the run."""
    folder = run.path / "clamps"
    folder.mkdir(exist_ok=True)
    number = max((int(path.stem) for path in _files(run)), default=0) + 1
    write_json(folder / f"{number:04d}.json", replace(experiment, number=0).to_dict())
    return f"clamps/{number:04d}.json"


def experiments(run: Run) -> list[Experiment]:
    """Return all kept clamp experiments, oldest first, each with its `number`."""
    return [_read(path) for path in _files(run)]


def experiment(run: Run, number: int) -> Experiment:
    """Return one kept experiment; raises UsageError when there is none of that number."""
    path = run.path / "clamps" / f"{number:04d}.json"
    if not path.exists():
        known = ", ".join(p.stem for p in _files(run)) or "none yet"
        raise UsageError(
            f"There is no clamp experiment {number}; there are: {known}.",
            f'Make one: python main.py clamp {run.name} --set F=2x --prompt "..."',
        )
    return _read(path)


def _files(run: Run) -> Iterable[Path]:
    return sorted((run.path / "clamps").glob("[0-9]*.json"))


def _read(path: Path) -> Experiment:
    try:
        kept = Experiment.from_dict(read_json(path))
    except UsageError as error:
        raise UsageError(f"{path}: {error.message}", "Move it out of clamps/.") from None
    return replace(kept, number=int(path.stem))
