"""What features mean. `import autointerp as ai` is the door for Python.

    study = ai.open("demo")               a run that is there
    study = ai.new("mine", subject="gpt2", site="resid_post.6", corpus="texts/")
    study.label(); study.score()          a stage is a method; missing inputs are made first
    study.features                        a DataFrame, one row a feature
    study[1012]                           one feature, with its snippets
    study.top("any text")                 the features that fire on a text
    study.why("A prompt")                 the features behind the next token, checked by ablation
    study.clamp({1012: "4x"}, "A prompt") texts with and without the clamp

and without a run: `ai.Subject.load(...)`, `ai.SAE.load(...)`. Importing this package loads no
torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autointerp.answers import ClampedTexts, TopFeatures
    from autointerp.card import Card
    from autointerp.study import Study, new, open
    from core.attribution.record import Attribution
    from core.clamps.experiments import Experiment
    from core.records import Clamp, Site
    from core.saes.sae import SAE
    from core.subject.subject import Subject

_HOMES = {
    "open": "autointerp.study",
    "new": "autointerp.study",
    "Study": "autointerp.study",
    "TopFeatures": "autointerp.answers",
    "ClampedTexts": "autointerp.answers",
    "Card": "autointerp.card",
    "Attribution": "core.attribution.record",
    "Experiment": "core.clamps.experiments",
    "Clamp": "core.records",
    "Site": "core.records",
    "Subject": "core.subject.subject",
    "SAE": "core.saes.sae",
}
__all__ = [
    "SAE",
    "Attribution",
    "Card",
    "Clamp",
    "ClampedTexts",
    "Experiment",
    "Site",
    "Study",
    "Subject",
    "TopFeatures",
    "new",
    "open",
]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used (PEP 562)."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f"module 'autointerp' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
