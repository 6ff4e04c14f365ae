"""Train the embedded subject: a small GPT-2-architecture language model of Python source code.

    python data/subjects/python-7m/make.py OUT_DIR [--tokens 32000000]

Text is what stands on the machine that runs it: the standard library and the installed packages
named in `PACKAGES`, one document a file. Exact copies are dropped, and so are data tables (very
long lines). A document whose content hash is 0 mod 50 is held out; a held-out document of which
more than a tenth of the 32-token shingles also stand in training text is dropped, so that the
held-out figure measures new text.

A training row is BOS and 255 consecutive tokens, which is the shape that `capture` reads. Hidden
matrices are trained with Muon (update RMS matched to AdamW's), embeddings and vectors with AdamW;
trapezoidal schedule; bfloat16 autocast. Output logits dominate the cost of a model with 7 million
parameters and 8,192 tokens, so the loss and its gradient are computed over slices of 512 positions
(7.8k instead of 4.6k tokens a second on two cores, measured beside each other).

Beside the weights it writes README.md, the model's card: data and licences, held-out loss in bits
per byte beside `xz -9` and an interpolated trigram, and three samples.
"""

import argparse
import hashlib
import importlib.metadata
import json
import lzma
import math
import pathlib
import random
import sysconfig
import time

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

PACKAGES = {  # folder in site-packages -> distribution
    "numpy": "numpy", "scipy": "scipy", "sklearn": "scikit-learn", "pandas": "pandas", "matplotlib": "matplotlib",
    "seaborn": "seaborn", "torch": "torch", "transformers": "transformers", "tokenizers": "tokenizers", "openai": "openai",
    "umap": "umap-learn", "hdbscan": "hdbscan", "networkx": "networkx", "sympy": "sympy", "pydantic": "pydantic",
    "starlette": "starlette", "jinja2": "Jinja2", "aiohttp": "aiohttp",
}  # fmt: skip
END = "<|endoftext|>"
CONTEXT, WIDTH, LAYERS, HEADS, VOCABULARY = 256, 256, 6, 4, 8192
SHINGLE = 32  # tokens
PROMPTS = (
    "def main(argv=None):\n    parser = argparse.ArgumentParser(",
    "class Stack:\n    def __init__(self",
    "import os\nimport ",
)


# ---------------------------------------------------------------- text


def documents():
    """Yield (text, content hash as int) of every usable source file, each content once."""
    paths = sysconfig.get_paths()
    roots = [pathlib.Path(paths["stdlib"])] + [
        pathlib.Path(paths["purelib"]) / name for name in PACKAGES
    ]
    seen = set()
    for number, root in enumerate(roots):
        for path in sorted(root.rglob("*.py")) if root.exists() else ():
            if number == 0 and "site-packages" in path.parts:
                continue
            try:
                text = path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                continue
            key = int(hashlib.sha256(text.encode()).hexdigest()[:8], 16)
            if (
                key in seen
                or not 200 <= len(text) <= 400_000
                or max(map(len, text.splitlines()), default=0) > 2000
            ):
                continue
            seen.add(key)
            yield text, key


