"""Stage `relate`: pairs of features that belong together in another sense than a group: duplicates, probable splitting, probable absorption.

    duplicate    one direction learned twice: cosine above 0.98
    splitting    two near directions that fire on the same tokens but hardly ever on the same occasion: overlap of the tokens at least 0.5, and the
                 rarer one shares at most a tenth of its firings
    absorption   `feature` is silent exactly where `other`, a feature that fires where the label of `feature` says it should, takes over
                 (Chanin et al. 2024, arXiv 2409.14507): `other` covers at least a fifth of the tokens that the label of `feature` predicts and that it
                 misses, four fifths of the firings of `other` lie where that label predicts, and the directions are nearer than chance

Labels are held against firings on documents of the test split, which the labeller never saw. A pair is probable, not proven: only a clamp shows that the
direction of the parent is contained in the child. Only labels in the language of rules say by themselves where a feature should fire.

File: relations.parquet with kind, feature, other, strength (cosine; overlap of tokens; share of the misses that are covered), cosine, phi (exact, over all
tokens), shared (tokens on which both fire), n_feature, n_other, misses (absorption: tokens that the label predicts and the feature misses).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from autointerp.clusters.coactivation import count_together, tables_at
from autointerp.clusters.geometry import chance_cosine, unit_rows
from autointerp.clusters.similarity import strongest_tokens
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations, build_corpus
from autointerp.settings import RelateSettings
from core.errors import UsageError
from core.files import read_array, read_json, write_table
from core.firings.postings import Postings
from core.progress import progress
from core.records import Manifest
from core.run import Run
from core.text.tokens import Tokens, sample_tokens

UNIT, VERSION = "relate", 1
ALIKE, APART = (
    0.5,
    0.1,
)  # splitting: overlap of tokens at least, share of the rarer one's firings at most
COVERED, WITHIN, MISSES = (
    0.2,
    0.8,
    20,
)  # absorption: share of the misses, share of the child's firings, misses at least
COLUMNS = [
    "kind",
    "feature",
    "other",
    "strength",
    "cosine",
    "phi",
    "shared",
    "n_feature",
    "n_other",
    "misses",
]


def relate(run: Run, settings: RelateSettings, redo: bool = False) -> Manifest:
    """Make the unit `relate`."""
    if settings.tokens < 1:
        raise UsageError(f"tokens is {settings.tokens}.", "Use at least 1: --tokens 100000.")
    work = run.begin(UNIT, VERSION, settings, ["cluster", f"label/{settings.set}"], redo)
    if work is None:
        return run.manifest(UNIT)
    capture, folder = run.folder("capture"), run.folder("cluster")
    tokens, postings = Tokens(capture), Postings(run.folder("index"), capture)
    directions = unit_rows(read_array(run.folder("train") / "directions.npy", mapped=False))
    labels = pd.read_parquet(run.folder(f"label/{settings.set}") / "labels.parquet")
    found = [
        ("duplicate", a, b, cosine, 0) for a, b, cosine in read_json(folder / "duplicates.json")
    ]
    found += splitting(postings, tokens, folder)
    absorbed, n_read = absorption(
        postings,
        tokens,
        labels,
        directions,
        sample_tokens(tokens, "test", settings.tokens, run.settings.seed),
    )
    table = described(found + absorbed, postings, directions)
    write_table(work.folder / "relations.parquet", table)
    counts = table["kind"].value_counts()
    return work.commit(
        {kind: int(counts.get(kind, 0)) for kind in ("duplicate", "splitting", "absorption")}
        | {"labels_read": n_read, "labels": len(labels)}
    )


def described(found: list[tuple], postings: Postings, directions: np.ndarray) -> pd.DataFrame:
    """The table of (kind, feature, other, strength, misses), strongest of each kind first, with exact counts of each pair."""
    rows = []
    for kind, a, b, strength, misses in sorted(found, key=lambda r: (r[0], -r[3], r[1], r[2])):
        pair = count_together(postings, a, b)
        cosine = round(float(directions[a] @ directions[b]), 5)
        rows.append(
            (
                kind,
                a,
                b,
                round(float(strength), 5),
                cosine,
                round(pair["phi"], 5),
                pair["n_ab"],
                pair["n_a"],
                pair["n_b"],
                misses,
            )
        )
    return pd.DataFrame(rows, columns=COLUMNS)


def splitting(postings: Postings, tokens: Tokens, folder: Path) -> list[tuple]:
    """Pairs among each feature's nearest directions, above chance, whose strongest firings stand on the same tokens and not on the same occasions."""
    table = pd.read_parquet(folder / "features.parquet")
    live = table.loc[table["status"].isin(["alive", "dense"]), "feature"].to_numpy()
    near, cosines = (
        read_array(folder / "neighbours.npy", mapped=False)[live],
        read_array(folder / "cosines.npy", mapped=False)[live],
    )
    place = np.full(len(table), -1)
    place[live] = np.arange(len(live))
    n_live = int((table["status"] != "dead").sum())
    allowed = (
        (near >= 0)
        & (
            cosines
            > chance_cosine(n_live, read_array(folder.parent / "train" / "directions.npy").shape[1])
        )
        & (place[near] >= 0)
    )
    row, column = np.nonzero(allowed)
    if not len(row):
        return []
    pairs = np.unique(np.sort(np.c_[live[row], near[row, column]], axis=1), axis=0)
    strongest = strongest_tokens(postings, tokens, live)
    overlap = np.asarray(
        strongest[place[pairs[:, 0]]].multiply(strongest[place[pairs[:, 1]]]).sum(1)
    ).ravel()
    found = []
    for (a, b), alike in zip(
        pairs[overlap >= ALIKE].tolist(), overlap[overlap >= ALIKE].tolist(), strict=True
    ):
        pair = count_together(postings, a, b)
        if max(pair["of_a"], pair["of_b"]) <= APART:
            found.append(("splitting", a, b, alike, 0))
    return found


