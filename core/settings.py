"""The settings of each core stage: flags, help and manifest entries come from them.

A field is a default, a sentence and, where it has one, a unit. `in_key=False` marks what changes
how fast a stage runs but not what it writes; `optional`, for settings that came later, what changes
a key only where it is not the default. An unknown key in a stored settings table is an error.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from core.errors import UsageError

S = TypeVar("S")


def setting(
    default: Any,
    text: str,
    *,
    choices: tuple[Any, ...] = (),
    in_key: bool = True,
    optional: bool = False,
    several: bool = False,
) -> Any:
    """A dataclass field with its help sentence; `choices` are the values that it accepts.

    An `optional` one is in a unit's key only where it differs from its default. A flag of a setting
    with `several` may be given several times; the setting is the texts with a space between them.
    """
    about = {
        "help": text,
        "choices": choices,
        "in_key": in_key,
        "optional": optional,
        "several": several,
    }
    return field(default=default, metadata=about)


def from_table(kind: type[S], table: Mapping[str, Any]) -> S:
    """The settings of dataclass `kind` that `table` holds; raises UsageError on an unknown key or a
    value outside its choices.
    """
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]
    for name, value in table.items():
        if name not in known:
            raise UsageError(
                f"{kind.__name__} has no setting {name!r}.", f"It has: {', '.join(known)}."
            )
        choices = known[name].metadata.get("choices")
        if choices and value not in choices:
            raise UsageError(
                f"{name} is {value!r}.", f"Use one of: {', '.join(map(str, choices))}."
            )
    return kind(**table)


def key_table(settings: Any) -> dict[str, Any]:
    """The settings that decide what a stage writes, as a plain table."""
    return {
        f.name: getattr(settings, f.name)
        for f in fields(settings)
        if f.metadata.get("in_key", True)
        and not (f.metadata.get("optional") and getattr(settings, f.name) == f.default)
    }


@dataclass(frozen=True)
class RunSettings:
    """What a run is about. Fixed when the run is made."""

    subject: str = setting(
        "smollm2", "Hugging Face name or local folder of the causal language model"
    )
    revision: str = setting("", "branch, tag or commit of the subject on the hub")
    weights: str = setting(
        "trained",
        "trained, or random: the same architecture with untrained weights (a control)",
        choices=("trained", "random"),
    )
    site: str = setting(
        "resid_post.12",
        "where activations are read: resid_post.3, mlp_out.0, or <module path>.output",
    )
    site_out: str = setting(
        "",
        "for a transcoder: the later site that it predicts from --site, such as mlp_out.3 from "
        "mlp_in.3",
        optional=True,
    )
    corpus: str = setting(
        "prompts",
        "prompts, what SmolLM2 wrote from our prompts; stdlib; a file (.txt, .md, .jsonl, .json, "
        ".csv, .tsv, .parquet, each also .gz or .zst) or a folder of them; "
        "hf:name[@config][:split][:column]",
    )
    sae: str = setting(
        "",
        "load this published SAE instead of training one: smollm2-135m, which comes with the "
        "program; a folder, a file, or hf:repo[/folder]; or take the subject's own units as "
        "features: neurons, heads, or neurons:64 for the 64 largest on a token",
    )
    bos: bool = setting(
        True,
        "begin every row with the subject's BOS, where it has one; --no-bos for an SAE that was "
        "trained on rows without",
        optional=True,
    )
    seed: int = setting(0, "seed of everything random in the run")
    trust_remote_code: bool = setting(
        False, "run the code that comes with the subject's checkpoint", in_key=False
    )
    device: str = setting(
        "auto",
        "cpu, cuda, mps, auto, or auto:all, which divides the subject's layers over all GPUs",
        in_key=False,
    )
    dtype: str = setting(
        "auto",
        "type of the subject's weights; auto is bfloat16 where this machine is measured to be "
        "clearly faster in it",
        choices=("auto", "float32", "bfloat16", "float16"),
    )


@dataclass(frozen=True)
class ParallelSettings:
    """Where shards are made: in this process, in several, or on a Ray cluster."""

    engine: str = setting(
        "auto",
        "inline: this process; processes: several on this machine; ray: a Ray cluster; auto: "
        "processes where --workers is over 1 or the work is no product of matrices, else inline",
        choices=("auto", "inline", "processes", "ray"),
        in_key=False,
    )
    workers: int = setting(
        0,
        "processes or Ray actors, each with its share of the cores; 0: one a core, or as many as "
        "the cluster has room for",
        in_key=False,
    )
    ray: str = setting(
        "",
        "ray: address of the cluster's head, host:port; default: $RAY_ADDRESS, else a cluster on "
        "this machine alone, for this command",
        in_key=False,
    )
    gpus_per_worker: float = setting(
        -1.0,
        "ray: GPUs that a worker asks for, such as 1 or 0.5; -1: one where the cluster has any "
        "and the stage uses one",
        in_key=False,
    )


@dataclass(frozen=True)
class CaptureSettings(ParallelSettings):
    """capture: read the documents, tokenise them, and store activations and splits."""

    max_tokens: int = setting(
        0,
        "stop after about this many tokens; 0 reads the whole corpus, of a streamed dataset "
        "2,000,000 tokens",
    )
    cut: str = setting(
        "auto",
        "cut text files into documents at blank lines; auto: those of over 100,000 characters, "
        "and a file that is the whole corpus",
        choices=("auto", "yes", "no"),
    )
    context: int = setting(256, "tokens in a row, BOS included; at most the subject's own context")
    generate: int = setting(
        0, "have the subject continue every document (a prompt) by up to this many tokens"
    )
    temperature: float = setting(1.0, "temperature of generated continuations; 0 is greedy")
    chat: bool = setting(
        False,
        "put each document into the subject's chat template, as a turn of the user; "
        "conversations are always put into it",
    )
    turns: str = setting(
        "all",
        "which speaker's tokens are analysed in a chat; the others are context only",
        choices=("all", "user", "assistant"),
    )
    thoughts: bool = setting(
        False,
        "keep conversations whose thoughts the chat template strips, thoughts included; without it "
        "they are left out",
    )
    special: bool = setting(
        False, "count special tokens that are written in a text; without it they are context only"
    )
    store: str = setting(
        "auto",
        "keep the activations on disk, which training needs; auto: yes, unless the run loads a "
        "published SAE",
        choices=("auto", "yes", "no"),
    )
    batch_tokens: int = setting(
        4096,
        "tokens in one pass through the subject; 0 measures which size is fastest",
        in_key=False,
    )


ARCHITECTURES = {
    "topk": "Gao et al. 2024",
    "batch_topk": "Bussmann et al. 2024",
    "matryoshka": "Bussmann et al. 2025",
    "l1": "Conerly et al. 2024",
    "jumprelu": "Rajamanoharan et al. 2024",
    "gated": "the same, earlier",
    "tied_l1": "Cunningham et al. 2023",
}
WITH_K = ("topk", "batch_topk", "matryoshka")  # the others have a penalty


@dataclass(frozen=True)
class TrainSettings:
    """train: fit a sparse autoencoder to the activations of the train split."""

    architecture: str = setting(
        "topk",
        ", ".join(f"{name} ({paper})" for name, paper in ARCHITECTURES.items()),
        choices=tuple(ARCHITECTURES),
    )
    expansion: float = setting(8.0, "features per dimension of the site")
    k: int = setting(32, "topk, batch_topk, matryoshka: features that fire on a token")
    penalty: float = setting(
        0.0,
        "weight of the L1 norm (jumprelu: of L0) in the loss, for activations of unit variance; "
        "0: the architecture's default",
    )
    target_l0: float = setting(
        0.0,
        "architectures with a penalty: adapt the penalty until this many features fire on a token; "
        "0: keep the penalty fixed",
    )
    epochs: float = setting(4.0, "largest number of passes over the train split")
    batch_size: int = setting(4096, "vectors in an optimiser step")
    lr: float = setting(0.0, "peak learning rate of Adam; 0: the architecture's default")
    warmup: int = setting(100, "steps over which learning rate and penalty rise to their peak")
    decay: float = setting(0.3, "last share of all steps, over which the learning rate falls to 0")
    check_every: int = setting(100, "steps between measurements on the val split")
    patience: int = setting(8, "measurements without improvement before training stops early")
    skip: bool = setting(
        False, "transcoders: an affine skip connection beside the features", optional=True
    )
    take: str = setting("", "copy this SAE of a sweep, as sweep/NAME/SAE, and train nothing")


@dataclass(frozen=True)
class SweepSettings:
    """sweep: train several autoencoders in one pass over the activations and compare them.

    --architecture, --expansion, --k, --penalty and --target-l0 take lists (8,16,32).
    `train RUN --take sweep/NAME/SAE` makes one of the autoencoders the run's own.
    """

    name: str = setting("sweep", "name of this sweep")
    architecture: str = setting("topk", f"list of: {', '.join(ARCHITECTURES)}")
    expansion: str = setting("8", "list; features per dimension of the site")
    k: str = setting("32", f"list, for {', '.join(WITH_K)}: features that fire on a token")
    penalty: str = setting(
        "",
        "list, for the other architectures: weight of the penalty; "
        "empty: each architecture's default",
    )
    target_l0: str = setting(
        "",
        "list, for the other architectures, instead of --penalty: "
        "adapt the penalty until this many features fire on a token",
    )
    epochs: float = setting(4.0, "largest number of passes over the train split")
    batch_size: int = setting(4096, "vectors in an optimiser step")
    lr: float = setting(0.0, "peak learning rate of Adam; 0: each architecture's default")
    warmup: int = setting(100, "steps over which learning rate and penalty rise to their peak")
    patience: int = setting(8, "measurements without improvement before an SAE stops early")
    tokens: int = setting(
        100_000, "stored vectors of the test split for FVU, L0 and dead features; 0: all of them"
    )
    loss_tokens: int = setting(
        20_000, "tokens of whole rows for the cross-entropy with each SAE spliced in"
    )


@dataclass(frozen=True)
class EvaluateSettings:
    """evaluate: measure how faithfully the SAE reconstructs the test split."""

    tokens: int = setting(
        200_000, "stored vectors for FVU, L0 and dead features; 0: the whole split"
    )
    loss_tokens: int = setting(
        0,
        "tokens of whole rows for the cross-entropy with the SAE spliced in; "
        "0: until its increase is known to .005 nats, or for two minutes",
    )


@dataclass(frozen=True)
class IndexSettings(ParallelSettings):
    """index: find every firing of every feature, and store them by feature."""


@dataclass(frozen=True)
class EffectsSettings(ParallelSettings):
    """effects: find the tokens that each feature promotes, and measure what a clamp changes."""

    clamp: float = setting(
        2.0, "clamp each feature to this multiple of its maximum; 0 measures no clamps"
    )
