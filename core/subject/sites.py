"""Find the module of a site, and check before anything is loaded that a subject has the site."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.embedded import SUBJECTS, find_embedded
from core.errors import UsageError
from core.records import Site
from core.subject.families import FAMILIES

# Where the text model of a multimodal checkpoint lies, and where SAEs say that it lies
NESTED = (("model.", "model.language_model."), ("model.language_model.", "model."))
TEXT_CONFIGS = ("text_config", "llm_config", "language_config", "thinker_config")
COUNTS = ("num_hidden_layers", "n_layer", "num_layers", "n_layers")


def find_module(model: Any, path: str) -> Any:
    """The module at `path`, also where the text model lies within a multimodal one.

    Raises AttributeError where there is none.
    """
    paths = [path]
    paths += [new + path.removeprefix(old) for old, new in NESTED if path.startswith(old)]
    for place in paths:
        try:
            return model.get_submodule(place)
        except AttributeError:
            continue
    raise AttributeError(path)


def check_site(name: str, revision: str, site: Site) -> None:
    """Raise UsageError where the subject `name` has no such site.

    Only a config that is here, in a folder or in the cache, is read; without one nothing is said.
    A named site of an architecture that `families` does not list is looked for when the subject has
    been loaded. Raises UsageError for a config that is damaged or of no causal language model, too.
    """
    config = _local_config(name, revision)
    if config is None:
        return
    table = _read_config(name, config)
    architecture = str(table.get("model_type"))
    if architecture not in FAMILIES:
        _check_architecture(name, architecture, table)
    if site.module is not None:
        _check_module(name, config, site)
        return
    n_layers = _count_layers(table)
    if n_layers is not None and site.layer is not None and site.layer >= n_layers:
        raise UsageError(
            f"The subject {name!r} has no site {site}: it has layers 0 to {n_layers - 1}.",
            "Choose one of these layers.",
        )
    if architecture in FAMILIES:  # else the site is looked for when the model has been loaded
        FAMILIES[architecture].path(site)


def _read_config(name: str, config: Path) -> dict[str, Any]:
    try:
        table = json.loads(config.read_text(encoding="utf-8"))
    except ValueError:
        table = None
    if not isinstance(table, dict):
        raise UsageError(
            f"The config.json of the subject {name!r} is damaged: it holds no JSON object.",
            "Download it again.",
        )
    return table


def _count_layers(table: dict[str, Any]) -> int | None:
    """The layers of the text model, which a multimodal config describes within another one."""
    for key in TEXT_CONFIGS:
        inner = table.get(key)
        if isinstance(inner, dict) and (found := _count_layers(inner)) is not None:
            return found
    return next((table[key] for key in COUNTS if isinstance(table.get(key), int)), None)


def _check_architecture(name: str, architecture: str, table: dict[str, Any]) -> None:
    """Raise UsageError where neither transformers nor the checkpoint's own code knows it."""
    own = table.get("auto_map")
    if isinstance(own, dict) and "AutoModelForCausalLM" in own:
        return
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    if architecture not in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES:
        raise UsageError(
            f"The subject {name!r} is a {architecture!r}, which transformers does not load as a "
            "causal language model.",
            "Give a causal language model; docs/families.md lists the architectures.",
        )


def _local_config(name: str, revision: str) -> Path | None:
    """The subject's config.json where it is here already, or None."""
    folder = Path(find_embedded(SUBJECTS, name))
    if folder.is_dir():
        path = folder / "config.json"
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        cached = try_to_load_from_cache(name, "config.json", revision=revision or None)
    except HFValidationError:
        return None
    return Path(cached) if isinstance(cached, str) else None


def _check_module(name: str, config: Path, site: Site) -> None:
    """Raise UsageError where a module path leads nowhere in the model that `config` describes."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    assert site.module is not None
    try:
        described = AutoConfig.from_pretrained(config.parent, trust_remote_code=False)
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(described, trust_remote_code=False)
    except (OSError, ValueError, KeyError, ImportError, RuntimeError):
        return  # loading the subject will say what is wrong
    try:
        find_module(model, site.module)
    except AttributeError:
        some = [path for path, _ in model.named_modules() if path.count(".") == 2][:4]
        raise UsageError(
            f"The subject {name!r} has no module {site.module}, so no site {site}.",
            f"Its modules are called {', '.join(some)}.",
        ) from None