# ------------------------------------------------------------ absorption


def absorption(
    postings: Postings,
    tokens: Tokens,
    labels: pd.DataFrame,
    directions: np.ndarray,
    ordinals: np.ndarray,
) -> tuple[list[tuple], int]:
    """([("absorption", parent, child, share of the parent's misses that the child covers, misses)], labels that could be read)."""
    from scipy.sparse import csr_matrix, vstack

    corpus = corpus_of(tokens, ordinals)
    readable = [
        (int(f), text)
        for f, text in zip(labels["feature"], labels["text"], strict=True)
        if text != rules.UNCLEAR and rules.is_rule(text)
    ]
    if not readable or not len(ordinals):
        return [], len(readable)
    parents = np.array([f for f, _ in readable])
    where = [
        np.flatnonzero(rules.predict(rules.parse(text), corpus, np.arange(len(ordinals))) > 0)
        for _, text in progress(readable, "relate", unit="feat")
    ]
    offsets = np.r_[0, np.cumsum([len(w) for w in where])]
    predicted = csr_matrix(
        (np.ones(offsets[-1], np.float32), np.concatenate(where), offsets),
        shape=(len(parents), len(ordinals)),
    )
    fires = vstack(tables_at(postings, ordinals)).tocsr()  # (tokens, F)
    return children(predicted, fires, parents, directions), len(readable)


def children(predicted, fires, parents: np.ndarray, directions: np.ndarray) -> list[tuple]:
    """Absorption from sparse tables of ones: predicted (parents, tokens) and fires (tokens, F)."""
    missed = predicted - predicted.multiply(
        fires[:, parents].T
    )  # the label says so, the parent is silent
    covered, inside = (
        (missed @ fires).toarray(),
        (predicted @ fires).toarray(),
    )  # (parents, F) tokens
    misses, firings = np.asarray(missed.sum(1)).ravel(), np.asarray(fires.sum(0)).ravel()
    cosine = directions[parents] @ directions.T
    near = cosine > chance_cosine(len(directions), directions.shape[1])
    near[np.arange(len(parents)), parents] = False
    absorbs = (
        near
        & (misses >= MISSES)[:, None]
        & (covered >= COVERED * misses[:, None])
        & (inside >= WITHIN * firings)
        & (firings > 0)
    )
    return [
        ("absorption", int(parents[p]), int(c), float(covered[p, c] / misses[p]), int(misses[p]))
        for p, c in zip(*np.nonzero(absorbs), strict=True)
    ]


def corpus_of(tokens: Tokens, ordinals: np.ndarray) -> Annotations:
    """The corpus of ascending ordinals that are whole documents, but for the last one drawn, which may be cut at its end."""
    documents = np.unique(tokens.document_of(ordinals))
    begins = tokens.document_offsets[documents].astype(np.int64)
    sizes = np.diff(np.r_[np.searchsorted(ordinals, begins), len(ordinals)])
    firsts = np.r_[0, np.cumsum(sizes)]
    row_starts = np.searchsorted(ordinals, tokens.row_offsets)
    rows = np.unique(np.r_[row_starts[np.isin(tokens.row_offsets, ordinals)], len(ordinals)])
    texts = [
        (tokens.text(int(d)), slice(int(a), int(b)))
        for d, a, b in zip(documents, firsts[:-1], firsts[1:], strict=True)
    ]
    part = lambda column: np.asarray(column)[ordinals]
    return build_corpus(
        tokens.vocabulary,
        part(tokens.ids),
        part(tokens.starts),
        part(tokens.ends),
        rows,
        texts,
        tokens.fields,
    )
