"""Have SmolLM2-135M-Instruct continue the prompts: prompts.jsonl -> corpus.jsonl.gz.

    python data/corpus/continue_prompts.py FOLDER            # continue, batch by batch
    python data/corpus/continue_prompts.py FOLDER --sift     # filter, count, write the corpus

FOLDER keeps each finished batch, so a stopped run continues where it was. Every prompt has a seed
of its own. The decoder below is the plain formula of the Llama architecture in float32 with one
preallocated key-value cache; for 96 rows at once it is faster than the general one of the program.
`--check` compares its logits with those of transformers.
"""

from __future__ import annotations

import argparse
import collections
import gzip
import json
import math
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch.nn.functional import linear, silu
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parents[1]))

from core.subject.smollm2 import smollm2_folder  # noqa: E402

BATCH, N_NEW, TEMPERATURE, TOP_P = 96, 300, 0.8, 0.95
SEED = 7_000_021  # of the first prompt; each further one has the next number
CANDIDATES = 1024  # likeliest tokens among which one is drawn
END, CONTROL = 2, [0, 1, *range(3, 17)]  # the tokenizer's end of a turn, and what is never drawn
SHORT, GRAM, REPEATS, DISTINCT, COPIED = 24, 8, 3, 0.25, 0.3


# ---------------------------------------------------------------- the decoder


