"""Subjects in GGUF files: converted once to a folder in Hugging Face layout.

A conversion is kept under the models' folder, named after the file's SHA-256, so that the file is
read once however often it is used. The conversion is transformers' own. Weights are dequantised to
float32, which holds every value of the file exactly. Byte-level tokenizers are built here from the
file's tokens and merges: which characters may stand together in a token is told by
`tokenizer.ggml.pre` alone, and transformers does not read it, so that digits, for one, would be
merged where the model never saw them merged. A name that this table does not know is refused.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from core.errors import NotReady, UsageError
from core.files import sha256
from core.progress import say
from core.run import home_folder

CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
WORDS = r"[^\r\n\p{L}\p{N}]?\p{L}+"
REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPLITS = {  # tokenizer.ggml.pre -> the pattern that cuts a text before its bytes are merged
    "llama-bpe": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}{{1,3}}|{REST}",
    "qwen2": rf"{CONTRACTIONS}|{WORDS}|\p{{N}}|{REST}",
}
ONE_DIGIT = ("smollm", "starcoder", "refact", "command-r", "codeshell")  # GPT-2's, digits apart
AS_GPT2 = ("gpt-2", "phi-2", "olmo")
CONTROL, USER_DEFINED = 3, 4  # of tokenizer.ggml.token_type
NEXT = "Give a folder in Hugging Face layout, or another GGUF file."


def is_gguf(name: str) -> bool:
    """Whether a subject's name stands for a GGUF file: the file, a folder of one, or
    `hf:repo/FILE.gguf`.
    """
    if name.lower().endswith(".gguf"):
        return True
    folder = Path(name)
    return folder.is_dir() and not (folder / "config.json").exists() and any(folder.glob("*.gguf"))


def gguf_folder(name: str) -> Path:
    """The converted folder of the GGUF file that `name` stands for; converts it when it is new.

    Raises UsageError for a file that is not there, is cut short, or holds a model or a tokenizer
    that cannot be converted, and NotReady when the hub cannot be reached or the disk is full.
    """
    path = find_file(name)
    target = home_folder() / "models" / f"{path.stem}-{sha256(path)[:12]}"
    if not (target / "config.json").exists():
        convert(path, target)
    return target


def find_file(name: str) -> Path:
    """The GGUF file of a name.

    Raises UsageError when there is none, or when a folder holds several.
    """
    if name.startswith("hf:"):
        from core.hub import fetch, parse

        repo, inside, revision = parse(name)
        path = fetch(repo, [inside], revision) / inside
        if not path.exists():
            raise UsageError(f"{repo} has no file {inside!r}.", "Name one of its .gguf files.")
        return path
    path = Path(name)
    if path.is_dir():
        files = sorted(path.glob("*.gguf"))
        if len(files) > 1:
            names = ", ".join(file.name for file in files)
            raise UsageError(f"{path} holds several GGUF files: {names}.", "Name one of them.")
        path = files[0]
    if not path.is_file():
        raise UsageError(f"There is no file {name}.", NEXT)
    return path


def convert(path: Path, target: Path) -> None:
    """Write the model of a GGUF file to the folder `target`, which appears whole or not at all."""
    partial = target.with_name(f"{target.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    metadata = read_metadata(path)
    say(f"{path.name}: converting to {target}, once")
    try:
        partial.mkdir(parents=True)
        model = _load_model(path)
        tokenizer = _tokenizer(path, metadata)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        os.replace(partial, target)
    except OSError as error:
        raise NotReady(
            f"{path.name} could not be converted: {error.strerror or error}.",
            "Make room for four bytes a parameter; then type the same command again.",
        ) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def read_metadata(path: Path) -> dict[str, Any]:
    """The key-value pairs of a GGUF file.

    Raises UsageError for a file that is none, or is cut short.
    """
    from gguf import GGUFReader

    try:
        reader = GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        ends = [int(t.data_offset) + int(t.n_bytes) for t in reader.tensors]
    except (ValueError, IndexError, KeyError, OverflowError, MemoryError, OSError) as error:
        raise _broken(path, str(error).split("\n")[0]) from None
    if max(ends, default=0) > path.stat().st_size:
        raise _broken(path, "it ends before its last tensor")
    return fields


def _broken(path: Path, why: str) -> UsageError:
    return UsageError(f"{path} is not a whole GGUF file: {why}.", "Fetch the file again.")


def _load_model(path: Path) -> Any:
    """The causal language model of a GGUF file, float32.

    Raises UsageError naming what cannot be converted.
    """
    import torch
    from transformers import AutoModelForCausalLM

    try:
        model = AutoModelForCausalLM.from_pretrained(
            str(path.parent), gguf_file=path.name, dtype=torch.float32
        )
    except (ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        said = str(error).split("\n")[0]
        raise UsageError(f"transformers cannot convert {path.name}: {said}", NEXT) from None
    if hasattr(model.config, "quantization_config"):  # it is plain float32 from here on
        del model.config.quantization_config
    model.__dict__.update(hf_quantizer=None, is_quantized=False)
    return model


# ---------------------------------------------------------------- tokenizer


def _tokenizer(path: Path, metadata: dict[str, Any]) -> Any:
    """The tokenizer of a GGUF file: byte-level ones from its tokens and merges, others by
    transformers.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if metadata.get("tokenizer.ggml.model") != "gpt2":
        try:
            return AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        except (ValueError, KeyError, NotImplementedError) as error:
            said = str(error).split("\n")[0]
            raise UsageError(f"The tokenizer of {path.name} cannot be read: {said}", NEXT) from None
    tokens = metadata["tokenizer.ggml.tokens"]
    named = {
        f"{name}_token": tokens[metadata[key]]
        for name, key in (
            ("bos", "tokenizer.ggml.bos_token_id"),
            ("eos", "tokenizer.ggml.eos_token_id"),
            ("unk", "tokenizer.ggml.unknown_token_id"),
            ("pad", "tokenizer.ggml.padding_token_id"),
        )
        if key in metadata
    }
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=byte_level(metadata, path.name), **named)
    tokenizer.chat_template = metadata.get("tokenizer.chat_template")
    return tokenizer


