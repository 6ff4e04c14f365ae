"""Which LLM a run is labelled with: said once, and remembered by the run.

For each setting the first that says something wins:

    a flag                    --llm-url http://127.0.0.1:8000/v1
    the environment           BRAIN_SURGERY_LLM_URL=...
    a file                    --config FILE, or BRAIN_SURGERY_CONFIG: the table [llm] of a TOML file
    the run                   llm/settings.json, where flags that were given before are kept

A URL that holds a user name or a password is used and never written down.
"""

from __future__ import annotations

import os
import tomllib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from autointerp.settings import LLMSettings
from core.errors import UsageError
from core.files import read_json, write_json
from core.run import Run

REMEMBERED = (
    "llm_url", "llm_model", "concurrency", "rpm", "tpm", "llm_timeout", "price_in", "price_out",
    "replies",
)  # fmt: skip
PREFIX = "BRAIN_SURGERY_"


def complete_settings(
    run: Run, given: dict[str, Any], environment: Mapping[str, str] = os.environ
) -> dict[str, Any]:
    """`given` settings, completed from the environment, the configuration file and the run.

    What is given as a flag is kept in the run. Raises UsageError for a file that cannot be read, an
    unknown key in it, or a value of the wrong type.
    """
    remember(run, given)
    path = given.get("config") or environment.get(f"{PREFIX}CONFIG", "")
    from_file = read_config(Path(path)) if path else {}
    return {**recall(run), **from_file, **read_environment(environment), **given}


def read_environment(environment: Mapping[str, str]) -> dict[str, Any]:
    """The settings that BRAIN_SURGERY_... variables say."""
    names = {name: f"{PREFIX}{name.upper()}" for name in REMEMBERED}
    said = {name: environment[key] for name, key in names.items() if environment.get(key)}
    return {name: _typed(name, text, names[name]) for name, text in said.items()}


def read_config(path: Path) -> dict[str, Any]:
    """The table [llm] of a TOML file; `url`, `model` and `timeout` may stand without `llm_`."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8")).get("llm", {})
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {error.strerror}.", "Name a TOML file.") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(
            f"{path} is not TOML: {error}.", 'Write [llm] and lines such as url = "http://..."'
        ) from None
    out: dict[str, Any] = {}
    for key, value in table.items():
        name = key if key in REMEMBERED else f"llm_{key}"
        if name not in REMEMBERED:
            raise UsageError(
                f"{path}: [llm] has no setting {key!r}.", f"It has: {', '.join(REMEMBERED)}."
            )
        out[name] = _typed(name, value, f"{path}: {key}")
    return out


def recall(run: Run) -> dict[str, Any]:
    """What the run remembers; nothing at first."""
    path = _path(run)
    return read_json(path) if path.exists() else {}


def remember(run: Run, given: Mapping[str, Any]) -> None:
    """Keep the given settings in the run, but never a URL with credentials in it."""
    new = {name: given[name] for name in REMEMBERED if name in given}
    urls = [urlsplit(url) for url in str(new.get("llm_url", "")).split()]
    if any(url.username or url.password or url.query for url in urls):
        del new["llm_url"]
    if new and (known := recall(run)) != known | new:
        _path(run).parent.mkdir(exist_ok=True)
        write_json(_path(run), known | new)


def _path(run: Run) -> Path:
    return run.path / "llm" / "settings.json"


def _typed(name: str, value: Any, where: str) -> Any:
    """`value` in the type of the setting's default."""
    known = next(f for f in fields(LLMSettings) if f.name == name)
    if known.metadata["several"] and isinstance(value, list):
        value = " ".join(map(str, value))
    kind: type = type(known.default)
    try:
        return kind(value)
    except (TypeError, ValueError):
        raise UsageError(
            f"{where} is {value!r}.", f"Give a value of type {kind.__name__}."
        ) from None