def train_tokenizer(texts):
    """A byte-level BPE tokenizer of VOCABULARY pieces; id 0 is END."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[END], initial_alphabet=alphabet
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def encode(tokenizer, texts):
    """A list of uint16 arrays, one a document, each starting with END."""
    arrays = []
    for start in range(0, len(texts), 200):
        arrays += [
            np.array([0] + e.ids, dtype=np.uint16)
            for e in tokenizer.encode_batch(texts[start : start + 200])
        ]
    return arrays


def shingles(tokens):
    """Hashes of all runs of SHINGLE tokens: uint64 (n - SHINGLE + 1,)."""
    if len(tokens) < SHINGLE:
        return np.zeros(0, dtype=np.uint64)
    hashes = np.zeros(len(tokens) - SHINGLE + 1, dtype=np.uint64)
    for offset in range(SHINGLE):
        hashes *= np.uint64(6364136223846793005)
        hashes += tokens[offset : offset + len(hashes)].astype(np.uint64) + np.uint64(
            1442695040888963407
        )
    return hashes


def new_documents(held, train_tokens, limit=0.1):
    """Those held-out arrays of which at most `limit` of the shingles stand in `train_tokens`, as a
    list of indices.
    """
    known = np.unique(shingles(train_tokens))
    kept = []
    for index, tokens in enumerate(held):
        own = shingles(tokens)
        if (
            len(own)
            and np.mean(known[np.minimum(np.searchsorted(known, own), len(known) - 1)] == own)
            <= limit
        ):
            kept.append(index)
    return kept


# ---------------------------------------------------------------- training


def sliced_loss(hidden, weight, targets, size=512):
    """Mean cross-entropy in nats and its gradients by hand: (loss, d loss / d hidden, d loss / d
    weight).

    hidden (n, D) bfloat16, weight (V, D) bfloat16, targets (n,). Never holds more than `size` rows
    of logits.
    """
    n, rows = len(hidden), torch.arange(size)
    d_hidden, d_weight, loss = torch.empty_like(hidden), torch.zeros(weight.shape), 0.0
    logits = torch.empty(size, len(weight))
    for start in range(0, n, size):
        h, y = hidden[start : start + size], targets[start : start + size]
        z, r = logits[: len(h)], rows[: len(h)]
        z.copy_(h @ weight.T)
        top = z.amax(1, keepdim=True)
        chosen = z[r, y]
        total = z.sub_(top).exp_().sum(1, keepdim=True)
        loss += float((total.log() + top).sum() - chosen.sum())
        z.mul_(1 / (total * n))
        z[r, y] -= 1 / n
        gradient = z.to(torch.bfloat16)
        torch.mm(gradient, weight, out=d_hidden[start : start + size])
        d_weight += (gradient.T @ h).float()
    return loss / n, d_hidden, d_weight


def backward(model, rows):
    """Accumulate the gradients of the mean loss over rows (R, CONTEXT); returns the loss in nats a
    token.
    """
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.transformer(input_ids=rows, use_cache=False).last_hidden_state
    weight = model.lm_head.weight
    flat = hidden[:, :-1].detach().reshape(-1, WIDTH).to(torch.bfloat16)
    loss, d_hidden, d_weight = sliced_loss(
        flat, weight.detach().to(torch.bfloat16), rows[:, 1:].reshape(-1)
    )
    gradient = torch.zeros_like(hidden)
    gradient[:, :-1] = d_hidden.view(len(rows), -1, WIDTH)
    hidden.backward(gradient)
    weight.grad += d_weight  # the embedding is tied: hidden.backward has already filled it
    return loss


def optimisers(model, rate):
    """Muon for the hidden matrices, AdamW for embeddings, gains and biases."""
    hidden = [p for name, p in model.named_parameters() if p.dim() == 2 and ".h." in name]
    rest = [p for name, p in model.named_parameters() if not (p.dim() == 2 and ".h." in name)]
    return (
        torch.optim.Muon(
            hidden, lr=rate, weight_decay=0.1, momentum=0.95, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.0, fused=True),
    )


def schedule(done):
    """Share of the peak rate when the share `done` of training is over: warm-up 2 %, constant,
    linear to 0 over the last half.
    """
    return min(1.0, (done + 1e-4) / 0.02) * min(1.0, (1 - done) / 0.5)


def fit(model, tokens, budget, batch=32, rate=3e-3):
    """Train on `budget` tokens of the stream (n,); rows are BOS and CONTEXT - 1 tokens from a
    random place.
    """
    generator = np.random.default_rng(0)
    tools = optimisers(model, rate)
    steps, start, reported = budget // (batch * CONTEXT), time.time(), 0.0
    for step in range(steps):
        for tool in tools:
            for group in tool.param_groups:
                group["lr"] = rate * schedule(step / steps)
        offsets = generator.integers(0, len(tokens) - CONTEXT, batch)
        rows = np.stack([np.r_[0, tokens[i : i + CONTEXT - 1]] for i in offsets]).astype(np.int64)
        loss = backward(model, torch.from_numpy(rows))
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for tool in tools:
            tool.step()
        model.zero_grad(set_to_none=True)
        if time.time() - reported > 60:
            reported = time.time()
            print(
                f"{step}/{steps} steps, {step * batch * CONTEXT / (reported - start):.0f} tok/s, loss {loss:.3f}",
                flush=True,
            )
    return time.time() - start


# ---------------------------------------------------------------- measuring


@torch.no_grad()
def nats_per_token(model, arrays, limit=400_000):
    """Held-out loss over rows of one document: (total nats, predicted tokens).

    Every row is BOS and at most 255 tokens.
    """
    total, count = 0.0, 0
    for tokens in arrays:
        for start in range(1, len(tokens), CONTEXT - 1):
            row = torch.from_numpy(np.r_[0, tokens[start : start + CONTEXT - 1]].astype(np.int64))[
                None
            ]
            total += model(input_ids=row, labels=row, use_cache=False).loss.item() * (
                row.shape[1] - 1
            )
            count += row.shape[1] - 1
        if count >= limit:
            break
    return total, count


def trigram_nats_per_token(train_tokens, arrays, tune=0.1):
    """Loss in nats a token of an interpolated trigram, its three weights fitted by EM on the first
    `tune` of the held-out tokens.
    """
    base = VOCABULARY
    t = train_tokens.astype(np.int64)
    one = np.bincount(t, minlength=base)
    two, n_two = np.unique(t[:-1] * base + t[1:], return_counts=True)
    three, n_three = np.unique((t[:-2] * base + t[1:-1]) * base + t[2:], return_counts=True)

    def count(keys, counts, wanted):
        place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(keys[place] == wanted, counts[place], 0)

    h = np.concatenate([a[1:] for a in arrays]).astype(np.int64)
    a, b, c = h[:-2], h[1:-1], h[2:]
    pair = count(two, n_two, a * base + b)
    probabilities = np.stack([
        np.full(len(c), 1 / base),
        (one[c] + 0.0) / len(t),
        count(two, n_two, b * base + c) / np.maximum(one[b], 1),
        count(three, n_three, (a * base + b) * base + c) / np.maximum(pair, 1),
    ])  # fmt: skip
    cut, weights = int(len(c) * tune), np.full(4, 0.25)
    for _ in range(50):
        share = weights[:, None] * probabilities[:, :cut]
        weights = (share / share.sum(0)).mean(1)
    return float(-np.log(weights @ probabilities[:, cut:]).mean())


@torch.no_grad()
def samples(model, tokenizer, prompts=PROMPTS, length=90):
    torch.manual_seed(0)
    for prompt in prompts:
        ids = torch.tensor([[0] + tokenizer.encode(prompt).ids])
        out = model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=length,
            do_sample=True,
            temperature=0.7,
            top_p=0.95,
            pad_token_id=0,
        )
        yield tokenizer.decode(out[0, 1:].tolist())


def licences():
    """Rows of (distribution, version, licence as the package states it) for the text that was used."""
    for name in PACKAGES.values():
        try:
            about = importlib.metadata.metadata(name)
        except importlib.metadata.PackageNotFoundError:
            continue
        stated = about.get("License-Expression") or next(
            (
                c.split(" :: ")[-1]
                for c in about.get_all("Classifier", [])
                if c.startswith("License") and c.count(" :: ") > 1
            ),
            None,
        )
        yield (
            name,
            about["Version"],
            stated or (about.get("License") or "see package").splitlines()[0][:60],
        )


def card(figures, texts):
    """The model card as Markdown; `figures` are measured numbers, `texts` three samples."""
    rows = "\n".join(f"| {name} | {version} | {licence} |" for name, version, licence in licences())
    shown = "\n\n".join(f"```python\n{text}\n```" for text in texts)
    return f"""# The embedded subject

