"""Stage `relate`: pairwise relations of features: duplicates, probable splitting, absorption.

    duplicate    the SAE learned one direction twice: cosine above 0.98
    splitting    two near directions fire on the same tokens but hardly ever on the same occasion:
                 the overlap of their tokens is at least 0.5, and the rarer one shares at most a
                 tenth of its firings
    absorption   `other` fires where the label of `feature` predicts a firing but `feature` is
                 silent (Chanin et al. 2024, arXiv 2409.14507): `other` covers at least a fifth of
                 the tokens that the label predicts and the feature misses, at least four fifths of
                 the firings of `other` lie where the label predicts, and the directions are nearer
                 than chance

Labels are compared with firings on documents of the test split, which the labeller never saw. Only
labels in the language of rules say where a feature should fire. A relation is probable, not proven:
only a clamp shows that the direction of the parent is contained in the child.

The file is relations.parquet (see `unit`). `strength` is the cosine of duplicates, the overlap of
tokens in splitting, and the share of misses that are covered in absorption. Pairs within a family
come first: there near directions are near for a reason that has a name. `phi` and `shared`
(tokens on which both fire) are exact, over all tokens; `misses` counts the tokens that the label
predicts and the feature misses.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from autointerp.clusters import unit
from autointerp.clusters.coactivation import count_together, tables_at
from autointerp.clusters.geometry import chance_cosine, unit_rows
from autointerp.clusters.similarity import strongest_tokens
from autointerp.labels.unit import read_labels
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations, TokenColumns, annotate
from autointerp.settings import RelateSettings
from core.firings.postings import Postings
from core.progress import progress
from core.run import Run
from core.text.tokens import Tokens, sample_tokens
from core.training.unit import read_directions

SAMPLED = 100_000  # tokens of the test split, at most, on which labels are compared with firings
# Splitting: overlap of tokens at least, share of the rarer one's firings at most.
SIMILAR, SHARED = 0.5, 0.1
# Absorption: share of the misses, share of the child's firings, number of misses, at least.
COVERED, WITHIN, MISSES = 0.2, 0.8, 20

Relation = tuple[str, int, int, float, int]  # (kind, feature, other, strength, misses)


def relate(run: Run, settings: RelateSettings, folder: Path) -> dict:
    """Write the file of the unit `relate` into `folder`; returns the summary."""
    capture = run.folder("capture")
    tokens, postings = Tokens(capture), Postings(run.folder("index"), capture)
    directions = unit_rows(read_directions(run, mapped=False))
    labels = read_labels(run, settings.labels)
    relations: list[Relation] = [
        ("duplicate", a, b, cosine, 0) for a, b, cosine in unit.read_duplicates(run)
    ]
    relations += find_splitting(run, postings, tokens)
    ordinals = sample_tokens(tokens, "test", SAMPLED, run.settings.seed)
    absorbed, n_read = find_absorption(postings, tokens, labels, directions, ordinals)
    table = tabulate(relations + absorbed, postings, directions, family_of(run, len(directions)))
    unit.write_relations(folder, table)
    counts = table["kind"].value_counts()
    summary = {kind: int(counts.get(kind, 0)) for kind in ("duplicate", "splitting", "absorption")}
    within = int((table["family"] >= 0).sum())
    return summary | {"within_families": within, "labels_read": n_read, "labels": len(labels)}


def family_of(run: Run, n_features: int) -> np.ndarray:
    """(F,) the family of every feature, -1 for none."""
    family, table = np.full(n_features, -1), unit.read_clusters(run)
    if table is not None:
        family[table["feature"]] = table["family"]
    return family


def tabulate(
    relations: list[Relation], postings: Postings, directions: np.ndarray, family: np.ndarray
) -> pd.DataFrame:
    """The table of relations with exact counts of each pair.

    Of each kind, pairs within one family (`family` (F,), -1 for none) come first, and of each part
    the strongest.
    """

    def shared(a: int, b: int) -> int:
        return int(family[a]) if family[a] == family[b] else -1

    def order(relation: Relation) -> tuple:
        kind, a, b, strength, _ = relation
        return kind, shared(a, b) < 0, -strength, a, b

    rows = []
    for kind, a, b, strength, misses in sorted(relations, key=order):
        pair = count_together(postings, a, b)
        cosine = round(float(directions[a] @ directions[b]), 5)
        counts = (pair["n_ab"], pair["n_a"], pair["n_b"], misses, shared(a, b))
        rows.append((kind, a, b, round(float(strength), 5), cosine, round(pair["phi"], 5), *counts))
    return pd.DataFrame(rows, columns=unit.RELATION_COLUMNS)


def find_splitting(run: Run, postings: Postings, tokens: Tokens) -> list[Relation]:
    """Near pairs of directions whose firings share tokens but not occasions."""
    pairs, features = list_near_pairs(run)
    if not len(pairs):
        return []
    place = np.full(postings.n_features, -1)
    place[features] = np.arange(len(features))
    strongest = strongest_tokens(postings, tokens, features)
    products = strongest[place[pairs[:, 0]]].multiply(strongest[place[pairs[:, 1]]])
    overlap = np.asarray(products.sum(1)).ravel()
    similar = overlap >= SIMILAR
    relations: list[Relation] = []
    for (a, b), strength in zip(pairs[similar].tolist(), overlap[similar].tolist(), strict=True):
        pair = count_together(postings, a, b)
        if max(pair["of_a"], pair["of_b"]) <= SHARED:
            relations.append(("splitting", a, b, strength, 0))
    return relations


def list_near_pairs(run: Run) -> tuple[np.ndarray, np.ndarray]:
    """(pairs (n, 2) of features whose directions are nearer than chance, features (m,) looked at).

    Isolated and dead features are left out.
    """
    table, neighbours = unit.read_clusters(run), unit.read_neighbours(run)
    assert table is not None
    assert neighbours is not None
    features = table.loc[table["status"].isin(["alive", "dense"]), "feature"].to_numpy()
    near, cosines = np.array(neighbours.feature)[features], np.array(neighbours.cosine)[features]
    n_alive = int((table["status"] != "dead").sum())
    width = read_directions(run).shape[1]
    known = np.zeros(len(table), bool)
    known[features] = True
    allowed = (near >= 0) & (cosines > chance_cosine(n_alive, width)) & known[near]
    row, column = np.nonzero(allowed)
    pairs = np.sort(np.c_[features[row], near[row, column]], axis=1)
    return (np.unique(pairs, axis=0) if len(pairs) else pairs), features


# ------------------------------------------------------------ absorption


def find_absorption(
    postings: Postings,
    tokens: Tokens,
    labels: pd.DataFrame,
    directions: np.ndarray,
    ordinals: np.ndarray,
) -> tuple[list[Relation], int]:
    """(relations, number of labels that could be read); `feature` is the parent, `other` the child.

    `strength` is the share of the parent's misses that the child covers.
    """
    from scipy.sparse import csr_matrix, vstack

    annotations = annotate_sample(tokens, ordinals)
    readable = [
        (int(f), rule)
        for f, text in zip(labels["feature"], labels["text"], strict=True)
        if text != rules.UNCLEAR and (rule := rules.read_rule(text)) is not None
    ]
    if not readable or not len(ordinals):
        return [], len(readable)
    parents = np.array([feature for feature, _ in readable])
    everywhere = np.arange(len(ordinals))
    where = [
        np.flatnonzero(rules.predict(rule, annotations, everywhere) > 0)
        for _, rule in progress(readable, "relate", unit="feat")
    ]
    offsets = np.r_[0, np.cumsum([len(w) for w in where])]
    predicted = csr_matrix(
        (np.ones(offsets[-1], np.float32), np.concatenate(where), offsets),
        shape=(len(parents), len(ordinals)),
    )
    fires = vstack(tables_at(postings, ordinals)).tocsr()  # (tokens, F)
    return find_children(predicted, fires, parents, directions), len(readable)


def find_children(
    predicted: Any, fires: Any, parents: np.ndarray, directions: np.ndarray
) -> list[Relation]:
    """Absorption from sparse tables of ones: predicted (parents, tokens) and fires (tokens, F)."""
    # Where the label predicts a firing and the parent is silent.
    missed = predicted - predicted.multiply(fires[:, parents].T)
    covered = (missed @ fires).toarray()  # (parents, F) tokens
    inside = (predicted @ fires).toarray()
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


def annotate_sample(tokens: Tokens, ordinals: np.ndarray) -> Annotations:
    """The annotations of ascending ordinals.

    The ordinals are whole documents; only the last one may be cut at its end.
    """
    documents = np.unique(tokens.document_of(ordinals))
    begins = tokens.document_offsets[documents].astype(np.int64)
    sizes = np.diff(np.r_[np.searchsorted(ordinals, begins), len(ordinals)])
    firsts = np.r_[0, np.cumsum(sizes)]
    offsets = np.asarray(tokens.row_offsets)
    row_starts = np.searchsorted(ordinals, offsets[np.isin(offsets, ordinals)])
    rows = np.unique(np.r_[row_starts, len(ordinals)])
    texts = [
        (tokens.text(int(d)), slice(int(a), int(b)))
        for d, a, b in zip(documents, firsts[:-1], firsts[1:], strict=True)
    ]
    ids, starts, ends = (
        np.asarray(column)[ordinals] for column in (tokens.ids, tokens.starts, tokens.ends)
    )
    columns = TokenColumns(tokens.vocabulary, ids, starts, ends, rows)
    return annotate(columns, texts, tokens.word_tree)
