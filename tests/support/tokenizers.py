"""Tiny tokenizers of every family of the field, made by their own library classes.

byte-level BPE        GPT-2 (with and without a prefix space), RoBERTa, Llama 3, Qwen, Mistral's
                      tekken.json
BPE, byte fallback    Llama 2 (with and without a prefix space, and as its older files say it),
                      Mistral, Gemma
BPE without fallback  one with an unknown token
Unigram               T5, XLM-R (with and without a prefix space), ALBERT, one with byte fallback
WordPiece             BERT, in lower case and not
variants              added tokens; truncation and padding saved in tokenizer.json
"""

from __future__ import annotations

import base64
import functools
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import (
    AutoTokenizer,
    BertTokenizer,
    GemmaTokenizer,
    GPT2Tokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerFast,
    Qwen2Tokenizer,
    T5Tokenizer,
    XLMRobertaTokenizer,
)
from transformers.convert_slow_tokenizer import bytes_to_unicode

from core.subject.tokenizer import load_tokenizer

SAMPLE = [
    "the cat sat on the mat and the dog ran",
    "def run(self, value): return self.value",
    "snow falls in winter, sun shines in summer. The cat, the Cat",
    "naïve café ärger привет мир",
]
LLAMA_3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
BYTES = [f"<0x{i:02X}>" for i in range(256)]


def _merges(model: Any) -> list[tuple[str, str]]:
    return [tuple(pair) for pair in json.loads(model.to_str())["model"]["merges"]]