A GPT-2-architecture language model of Python source: {LAYERS} layers, width {WIDTH}, {HEADS} heads, context {CONTEXT},
{VOCABULARY:,} tokens, {figures["parameters"] / 1e6:.1f} M parameters, stored in bfloat16. Made by `make.py` in this folder.
It exists so that everything in this project can be tried on a really trained model without a download.
It is not a coding assistant, and it knows no language but Python and the English of its comments.

## Held-out loss

| | bits per byte |
|---|---|
| this model | {figures["model_bits_per_byte"]:.3f} |
| interpolated trigram over the same tokens and training text | {figures["trigram_bits_per_byte"]:.3f} |
| `xz -9` on the held-out text alone | {figures["xz_bits_per_byte"]:.3f} |

{figures["model_nats_per_token"]:.3f} nats a token over {figures["held_tokens"]:,} tokens ({figures["held_documents"]} held-out files; {figures["held_dropped"]}
more were left out of the figure because over a tenth of their 32-token shingles stand in training files too).
Trained on {figures["trained_tokens"] / 1e6:.0f} M tokens out of {figures["corpus_tokens"] / 1e6:.1f} M ({figures["train_documents"]:,} files),
{figures["steps"]:,} steps of 8,192 tokens, {figures["minutes"]:.0f} minutes on {torch.get_num_threads()} CPU thread(s).

