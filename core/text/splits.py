"""What a capture keeps of its documents: tokens with character offsets, rows, splits, copies.

A document's split is decided by the hash of its normalised text, shares 60 / 10 / 30. Documents that share over half of the smaller
one's 32-token shingles form a group and share a split, decided by the smallest hash in the group. A token is *copied* when the
32-token window around it also stands in an train document: scores leave such windows out.
"""

from __future__ import annotations

import numpy as np

from core.records import SPLITS

SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}
SHINGLE = 32  # tokens


# ---------------------------------------------------------------- splits and copies


def shingle_hashes(tokens: np.ndarray, size: int = SHINGLE) -> np.ndarray:
    """Hashes uint64 (n - size + 1,) of all runs of `size` tokens; empty when there are fewer."""
    if len(tokens) < size:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(len(tokens) - size + 1, np.uint64)
    for offset in range(size):
        hashes *= np.uint64(6364136223846793005)
        hashes += tokens[offset : offset + len(hashes)].astype(np.uint64) + np.uint64(
            1442695040888963407
        )
    return hashes ^ (hashes >> np.uint64(29))


def distinct(ordered: np.ndarray) -> np.ndarray:
    """The values of a sorted array, each once: `np.unique` puts them in a table first, which takes ten times as long."""
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def repeated(hashes: list[np.ndarray]) -> np.ndarray:
    """The distinct values that stand in `hashes` more than once, sorted. They are few, so that looking others up among them is quick."""
    ordered = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    return distinct(ordered[1:][ordered[1:] == ordered[:-1]])


def is_among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool, of the shape of `values`: the value is one of `known`, which is sorted."""
    return (
        known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
        if len(known)
        else np.zeros(values.shape, bool)
    )


def near_duplicate_groups(documents: list[np.ndarray]) -> np.ndarray:
    """A group number for each document (list of token arrays): two that share over half of the smaller one's distinct shingles
    are in one group. Every shingle is counted, not a sketch of them; among more than 21 documents that carry one, each counts it with
    the 20 that follow, so a large family of near copies is linked along a chain."""
    sets = [distinct(np.sort(shingle_hashes(d))) for d in documents]
    sizes = np.array([len(s) for s in sets], dtype=np.int64)
    owner = np.repeat(np.arange(len(documents)), sizes)
    shingle, several = np.concatenate([*sets, np.zeros(0, np.uint64)]), repeated(sets)
    in_several = is_among(shingle, several)
    shingle, owner = shingle[in_several], owner[in_several]
    order = np.argsort(shingle, kind="stable")  # owners ascend already
    shingle, owner = shingle[order], owner[order]
    shared: dict[tuple[int, int], int] = {}
    for start, end in zip(
        *(np.searchsorted(shingle, several, side) for side in ("left", "right")), strict=True
    ):
        members = owner[start:end].tolist()
        for i, a in enumerate(
            members
        ):  # with its next 20 only: a shingle that 1,000 documents carry (a licence) has 500,000 pairs
            for b in members[i + 1 : i + 21]:
                shared[(a, b)] = shared.get((a, b), 0) + 1
    parent = np.arange(len(documents))

    def root(i):
        while parent[i] != i:
            i = parent[i]
        return i

    for (a, b), count in shared.items():
        if 2 * count > min(sizes[a], sizes[b]):
            parent[max(root(a), root(b))] = min(root(a), root(b))
    return np.array([root(i) for i in range(len(documents))], dtype=np.int64)


def assign_splits(hashes: list[str], groups: np.ndarray) -> np.ndarray:
    """The split of each document as an index into SPLITS, from the smallest text hash of its group."""
    smallest: dict[int, str] = {}
    for value, group in zip(hashes, groups.tolist(), strict=True):
        smallest[group] = min(value, smallest.get(group, value))
    bounds = np.cumsum([SHARES[s] for s in SPLITS])
    place = np.array([int(smallest[g][:12], 16) / 16**12 for g in groups.tolist()])
    return np.minimum(np.searchsorted(bounds, place, side="right"), len(SPLITS) - 1).astype(
        np.uint8
    )


def copied_tokens(documents: list[np.ndarray], splits: np.ndarray) -> np.ndarray:
    """bool (n,), in document order: the 32-token window around the token also stands in an train document.

    Always False inside train. The window is clipped to the document, so that it always has 32 tokens where the document has.
    """
    hashes, is_train = [shingle_hashes(d) for d in documents], splits == SPLITS.index("train")
    train = [h for h, known in zip(hashes, is_train, strict=True) if known]
    copies = repeated(hashes)
    copies = copies[is_among(copies, np.sort(np.concatenate(train)))] if train else copies[:0]
    out = []
    for tokens, own, known in zip(documents, hashes, is_train, strict=True):
        flags = np.zeros(len(tokens), bool)
        if not known and len(own):
            seen = is_among(own, copies)
            flags = seen[np.clip(np.arange(len(tokens)) - SHINGLE // 2, 0, len(own) - 1)]
        out.append(flags)
    return np.concatenate(out) if out else np.zeros(0, bool)


# ---------------------------------------------------------------- the tables on disk
