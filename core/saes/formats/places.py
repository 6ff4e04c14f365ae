"""Finds the files that `--sae SPEC` names: a file or folder here, or `hf:owner/repo[/folder][@revision]`.

`FILE.pt#3` names the fourth dictionary of a file that holds several.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from core import hub
from core.errors import UsageError
from core.files import read_json
from core.saes.formats.tensors import SUFFIXES, read_weights

WEIGHTS = (
    "sae_weights.safetensors", "sae.safetensors", "ae.pt", "params.npz", "params.safetensors", "checkpoints/final.safetensors", "learned_dicts.pt",
)  # fmt: skip
BESIDE = (
    "cfg.json",
    "config.json",
    "hyperparams.json",
    "activation_scaler.json",
    "activation_whitening.safetensors",
)


@dataclass(frozen=True)
class Source:
    """The weights of one SAE on this machine, and how they were named."""

    weights: Path
    name: str  # as typed
    path: str  # repository and folder, or path here: some layouts say layer and site only in it
    repo: str  # owner/name on the hub, or ""
    part: int | None  # which dictionary of a file that holds several

    @cached_property
    def content(self) -> object:
        """What the file of weights holds, read once."""
        return read_weights(self.weights)

    @property
    def keys(self) -> set[str]:
        """Names at the top of the file; none when it is not a table."""
        return set(self.content) if isinstance(self.content, dict) else set()

    def config(self, *names: str) -> dict:
        """The first of the JSON files `names` that lies beside the weights, or {}; `../` looks in the folder above."""
        for name in names:
            path = self.weights.parent / name
            if path.is_file():
                return read_table(path)
        return {}


def read_table(path: Path) -> dict:
    """The object in a JSON file; raises UsageError when it holds something else."""
    try:
        table = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}.", "Download it again.") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no table of settings.", "Download it again.")
    return table


def find_place(spec: str) -> Source:
    """The place that `spec` names; raises UsageError or NotReady, telling what there is instead."""
    name, part = spec, None
    if found := re.fullmatch(r"(.*\.pth?)#(\d+)", spec):
        name, part = found[1], int(found[2])
    if not name.startswith("hf:"):
        target = Path(name).expanduser()
        if not target.exists():
            raise UsageError(
                f"There is no file or folder {name!r}.",
                "Give the folder of a published SAE, or hf:owner/repo/folder.",
            )
        cached = re.search(r"models--([^/]+?)--([^/]+)/snapshots/", str(target.resolve()))
        return Source(
            _weights(target, name),
            spec,
            str(target.resolve()),
            f"{cached[1]}/{cached[2]}" if cached else "",
            part,
        )
    repo, inner, revision = hub.parse(name)
    root = hub.fetch(repo, files_wanted(inner), revision)
    target = root / inner if inner else root
    if not target.exists():
        others = hub.list_files(repo, revision)
        raise UsageError(
            f"{repo} has nothing called {inner!r}.{_choices(others, prefix=f'hf:{repo}/')}",
            "Name one of its folders or files.",
        )
    return Source(_weights(target, name, repo, revision), spec, f"{repo}/{inner}", repo, part)


def files_wanted(inner: str) -> list[str]:
    """Paths within a repository that an SAE called `inner` may consist of: nothing else is downloaded."""
    at = Path(inner)
    paths = [at / name for name in (*WEIGHTS, *BESIDE)] + [at.parent / "config.json"]
    if at.suffix in SUFFIXES:
        paths += [at, at.with_name(f"{at.stem}_cfg.json"), at.parent.parent / "config.json"] + [
            at.parent / name for name in BESIDE
        ]
    return list(dict.fromkeys(path.as_posix() for path in paths))


def _weights(target: Path, name: str, repo: str = "", revision: str = "") -> Path:
    """The one file of weights that `target` is or holds."""
    if target.is_file():
        if target.suffix not in SUFFIXES:
            raise UsageError(
                f"{name} is no file of weights.",
                f"Give a folder, or a file that ends in {', '.join(SUFFIXES)}.",
            )
        return target
    known = [target / file for file in WEIGHTS if (target / file).is_file()]
    found = known or [
        path for path in sorted(target.iterdir()) if path.suffix in SUFFIXES and path.is_file()
    ]
    if len(found) == 1:
        return found[0]
    if found:
        raise UsageError(
            f"{name} holds several files of weights: {', '.join(path.name for path in found[:6])}.",
            "Give one of them.",
        )
    others = (
        hub.list_files(repo, revision)
        if repo
        else [path.relative_to(target).as_posix() for path in sorted(target.rglob("*"))]
    )
    prefix = f"hf:{repo}/" if repo else f"{target}/"
    raise UsageError(
        f"{name} holds no SAE that is known here.{_choices(others, prefix)}",
        "Give the folder of one SAE; docs/formats.md lists the layouts.",
    )


def _choices(files: list[str], prefix: str) -> str:
    """A sentence with the first places among `files` that look like SAEs, or nothing."""
    folders = {
        file.removesuffix(f"/{known}"): None
        for file in files
        for known in WEIGHTS
        if file.endswith(f"/{known}")
    }
    places = list(folders) or [file for file in files if file.endswith(SUFFIXES)]
    if not places:
        return ""
    return f" It holds {len(places)} of them, such as {', '.join(prefix + place for place in places[:3])}."
