"""Find the files that `--sae SPEC` names: local ones, or `hf:owner/repo[/folder][@revision]`.

`FILE.pt#3` names the fourth dictionary of a file that holds several.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from core import hub
from core.embedded import SAES, find_embedded
from core.errors import UsageError
from core.files import read_json
from core.saes.formats.tensors import SUFFIXES, read_weights

WEIGHTS = (
    "sae_weights.safetensors",
    "sae.safetensors",
    "ae.pt",
    "params.npz",
    "params.safetensors",
    "checkpoints/final.safetensors",
    "learned_dicts.pt",
)
BESIDE = (
    "cfg.json",
    "config.json",
    "hyperparams.json",
    "activation_scaler.json",
    "activation_whitening.safetensors",
    "config.yaml",
)


@dataclass(frozen=True)
class Source:
    """The weights of one SAE on this machine, and how they were named."""

    weights: Path
    name: str  # as typed
    path: str  # repository and folder, or local path: some layouts say layer and site only in it
    repo: str  # owner/name on the hub, or ""
    part: int | None  # which dictionary of a file that holds several

    @cached_property
    def content(self) -> object:
        """What the file of weights holds; it is read once."""
        return read_weights(self.weights)

    @property
    def table(self) -> dict[str, Any]:
        """The file's content where it is a table, else {}."""
        return self.content if isinstance(self.content, dict) else {}

    @property
    def keys(self) -> set[str]:
        """The names at the top of the file; none when it is not a table."""
        return set(self.table)

    def config(self, *names: str) -> dict[str, Any]:
        """Read the first of the JSON files `names` that exists, or return {}.

        The names are relative to the folder of the weights; `../` looks in the folder above.
        """
        for name in names:
            path = self.weights.parent / name
            if path.is_file():
                return read_table(path)
        return {}


def read_table(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises UsageError when it holds something else."""
    try:
        table = read_json(path)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} is not JSON: {error}.", "Download it again.") from None
    if not isinstance(table, dict):
        raise UsageError(f"{path} holds no table of settings.", "Download it again.")
    return table


def find_source(spec: str) -> Source:
    """Return the source that `spec` names.

    Raises UsageError or NotReady, saying what there is instead.
    """
    name, part = find_embedded(SAES, spec), None
    if numbered := re.fullmatch(r"(.*\.pth?)#(\d+)", name):
        name, part = numbered[1], int(numbered[2])
    if not name.startswith("hf:"):
        return _find_local(spec, name, part)
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


def _find_local(spec: str, name: str, part: int | None) -> Source:
    target = Path(name).expanduser()
    if not target.exists():
        raise UsageError(
            f"There is no file or folder {name!r}.",
            "Give the folder of a published SAE, or hf:owner/repo/folder.",
        )
    path = str(target.resolve())
    cached = re.search(r"models--([^/]+?)--([^/]+)/snapshots/", path)
    repo = f"{cached[1]}/{cached[2]}" if cached else ""
    return Source(_weights(target, name), spec, path, repo, part)


def files_wanted(inner: str) -> list[str]:
    """Return the paths in a repository that an SAE called `inner` may consist of.

    Nothing else is downloaded.
    """
    at = Path(inner)
    paths = [at / name for name in (*WEIGHTS, *BESIDE)] + [at.parent / "config.json"]
    if at.suffix in SUFFIXES:
        paths += [at, at.with_name(f"{at.stem}_cfg.json"), at.parent.parent / "config.json"]
        paths += [at.parent / name for name in BESIDE]
        if at.stem.startswith("W_enc_"):  # a cross-layer transcoder's decoder
            paths.append(at.with_name(f"W_dec_{at.stem[6:]}.safetensors"))
    return list(dict.fromkeys(path.as_posix() for path in paths))


def _weights(target: Path, name: str, repo: str = "", revision: str = "") -> Path:
    """Return the one file of weights that `target` is or holds."""
    if target.is_file():
        if target.suffix not in SUFFIXES:
            raise UsageError(
                f"{name} is no file of weights.",
                f"Give a folder, or a file that ends in {', '.join(SUFFIXES)}.",
            )
        return target
    files = [target / file for file in WEIGHTS if (target / file).is_file()]
    if not files:
        files = [p for p in sorted(target.iterdir()) if p.suffix in SUFFIXES and p.is_file()]
    if len(files) == 1:
        return files[0]
    if files:
        listing = ", ".join(path.name for path in files[:6])
        raise UsageError(f"{name} holds several files of weights: {listing}.", "Give one of them.")
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
    """Return a sentence that names the first of `files` that look like SAEs, or ""."""
    folders = {
        file.removesuffix(f"/{known}"): None
        for file in files
        for known in WEIGHTS
        if file.endswith(f"/{known}")
    }
    saes = list(folders) or [file for file in files if file.endswith(SUFFIXES)]
    if not saes:
        return ""
    examples = ", ".join(prefix + sae for sae in saes[:3])
    return f" It holds {len(saes)} of them, such as {examples}."