def byte_level(metadata: dict[str, Any], name: str) -> Any:
    """A byte-level BPE tokenizer from a file's tokens, merges and `pre`.

    Raises UsageError for a `pre` that is not in the table: guessing would change ids in silence.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors

    tokens, kinds = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    merges = [tuple(merge.split(" ", 1)) for merge in metadata["tokenizer.ggml.merges"]]
    pre = str(metadata.get("tokenizer.ggml.pre", "gpt-2"))
    steps: list[Any] = []
    if pre in SPLITS:
        from tokenizers import Regex

        steps.append(pre_tokenizers.Split(Regex(SPLITS[pre]), "isolated"))
    elif pre in ONE_DIGIT:
        steps.append(pre_tokenizers.Digits(individual_digits=True))
    elif pre not in AS_GPT2:
        known = ", ".join([*SPLITS, *ONE_DIGIT, *AS_GPT2])
        raise UsageError(
            f"{name} cuts text as {pre!r}, which is not known here.", f"Known: {known}."
        )
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=pre not in SPLITS))
    vocabulary = {token: i for i, token in enumerate(tokens)}
    made = Tokenizer(models.BPE(vocab=vocabulary, merges=merges, ignore_merges=pre == "llama-bpe"))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps)
    made.decoder = decoders.ByteLevel()
    by_kind = {
        kind: [t for t, k in zip(tokens, kinds, strict=True) if k == kind] for kind in set(kinds)
    }
    made.add_special_tokens([AddedToken(t, normalized=False) for t in by_kind.get(CONTROL, [])])
    made.add_tokens([AddedToken(t, normalized=False) for t in by_kind.get(USER_DEFINED, [])])
    if metadata.get("tokenizer.ggml.add_bos_token", False):
        bos = tokens[metadata["tokenizer.ggml.bos_token_id"]]
        made.post_processor = processors.TemplateProcessing(
            single=f"{bos} $A",
            pair=f"{bos} $A {bos} $B",
            special_tokens=[(bos, metadata["tokenizer.ggml.bos_token_id"])],
        )
    return made
