"""Tiny subjects of every family, made from configs without a download; planted stores; documents
for small runs.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

from core.activations.store import write_shard
from core.files import write_array, write_json
from core.records import SPLITS
from core.run import Run
from core.saes import SAE, SAEConfig
from core.settings import CaptureSettings, RunSettings, TrainSettings

END = "<|endoftext|>"
N_LAYERS, WIDTH = 3, 16
SAMPLE = [
    "the cat sat on the mat and the dog ran",
    "def run(self, value): return self.value",
    "snow falls in winter, sun shines in summer",
]

_ROTARY = {
    "hidden_size": WIDTH,
    "num_hidden_layers": N_LAYERS,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "max_position_embeddings": 64,
}
CONFIGS = {
    "gpt2": {"n_embd": WIDTH, "n_layer": N_LAYERS, "n_head": 2, "n_positions": 64},
    "gpt_neox": _ROTARY,
    "llama": _ROTARY | {"num_key_value_heads": 1},
    "mistral": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8},
    "qwen2": _ROTARY | {"num_key_value_heads": 1},
    "qwen3": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8},
    "mixtral": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8, "num_local_experts": 3, "num_experts_per_tok": 2},
    "gemma": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8},
    "gemma2": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 6},
    "gemma3_text": _ROTARY | {"num_key_value_heads": 1, "head_dim": 8, "sliding_window": 6},
    "gpt_neo": {
        "hidden_size": WIDTH, "num_layers": N_LAYERS, "num_heads": 2, "max_position_embeddings": 64, "window_size": 6,
        "attention_types": [[["global", "local"], 1], [["global"], 1]],
    },
    "opt": {"hidden_size": WIDTH, "num_hidden_layers": N_LAYERS, "num_attention_heads": 2, "ffn_dim": 32, "max_position_embeddings": 64, "word_embed_proj_dim": WIDTH},
    "bloom": {"hidden_size": WIDTH, "n_layer": N_LAYERS, "n_head": 2},
    "phi": _ROTARY,
    "phi3": _ROTARY,
}  # fmt: skip
FAMILY_NAMES = tuple(CONFIGS)


class Counted:
    """Stands for a progress bar: keeps every count, and the total that was announced."""

    def __init__(self, iterable=None, label="", *, total=None, unit=""):
        self.total, self.counts = total, []
        Counted.last = self

    def __enter__(self):
        return self

    def __exit__(self, *raised):
        pass

    def update(self, n=1):
        self.counts.append(n)


class Killed(BaseException):
    """Stands for a kill: no code under test may catch it."""


def byte_level_tokenizer(bos: bool = True, trim: bool = False) -> PreTrainedTokenizerFast:
    """Byte-level BPE over all bytes and some merges; `trim` leaves the space in front of a word out
    of its offsets.
    """
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    if trim:
        inner.post_processor = processors.ByteLevel(trim_offsets=True)
    trainer = trainers.BpeTrainer(
        vocab_size=320,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SAMPLE, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token=END, **({"bos_token": END} if bos else {})
    )


def tiny_model(family: str, n_vocabulary: int = 320, **changes) -> torch.nn.Module:
    """An untrained model whose weights, biases and norms are all far from their usual starts, so
    that each of them matters.
    """
    config = AutoConfig.for_model(
        family,
        vocab_size=n_vocabulary,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **CONFIGS[family] | changes,
    )
    torch.manual_seed(7)
    model = AutoModelForCausalLM.from_config(config).float()
    generator = torch.Generator().manual_seed(11)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_weight = parameter.dim() == 1 and name.endswith("weight")
            parameter.copy_(1 + 0.3 * noise if is_norm_weight else 0.3 * noise)
    return model


def save_subject(
    folder: Path, family: str = "gpt2", bos: bool = True, trim: bool = False, **changes
) -> str:
    """A subject in Hugging Face layout under `folder`; returns its name."""
    tiny_model(family, **changes).save_pretrained(folder)
    byte_level_tokenizer(bos, trim).save_pretrained(folder)
    return str(folder)


def token_rows(n_rows: int, length: int, seed: int = 0) -> torch.Tensor:
    """Random token ids (R, T), BOS in front."""
    rows = torch.randint(1, 320, (n_rows, length), generator=torch.Generator().manual_seed(seed))
    rows[:, 0] = 0
    return rows


# ---------------------------------------------------------------- a planted store


@dataclass(frozen=True)
class Planted:
    """A run with a committed capture whose activations are sparse sums of known directions, and no
    subject behind it.
    """

    run: Run
    truth: np.ndarray  # (features, D), unit rows
    x: np.ndarray  # (n, D) float32


def planted_run(
    folder: Path, n: int = 6000, width: int = 24, n_true: int = 32, active: int = 3, seed: int = 0
) -> Planted:
    """Documents of 20 tokens, one shard for each 2,000; every vector is `active` of `n_true` unit
    directions with weights 1 to 2, plus an offset.
    """
    rng = np.random.default_rng(seed)
    truth = rng.normal(size=(n_true, width))
    truth /= np.linalg.norm(truth, axis=1, keepdims=True)
    weights = np.zeros((n, n_true))
    for row in weights:
        row[rng.choice(n_true, active, replace=False)] = rng.uniform(1, 2, active)
    x = (weights @ truth + 0.5).astype(np.float32)
    run = Run.create(
        str(folder / "run"), RunSettings(subject="none", site="resid_post.0", corpus="none")
    )
    work = run.begin("capture", 2, CaptureSettings(), [])
    n_documents = n // 20
    split = rng.choice(len(SPLITS), n_documents, p=(0.6, 0.1, 0.3)).astype(np.uint8)
    every_20 = np.arange(0, n + 1, 20)
    tables = {
        "ids": rng.integers(0, 50, n).astype(np.uint16), "starts": np.zeros(n, np.uint32), "ends": np.zeros(n, np.uint32), "row_offsets": every_20,
        "row_document": np.arange(n_documents), "document_offsets": every_20, "split": split, "copied": np.zeros(n, bool),
        "counted": np.ones(n, bool),
        "text_offsets": np.zeros(n_documents + 1, np.int64), "first": np.full(n_documents, -1),
    }  # fmt: skip
    for name, array in tables.items():
        write_array(work.folder / f"{name}.npy", array)
    write_json(work.folder / "documents.json", [str(i) for i in range(n_documents)])
    write_json(work.folder / "vocabulary.json", [chr(65 + i) for i in range(50)])
    bounds = [*range(0, n, 2000), n]
    for number, (start, end) in enumerate(zip(bounds[:-1], bounds[1:], strict=True)):
        write_shard(work.folder, number, torch.from_numpy(x[start:end]))
    write_json(
        work.folder / "shards.json",
        {"stored": True, "dtype": "float32", "width": width, "bounds": bounds},
    )
    work.commit({})
    return Planted(run, truth, x)


# ---------------------------------------------------------------- a small run


N_DOCUMENTS = 40


def write_documents(folder: Path, n: int = N_DOCUMENTS, words: int = 30) -> Path:
    """`n` text files of random words, of different lengths, some with characters of several bytes."""
    rng = np.random.default_rng(3)
    vocabulary = [*" ".join(SAMPLE).split(), "näïve", "雪", "🎉🎊", "\n\n", "  ", "x=1;"]
    folder.mkdir(parents=True, exist_ok=True)
    for i in range(n):
        length = int(rng.integers(words // 2, 2 * words))
        (folder / f"{i:03d}.txt").write_text(
            " ".join(rng.choice(vocabulary, length)), encoding="utf-8"
        )
    return folder


SMALL_CAPTURE = CaptureSettings(context=32, batch_tokens=400)
SHARD_TOKENS, INDEX_BATCH = 1000, 300  # of the small run: several shards, several batches in each
SMALL_TRAIN = TrainSettings(
    expansion=3.0, k=4, batch_size=128, epochs=2.0, warmup=5, check_every=10
)


def new_run(
    folder: Path,
    subject: str,
    corpus: Path,
    site: str = "resid_post.1",
    dtype: str = "float32",
    **more,
) -> Run:
    about = RunSettings(
        subject=subject, site=site, corpus=str(corpus), device="cpu", dtype=dtype, **more
    )
    return Run.create(str(folder), about)


def sae_of(form: SAEConfig, d_in: int, n_features: int, seed: int = 0) -> SAE:
    """An SAE of `form` with weights that no initialisation gives; its directions are unit rows."""
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator)
    directions = torch.nn.functional.normalize(draw(n_features, d_in), dim=1)
    tensors = {
        "W_enc": draw(d_in, n_features),
        "b_enc": draw(n_features),
        "W_dec": directions,
        "b_dec": draw(d_in),
    }
    if form.activation == "jumprelu":
        tensors["threshold"] = draw(n_features).abs()
    if form.activation == "gated":
        tensors |= {"gate_scale": draw(n_features).exp(), "gate_bias": draw(n_features)}
    return SAE(form, tensors)
