"""A run whose features were planted: documents of random words, an index that says exactly where
each feature fires, no subject.

Every feature has a true label in the language of rules, but one, which is nothing: it fires
anywhere. Activations are uneven, a few firings are missing and a few stand where they should not,
so that no label is perfect.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from core.activations.layout import Layout, write_layout
from core.files import write_array, write_json
from core.records import SPLITS
from core.run import Run
from core.settings import RunSettings
from core.text.tokens import Tokens

WORDS = [
    "cat",
    "dog",
    "bird",
    "fish",
    "snow",
    "rain",
    "sun",
    "wind",
    "bread",
    "salt",
    "milk",
    "tea",
    "red",
    "blue",
    "green",
    "gold",
    "run",
    "walk",
    "sing",
    "read",
    "king",
    "queen",
    "lord",
    "duke",
]
VOCABULARY = [
    f" {w}"
    for w in [
        *WORDS,
        *(w.capitalize() for w in WORDS[:6]),
        "7",
        "42",
        "1999",
        ",",
        ".",
        "(",
        ")",
        "the",
        "of",
    ]
] + ["\n"]
TRUTH = {
    0: '"cat"',  # a token
    1: '"dog" after "the"',  # a bigram
    2: "digits",  # a shape
    3: '"bread", "salt", "milk" or "tea"',  # a field
    4: '"king"; "snow"',  # two senses
    5: "",  # nothing
    6: '"sun" within 8 after "rain"',  # a word where the topic is right
    **{
        7 + i: f'"{w}"'
        for i, w in enumerate(
            [
                "bird",
                "fish",
                "wind",
                "red",
                "blue",
                "green",
                "gold",
                "run",
                "walk",
                "sing",
                "read",
                "queen",
                "lord",
            ]
        )
    },
}
NOTHING = 5
DOCUMENTS, LENGTH, ROW = 120, 320, 32


def planted_run(folder: Path, seed: int = 0) -> Run:
    rng = np.random.default_rng(seed)
    run = Run.create(
        str(folder), RunSettings(subject="none", site="resid_post.0", corpus="planted", seed=seed)
    )
    _capture(run, rng)
    tokens = Tokens(run.folder("capture"))
    corpus = Annotations.from_tokens(tokens)
    work = run.begin("train", 1, {}, ["capture"])
    write_array(work.folder / "directions.npy", rng.normal(size=(len(TRUTH), 8)).astype(np.float32))
    work.commit({})
    _index(run, tokens, [_activations(text, corpus, rng) for text in TRUTH.values()])
    work = run.begin("effects", 1, {"clamp": 2.0}, ["train"])
    work.commit({})
    return run


def _capture(run: Run, rng: np.random.Generator) -> None:
    work = run.begin("capture", 1, {}, [])
    n = DOCUMENTS * LENGTH
    ids = rng.integers(0, len(VOCABULARY), n)
    sizes = np.array([len(t) for t in VOCABULARY])[ids].reshape(DOCUMENTS, LENGTH)
    ends = sizes.cumsum(1)
    texts = ["".join(VOCABULARY[i] for i in part) for part in ids.reshape(DOCUMENTS, LENGTH)]
    tables = {
        "ids": ids.astype(np.uint16), "starts": (ends - sizes).ravel().astype(np.uint32), "ends": ends.ravel().astype(np.uint32),
        "row_offsets": np.arange(0, n + 1, ROW), "row_document": np.repeat(np.arange(DOCUMENTS), LENGTH // ROW),
        "document_offsets": np.arange(DOCUMENTS + 1) * LENGTH, "split": np.array([0, 0, 0, 1, 2] * (DOCUMENTS // 5), np.uint8),
        "copied": np.zeros(n, bool), "counted": np.ones(n, bool), "text_offsets": np.r_[0, np.cumsum([len(t.encode()) for t in texts])],
    }  # fmt: skip
    for name, array in tables.items():
        write_array(work.folder / f"{name}.npy", array)
    (work.folder / "text.txt").write_text("".join(texts), encoding="utf-8", newline="")
    write_json(
        work.folder / "documents.json",
        [f"{i}-{SPLITS[tables['split'][i]]}" for i in range(DOCUMENTS)],
    )
    write_json(work.folder / "vocabulary.json", VOCABULARY)
    write_layout(work.folder, Layout(True, "float32", 1, [0, n]))
    work.commit({})


def _activations(text: str, corpus: Annotations, rng: np.random.Generator) -> np.ndarray:
    n = len(corpus)
    where = (
        rules.predict(rules.parse(text), corpus, np.arange(n)) > 0 if text else rng.random(n) < 0.02
    )
    where &= rng.random(n) < 0.95
    where |= rng.random(n) < 0.001
    return np.where(where, rng.uniform(0.5, 2.0, n), 0.0).astype(np.float32)


def _index(run: Run, tokens: Tokens, activations: list[np.ndarray]) -> None:
    work = run.begin("index", 1, {}, ["capture", "train"])
    firing = [np.flatnonzero(a) for a in activations]
    write_array(work.folder / "offsets-00000.npy", np.r_[0, np.cumsum([len(f) for f in firing])])
    write_array(work.folder / "positions-00000.npy", np.concatenate(firing).astype(np.uint32))
    write_array(
        work.folder / "firings-00000.npy",
        np.concatenate([a[f] for a, f in zip(activations, firing, strict=True)]),
    )
    ids = np.asarray(tokens.ids)
    write_array(
        work.folder / "token_offsets.npy",
        np.r_[0, np.cumsum(np.bincount(ids, minlength=len(VOCABULARY)))],
    )
    write_array(
        work.folder / "token_ordinals.npy", np.argsort(ids, kind="stable").astype(np.uint32)
    )
    work.commit({})