## Data and licences

Python's standard library (PSF-2.0) and these packages, `.py` files only:

| package | version | licence |
|---|---|---|
{rows}

## Samples

Temperature 0.7, top-p 0.95, seed 0; the prompt is the beginning of each.

{shown}
"""


def measure(model, tokenizer, train_tokens, held_arrays, held_texts):
    """Figures of the card that are about held-out text."""
    total, count = nats_per_token(model, held_arrays)
    used, texts = 0, []
    for array, text in zip(held_arrays, held_texts, strict=True):
        used += len(array) - 1
        texts.append(text)
        if used >= count:
            break
    data = "\n".join(texts).encode()
    bytes_per_token = len(data) / count
    per_byte = lambda nats: nats / math.log(2) / bytes_per_token  # noqa: E731
    return {
        "model_nats_per_token": total / count,
        "model_bits_per_byte": per_byte(total / count),
        "trigram_bits_per_byte": per_byte(trigram_nats_per_token(train_tokens, held_arrays)),
        "xz_bits_per_byte": 8 * len(lzma.compress(data, preset=9)) / len(data),
        "held_tokens": count,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=pathlib.Path)
    parser.add_argument("--tokens", type=int, default=32_000_000, help="training tokens")
    parser.add_argument("--rate", type=float, default=3e-3)
    arguments = parser.parse_args()
    torch.manual_seed(0)

    texts = list(documents())
    random.Random(0).shuffle(texts)
    train = [text for text, key in texts if key % 50]
    held = [text for text, key in texts if not key % 50]
    tokenizer = train_tokenizer(train[:2500])
    train_tokens, held_arrays = np.concatenate(encode(tokenizer, train)), encode(tokenizer, held)
    kept = new_documents(held_arrays, train_tokens)
    print(
        f"{len(train)} documents, {len(train_tokens) / 1e6:.1f}M tokens; held out {len(held)}, of which {len(kept)} are new",
        flush=True,
    )

    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, activation_function="gelu_pytorch_tanh",
        bos_token_id=0, eos_token_id=0, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config)
    seconds = fit(model, train_tokens, arguments.tokens, rate=arguments.rate)
    model.to(torch.bfloat16).save_pretrained(arguments.out)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    ).save_pretrained(arguments.out)

    model = model.float().eval()
    figures = measure(
        model, tokenizer, train_tokens, [held_arrays[i] for i in kept], [held[i] for i in kept]
    )
    figures |= {
        "parameters": sum(p.numel() for p in model.parameters()), "held_documents": len(kept), "held_dropped": len(held) - len(kept),
        "trained_tokens": arguments.tokens, "corpus_tokens": len(train_tokens), "train_documents": len(train),
        "steps": arguments.tokens // (32 * CONTEXT), "minutes": seconds / 60,
    }  # fmt: skip
    (arguments.out / "README.md").write_text(
        card(figures, list(samples(model, tokenizer))), encoding="utf-8"
    )
    print(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