@functools.cache
def _byte_level(split: str) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of byte-level BPE, with the end of text as id 0."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = (
        pre_tokenizers.Sequence(
            [
                pre_tokenizers.Split(Regex(split), "isolated"),
                pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
            ]
        )
        if split
        else pre_tokenizers.ByteLevel(add_prefix_space=False)
    )
    trainer = trainers.BpeTrainer(
        vocab_size=340,
        special_tokens=["<|endoftext|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    inner.train_from_iterator(SAMPLE, trainer)
    return inner.get_vocab(), _merges(inner)


@functools.cache
def _pieces(specials: tuple[str, ...]) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """Vocabulary and merges of BPE over characters with byte fallback; some letters have none."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    trainer = trainers.BpeTrainer(
        vocab_size=len(specials) + 256 + 110,
        special_tokens=[*specials, *BYTES],
        show_progress=False,
    )
    inner.train_from_iterator(SAMPLE[:3], trainer)
    return inner.get_vocab(), _merges(inner)


@functools.cache
def _unigram(specials: tuple[str, ...], byte_fallback: bool = False) -> list[tuple[str, float]]:
    words = sorted({word for line in SAMPLE for word in line.split()})
    letters = sorted(set("".join(SAMPLE)) - {" "})
    known = dict.fromkeys([*(f"▁{w}" for w in words), *words, "▁", *letters])
    pieces = [(piece, -2.0 - 1.0 / len(piece) - 0.001 * i) for i, piece in enumerate(known)]
    bytes_ = [(piece, -9.0) for piece in BYTES] if byte_fallback else []
    return [*((s, 0.0) for s in specials), *bytes_, *pieces]


def _gpt2(add_prefix_space: bool = False) -> Any:
    vocab, merges = _byte_level("")
    return GPT2Tokenizer(vocab=vocab, merges=merges, add_prefix_space=add_prefix_space)


def _llama_3() -> Any:
    vocab, merges = _byte_level(LLAMA_3)
    vocab = {("<|end_of_text|>" if t == "<|endoftext|>" else t): i for t, i in vocab.items()}
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges, ignore_merges=True))
    inner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(LLAMA_3), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    inner.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<|begin_of_text|>", eos_token="<|end_of_text|>"
    )


def _qwen() -> Any:
    vocab, merges = _byte_level(LLAMA_3)
    return Qwen2Tokenizer(vocab=vocab, merges=merges)


def _llama_2(add_prefix_space: bool = True) -> Any:
    vocab, merges = _pieces(("<unk>", "<s>", "</s>"))
    return LlamaTokenizer(vocab=vocab, merges=merges, add_prefix_space=add_prefix_space)


def _llama_2_older() -> Any:
    """As tokenizer.json of Llama 2, TinyLlama and Mistral 0.1 has it: a normaliser, no Metaspace."""
    vocab, merges = _pieces(("<unk>", "<s>", "</s>"))
    model = models.BPE(
        vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True
    )
    inner = Tokenizer(model)
    inner.normalizer = normalizers.Sequence(
        [normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]
    )
    inner.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _gemma() -> Any:
    vocab, merges = _pieces(("<pad>", "<eos>", "<bos>", "<unk>", "<mask>"))
    return GemmaTokenizer(vocab=vocab, merges=merges)


def _t5() -> Any:
    return T5Tokenizer(vocab=_unigram(("<pad>", "</s>", "<unk>")), extra_ids=2)


def _xlm_r(add_prefix_space: bool = True) -> Any:
    vocab = _unigram(("<s>", "<pad>", "</s>", "<unk>", "<mask>"))
    return XLMRobertaTokenizer(vocab=vocab, add_prefix_space=add_prefix_space)


def _unigram_bytes() -> Any:
    """Unigram with byte fallback, as newer SentencePiece models have it."""
    vocab = _unigram(("<unk>", "<s>", "</s>"), byte_fallback=True)
    inner = Tokenizer(models.Unigram(vocab, unk_id=0, byte_fallback=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Sequence(
        [
            decoders.ByteFallback(),
            decoders.Metaspace(prepend_scheme="first", split=False),
            decoders.Fuse(),
        ]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _roberta() -> Any:
    """Byte-level BPE whose offsets leave the space in front of a word out."""
    vocab, merges = _byte_level("")
    inner = Tokenizer(models.BPE(vocab=vocab, merges=merges))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    end = ("<|endoftext|>", 0)
    inner.post_processor = processors.RobertaProcessing(end, end, add_prefix_space=False)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token=end[0], eos_token=end[0])


def _bpe_unknown() -> Any:
    """BPE over characters without byte fallback: what it does not know is one unknown token."""
    vocab, merges = _pieces(("<unk>", "<s>", "</s>"))
    kept = [piece for piece in vocab if piece not in BYTES]
    ids = {piece: i for i, piece in enumerate(sorted(kept, key=lambda p: vocab[p]))}
    inner = Tokenizer(models.BPE(vocab=ids, merges=merges, unk_token="<unk>", fuse_unk=True))
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    inner.decoder = decoders.Metaspace(prepend_scheme="first", split=False)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def _albert() -> Any:
    """Unigram behind a normaliser that drops accents, cases and runs of spaces."""
    vocab = _unigram(("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"))
    inner = Tokenizer(models.Unigram(vocab, unk_id=1))
    inner.normalizer = normalizers.Sequence(
        [
            normalizers.Replace("``", '"'),
            normalizers.NFKD(),
            normalizers.StripAccents(),
            normalizers.Lowercase(),
            normalizers.Replace(Regex(" {2,}"), " "),
        ]
    )
    inner.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    inner.decoder = decoders.Metaspace(prepend_scheme="always")
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, unk_token="<unk>", bos_token="[CLS]", eos_token="[SEP]"
    )


def write_tekken(folder: Path, marks: bool = True) -> int:
    """Write a `tekken.json` as Mistral's checkpoints have it; returns the size of its vocabulary.

    Without `marks`, it is of the old form that does not name its special tokens.
    """
    vocab, merges = _byte_level(LLAMA_3)
    byte_of = {c: b for b, c in bytes_to_unicode().items()}
    merged = [bytes(byte_of[c] for c in left + right) for left, right in merges]
    pieces = list(dict.fromkeys([*(bytes([b]) for b in range(256)), *merged]))
    specials = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "<pad>"]
    size = len(pieces) + 10
    table: dict[str, Any] = {
        "config": {
            "pattern": LLAMA_3,
            "num_vocab_tokens": len(pieces),
            "default_vocab_size": size,
            "default_num_special_tokens": 10,
            "version": "v7",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(piece).decode(), "token_str": None}
            for i, piece in enumerate(pieces)
        ],
    }
    if marks:
        table["special_tokens"] = [
            {"rank": i, "token_str": token, "is_control": True} for i, token in enumerate(specials)
        ]
    (folder / "tekken.json").write_text(json.dumps(table), encoding="utf-8")
    return size


def _tekken() -> Any:
    with tempfile.TemporaryDirectory() as folder:
        write_tekken(Path(folder))
        return load_tokenizer(folder)


def _bert(do_lower_case: bool = True) -> Any:
    words = sorted({word for line in SAMPLE for word in line.replace(",", "").split()})
    letters = sorted(set("".join(SAMPLE) + "0123456789()=;:._-|<>!?'\"") - {" "})
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces = dict.fromkeys([*specials, *words, *letters, *(f"##{x}" for x in letters), "##at"])
    vocab = {piece: i for i, piece in enumerate(pieces)}
    return BertTokenizer(vocab=vocab, do_lower_case=do_lower_case)


FAMILIES: dict[str, Callable[[], Any]] = {
    "gpt2": _gpt2,
    "gpt2 with a prefix space": functools.partial(_gpt2, True),
    "llama 3": _llama_3,
    "qwen": _qwen,
    "llama 2": _llama_2,
    "llama 2 without a prefix space": functools.partial(_llama_2, False),
    "llama 2, older files": _llama_2_older,
    "gemma": _gemma,
    "t5": _t5,
    "xlm-r": _xlm_r,
    "xlm-r without a prefix space": functools.partial(_xlm_r, False),
    "unigram with bytes": _unigram_bytes,
    "roberta": _roberta,
    "bpe without fallback": _bpe_unknown,
    "albert": _albert,
    "mistral, tekken": _tekken,
    "bert": _bert,
    "bert, cased": functools.partial(_bert, False),
}


def make_tokenizer(family: str, added: bool = False) -> Any:
    """A new tokenizer of `family`; with `added`, one special and one ordinary token more."""
    tokenizer = FAMILIES[family]()
    if added:
        tokenizer.add_tokens(
            [AddedToken("<|mark|>", special=True), AddedToken("the cat", normalized=False)]
        )
    return tokenizer


def save_with_state(tokenizer: Any, folder: Path, truncation: bool, padding: bool) -> Any:
    """The tokenizer saved with truncation or padding of 16 tokens in its file, and loaded again."""
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    if truncation:
        tokenizer.backend_tokenizer.enable_truncation(16)
    if padding:
        tokenizer.backend_tokenizer.enable_padding(
            length=16, pad_id=tokenizer.pad_token_id, pad_token=tokenizer.pad_token
        )
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    kept = (folder / "tokenizer.json").read_bytes()
    tokenizer.save_pretrained(folder)
    (folder / "tokenizer.json").write_bytes(kept)
    return AutoTokenizer.from_pretrained(folder)
