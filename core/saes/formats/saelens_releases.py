"""What SAELens' list of pretrained releases says beyond a release's files, by hub repository."""

from __future__ import annotations

from typing import Any, TypeVar

K = TypeVar("K")
V = TypeVar("V")

CENTRED = {"model_from_pretrained_kwargs": {"center_writing_weights": True}}
AS_IT_IS = {"model_from_pretrained_kwargs": {"center_writing_weights": False}}
OVERRIDES: dict[str, dict[str, Any]] = {  # settings that replace those in the files
    "jbloom/GPT2-Small-SAEs-Reformatted": CENTRED,  # gpt2-small-res-jb
    # gpt2-small-res-jb-feature-splitting
    "jbloom/GPT2-Small-Feature-Splitting-Experiment-Layer-8": CENTRED,
    "tommmcgrath/gpt2-small-mlp-out-saes": CENTRED,  # gpt2-small-mlp-tm
    "JoshEngels/Mistral-7B-Residual-Stream-SAEs": {
        "normalize_activations": "constant_norm_rescale"
    },  # mistral-7b-res-wg
    **{
        f"neuronpedia/gpt2-small__res_{kind}-ajt": AS_IT_IS
        for kind in ("sce", "scefr", "scl", "sle", "slefr", "sll")
    },
}
FACTORS = {  # of expected_average_only_in, by layer
    "tommmcgrath/gpt2-small-mlp-out-saes": {
        0: 1.049317316132615, 1: 2.3693984005104283, 2: 1.6411934982190302, 3: 1.8958522157897557,
        4: 1.81673478700627, 5: 1.550234472245924, 6: 1.3237742807210804, 7: 1.1042905114723296,
        8: 0.9123762783479742, 9: 0.6955335635232373, 10: 0.3619728926727644,
        11: 0.2851548652550073,
    },
    "jbloom/Gemma-2b-Residual-Stream-SAEs": {12: 0.21381938399317255},
}  # fmt: skip


def overrides(repo: str) -> dict[str, Any]:
    """Return the settings that replace those in the files of the release in `repo`."""
    return _lookup(OVERRIDES, repo)


def factor(repo: str, layer: int) -> float | None:
    """Return what activations of `layer` were multiplied by in training the release in `repo`."""
    return _lookup(FACTORS, repo).get(layer)


def _lookup(tables: dict[str, dict[K, V]], repo: str) -> dict[K, V]:
    """Return the table of `repo`, or {}; the hub does not tell capitals apart."""
    named = (table for name, table in tables.items() if name.casefold() == repo.casefold())
    return next(named, {})
