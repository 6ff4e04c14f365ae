"""The memory of capture's text and of the index of tokens does not grow with the tokens."""

import json
import tracemalloc

import numpy as np
import pytest

from core.activations import capture, tokenize
from core.activations.tokenize import encode_documents
from core.firings import postings
from core.subject.subject import Subject
from core.text import spools, text_files, tokens
from core.text.documents import read_corpus
from tests.support.text import tables_of
from tests.support.tiny import byte_level_tokenizer, tiny_model

SMALL = {
    spools: {"HELD": 50_000, "CHUNK": 10_000, "PART": 20_000},
    text_files: {"BLOCK": 10_000},
    tokens: {"PIECE": 10_000},
    tokenize: {"BATCH": 8},
    capture: {"PIECE": 10_000},
    postings: {"PIECE": 10_000},
}  # pieces as they are to a capture of many millions of tokens


def write_corpus(path, n_tokens):
    """Lines of 2,000 random letters, a token each; every tenth one is a near copy."""
    rng = np.random.default_rng(0)
    with open(path, "w") as out:
        for number in range(n_tokens // 2000):
            if number % 10 != 1:
                letters = bytes(rng.integers(97, 123, 2000).astype(np.uint8)).decode()
            out.write(json.dumps({"text": letters[:1980] + f"{number:020}"}) + "\n")


def read_text(subject, folder, n_tokens):
    """All that is done with the text of a corpus beside the passes; the number of its tokens."""
    folder.mkdir()
    write_corpus(folder / "corpus.jsonl", n_tokens)
    corpus = read_corpus(str(folder / "corpus.jsonl"), "auto", folder)
    tables = tables_of(subject, encode_documents(subject, corpus), folder, 128)
    summary = capture.describe([folder], tables, subject)
    postings.write_token_postings(folder, tables["ids"], summary["vocabulary"])
    assert summary["near_duplicate_documents"] == pytest.approx(n_tokens / 20_000, abs=2)
    return summary["tokens"]


@pytest.mark.slow
def test_memory_does_not_grow_with_tokens(tmp_path, monkeypatch):
    """Its slope was 118 bytes a token where all documents were held; a few stay for a document."""
    for module, values in SMALL.items():
        for name, value in values.items():
            monkeypatch.setattr(module, name, value)
    subject, peaks = Subject(tiny_model("gpt2"), byte_level_tokenizer()), {}
    read_text(subject, tmp_path / "first", 20_000)  # imports, and caches of the subject
    for n in (40_000, 160_000):
        tracemalloc.start()
        counted = read_text(subject, tmp_path / str(n), n)
        peaks[counted] = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    (few, low), (many, high) = peaks.items()
    print(f"{(high - low) / (many - few):.2f} bytes a token; {low / 1e6:.1f}, {high / 1e6:.1f} MB")
    assert many - few > 100_000
    assert (high - low) / (many - few) < 1