class Decoder:
    """Logits of the next token for a batch of rows, padded on the left."""

    def __init__(self, folder: str) -> None:
        weights, config = (
            load_file(f"{folder}/model.safetensors"),
            AutoConfig.from_pretrained(folder),
        )
        self.heads, self.kv_heads = config.num_attention_heads, config.num_key_value_heads
        self.width, self.eps = config.hidden_size // self.heads, config.rms_norm_eps
        self.embeddings, self.last_norm = (
            weights["model.embed_tokens.weight"],
            weights["model.norm.weight"],
        )
        self.layers = [layer_weights(weights, i) for i in range(config.num_hidden_layers)]
        theta = (config.rope_parameters or {}).get("rope_theta", 10_000.0)
        self.frequencies = theta ** -(torch.arange(0, self.width, 2).double() / self.width)

    def start(self, rows: list[list[int]], room: int) -> Tensor:
        """Logits (R, V) after each row; the cache has room for `room` more tokens."""
        width = max(map(len, rows))
        self.padding = torch.tensor([width - len(row) for row in rows])
        self.length = 0
        shape = (len(self.layers), len(rows), self.kv_heads, width + room, self.width)
        self.keys, self.values = torch.zeros(shape), torch.zeros(shape)
        return self.step(torch.tensor([[END] * (width - len(row)) + row for row in rows]))

    @torch.inference_mode()
    def step(self, tokens: Tensor) -> Tensor:
        """Logits (R, V) after `tokens` (R, T), which are added to the cache."""
        n_rows, n_new = tokens.shape
        past, now = self.length, self.length + n_new
        column, key = torch.arange(past, now), torch.arange(now)
        position = (column[None] - self.padding[:, None]).clamp(min=0)
        angle = (position[..., None].double() * self.frequencies)[:, None]
        turn = angle.cos().float(), angle.sin().float()  # (R, 1, T, width / 2)
        hidden = (key[None, None] < self.padding[:, None, None]) | (key > column[:, None])[None]
        hidden &= (key != column[:, None])[None]  # (R, T, now); a row of padding sees itself
        x = self.embeddings[tokens]
        for number, (norm, qkv, out, mlp_norm, gate_up, down) in enumerate(self.layers):
            queries, keys, values = self.split_heads(linear(self.normalise(x, norm), qkv))
            self.keys[number, :, :, past:now] = rotate(keys, *turn)
            self.values[number, :, :, past:now] = values
            x = x + linear(self.attend(number, rotate(queries, *turn), hidden), out)
            gate, up = linear(self.normalise(x, mlp_norm), gate_up).chunk(2, -1)
            x = x + linear(silu(gate) * up, down)
        self.length = now
        return linear(self.normalise(x[:, -1], self.last_norm), self.embeddings)

    def normalise(self, x: Tensor, weight: Tensor) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + self.eps) * weight

    def split_heads(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each (R, heads, T, width)."""
        sizes = [n * self.width for n in (self.heads, self.kv_heads, self.kv_heads)]
        q, k, v = x.split(sizes, -1)
        return tuple(part.unflatten(-1, (-1, self.width)).transpose(1, 2) for part in (q, k, v))  # type: ignore[return-value]

    def attend(self, layer: int, queries: Tensor, hidden: Tensor) -> Tensor:
        """What the heads read, (R, T, heads * width). The heads of a group share its keys."""
        rows, heads, n_new, width = queries.shape
        now, group = hidden.shape[-1], heads // self.kv_heads
        q = queries.reshape(rows, self.kv_heads, group * n_new, width) * width**-0.5
        scores = (q @ self.keys[layer, :, :, :now].transpose(-1, -2)).view(
            rows, self.kv_heads, group, n_new, now
        )
        scores.masked_fill_(hidden[:, None, None], -math.inf)
        weights = scores.softmax(-1).view(rows, self.kv_heads, group * n_new, now)
        read = weights @ self.values[layer, :, :, :now]
        return read.view(rows, heads, n_new, width).transpose(1, 2).flatten(2)

    def keep(self, rows: list[int]) -> None:
        """Drop all other rows from the cache."""
        self.keys, self.values = self.keys[:, rows].contiguous(), self.values[:, rows].contiguous()
        self.padding = self.padding[rows]


def layer_weights(weights: dict[str, Tensor], number: int) -> tuple[Tensor, ...]:
    def get(name: str) -> Tensor:
        return weights[f"model.layers.{number}.{name}.weight"]

    return (
        get("input_layernorm"),
        torch.cat([get(f"self_attn.{name}_proj") for name in "qkv"]),
        get("self_attn.o_proj"),
        get("post_attention_layernorm"),
        torch.cat([get("mlp.gate_proj"), get("mlp.up_proj")]),
        get("mlp.down_proj"),
    )


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((a * cos - b * sin, b * cos + a * sin), -1)


# ---------------------------------------------------------------- drawing


@dataclass
class Continuation:
    """What one row has written so far."""

    generator: torch.Generator
    tokens: list[int]
    nats: float = 0.0
    ended: bool = False


def draw(logits: Tensor, generators: list[torch.Generator]) -> tuple[Tensor, Tensor]:
    """(tokens (R,), their nats (R,)): top-p sampling, one uniform number of each row's own."""
    plain = logits.log_softmax(-1)
    warm = logits / TEMPERATURE
    top, ids = warm.topk(CANDIDATES, -1)
    p = (top - torch.logsumexp(warm, -1, keepdim=True)).exp()
    p[(p.cumsum(-1) - p) >= TOP_P] = 0
    cumulative = (p / p.sum(-1, keepdim=True)).cumsum(-1)
    uniform = torch.cat([torch.rand(1, generator=g) for g in generators])
    place = (cumulative < uniform[:, None]).sum(-1, keepdim=True).clamp(max=CANDIDATES - 1)
    new = ids.gather(1, place)
    return new[:, 0], -plain.gather(1, new)[:, 0]


@torch.inference_mode()
def continue_batch(decoder: Decoder, batch: list[dict[str, Any]]) -> list[Continuation]:
    rows = [Continuation(torch.Generator().manual_seed(r["seed"]), []) for r in batch]
    alive = list(rows)
    logits = decoder.start([r["ids"] for r in batch], N_NEW)
    for n in range(N_NEW):
        logits[:, CONTROL] = -math.inf
        new, nats = draw(logits, [row.generator for row in alive])
        for row, token, cost in zip(alive, new.tolist(), nats.tolist(), strict=True):
            row.ended = row.ended or token == END
            if not row.ended:
                row.tokens.append(token)
                row.nats += cost
        left = [i for i, row in enumerate(alive) if not row.ended]
        if not left or n == N_NEW - 1:
            break
        if len(left) <= len(alive) - 4:  # dropping rows copies the cache, so four at a time
            decoder.keep(left)
            new, alive = new[left], [alive[i] for i in left]
        logits = decoder.step(new[:, None])
    return rows


def check(decoder: Decoder, folder: str, tokenizer: Any) -> None:
    """Print the largest difference to the logits of transformers."""
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    texts = "The Golden Gate Bridge is a famous landmark located in the city of", "Hello, my"
    ids = [tokenizer(text).input_ids for text in texts]
    first = decoder.start(ids, 1)
    second = decoder.step(first.argmax(-1)[:, None])
    for row, tokens in enumerate(ids):
        with torch.inference_mode():
            expected = model(torch.tensor([[*tokens, int(first[row].argmax())]])).logits[0, -2:]
        found = torch.stack([first[row], second[row]])
        print(f"largest difference of a logit: {float((found - expected).abs().max()):.1e}")


# ---------------------------------------------------------------- batches


def read_prompts(tokenizer: Any) -> list[dict[str, Any]]:
    lines = (HERE / "prompts.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    for n, row in enumerate(rows):
        row.update(n=n, seed=SEED + n, ids=tokenizer(row["prompt"]).input_ids)
    return rows


def make_batches(rows: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Batches of prompts of like length, from four batches' worth of any kind at a time."""
    rows, batches, group = list(rows), [], 4 * BATCH
    random.Random(0).shuffle(rows)
    for start in range(0, len(rows), group):
        part = sorted(rows[start : start + group], key=lambda row: len(row["ids"]))
        cut = [part[i : i + BATCH] for i in range(0, len(part), BATCH)]
        random.Random(start).shuffle(cut)
        batches += cut
    return batches


def describe(row: dict[str, Any], new: Continuation, tokenizer: Any) -> dict[str, Any]:
    text = tokenizer.decode(row["ids"] + new.tokens, clean_up_tokenization_spaces=False)
    record = {key: row[key] for key in ("kind", "prompt", "seed", "n")}
    return record | {
        "text": text.rstrip("\ufffd"),
        "n_prompt": len(row["ids"]),
        "new": new.tokens,
        "ended": new.ended,
        "nats": round(new.nats / max(1, len(new.tokens)), 3),
    }


def continue_all(folder: Path, check_first: bool) -> None:
    source = smollm2_folder()
    tokenizer, decoder = AutoTokenizer.from_pretrained(source), Decoder(source)
    if check_first:
        check(decoder, source, tokenizer)
    batches = make_batches(read_prompts(tokenizer))
    for number, batch in enumerate(batches):
        path = folder / "batches" / f"{number:04d}.jsonl"
        if path.exists():
            continue
        began = time.monotonic()
        rows = continue_batch(decoder, batch)
        records = [describe(r, new, tokenizer) for r, new in zip(batch, rows, strict=True)]
        write_lines(path, records)
        n = sum(len(new.tokens) for new in rows)
        wall = time.monotonic() - began
        print(f"batch {number + 1} of {len(batches)}: {n:,} tokens in {wall:.0f} s", flush=True)


def write_lines(path: Path, records: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".part")
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


# ---------------------------------------------------------------- sifting


def cut_loop(new: list[int]) -> int:
    """How many tokens stand before a run of GRAM tokens comes for the REPEATS-th time."""
    seen = collections.Counter[tuple[int, ...]]()
    for start in range(len(new) - GRAM + 1):
        gram = tuple(new[start : start + GRAM])
        seen[gram] += 1
        if seen[gram] == REPEATS:
            return start
    return len(new)


def find_fault(new: list[int], grams: set[tuple[int, ...]], seen: dict[Any, int]) -> str:
    """Why a continuation is left out, or "".

    `seen` maps each run of GRAM tokens of the kept ones to the number of its first prompt.
    """
    others = collections.Counter(seen[gram] for gram in grams if gram in seen)
    if len(new) < SHORT:
        return "short"
    if len(set(new)) < DISTINCT * len(new):
        return "few distinct tokens"
    return "near copy" if max(others.values(), default=0) > COPIED * len(grams) else ""


def sift(folder: Path) -> None:
    """Write corpus.jsonl.gz here and counts.json to `folder`.

    A continuation that loops is cut where its loop begins.
    """
    tokenizer = AutoTokenizer.from_pretrained(smollm2_folder())
    paths = sorted((folder / "batches").glob("*.jsonl"))
    lines = [line for path in paths for line in path.read_text(encoding="utf-8").splitlines()]
    records = sorted(map(json.loads, lines), key=lambda record: record["n"])
    seen: dict[Any, int] = {}
    kept, counts = [], collections.Counter[str]()
    for record in records:
        new = record["new"][: cut_loop(record["new"])]
        counts["cut at a loop"] += len(new) < len(record["new"])
        grams = {tuple(new[i : i + GRAM]) for i in range(len(new) - GRAM + 1)}
        if fault := find_fault(new, grams, seen):
            counts[fault] += 1
            continue
        seen |= {gram: record["n"] for gram in grams if gram not in seen}
        prompt = tokenizer(record["prompt"]).input_ids
        text = tokenizer.decode(prompt + new, clean_up_tokenization_spaces=False)
        kept.append(record | {"new": new, "text": text.rstrip("\ufffd")})
    shipped = [{k: r[k] for k in ("text", "kind", "seed", "n_prompt")} for r in kept]
    text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in shipped)
    packed = gzip.compress(text.encode(), mtime=0)
    (HERE / "corpus.jsonl.gz").write_bytes(packed)
    summary = {
        "continued": len(records),
        "kept": len(kept),
        **counts,
        "tokens_prompt": sum(r["n_prompt"] for r in kept),
        "tokens_new": sum(len(r["new"]) for r in kept),
        "ended": sum(r["ended"] for r in kept),
        "characters": sum(len(r["text"]) for r in kept),
        "bytes": len(packed),
    }
    (folder / "counts.json").write_text(json.dumps(summary, indent=1), encoding="utf-8")
    print(json.dumps(summary, indent=1))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("folder", type=Path)
    parser.add_argument("--sift", action="store_true")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.sift:
        sift(arguments.folder)
    else:
        continue_all(arguments.folder, arguments.check)


if __name__ == "__main__":
    main()
