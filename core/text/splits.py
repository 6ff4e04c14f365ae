"""Assign documents to splits, and find near duplicates and copied tokens.

The hash of its normalised text decides the split of a document; the shares are 60 / 10 / 30.
Documents that share over half of the smaller one's 32-token shingles form a group and share a
split, which the smallest hash in the group decides; large groups are cut where they are chains. A
token is *copied* when the 32-token window around it also stands in a train document; scores leave
such tokens out.
"""

from __future__ import annotations

from collections import Counter

import numpy as np

from core.records import SPLITS

SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}
SHINGLE = 32  # tokens
LINKS = 20  # documents with the same shingle that each of them is compared with
COMMON = 0.25  # share of the documents from which a shingle is common text, such as a system prompt
LARGE = 0.05  # share of the documents from which a group is looked through for chains
OWN = 32  # tokens outside common text from which a document is compared by those alone


def shingle_hashes(tokens: np.ndarray, size: int = SHINGLE) -> np.ndarray:
    """Hashes uint64 (n - size + 1,) of all runs of `size` tokens; empty for fewer tokens."""
    if len(tokens) < size:
        return np.zeros(0, np.uint64)
    hashes = np.zeros(len(tokens) - size + 1, np.uint64)
    for offset in range(size):
        hashes *= np.uint64(6364136223846793005)
        hashes += tokens[offset : offset + len(hashes)].astype(np.uint64) + np.uint64(
            1442695040888963407
        )
    return hashes ^ (hashes >> np.uint64(29))


def drop_repeats(ordered: np.ndarray) -> np.ndarray:
    """The values of a sorted array, each once; ten times as fast as `np.unique`, which hashes."""
    return ordered[np.r_[True, ordered[1:] != ordered[:-1]]] if len(ordered) else ordered


def find_repeats(hashes: list[np.ndarray]) -> np.ndarray:
    """The values that stand in `hashes` more than once, each once and sorted.

    They are few, so looking other values up among them is quick.
    """
    ordered = np.sort(np.concatenate(hashes)) if hashes else np.zeros(0, np.uint64)
    return drop_repeats(ordered[1:][ordered[1:] == ordered[:-1]])


def is_among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool, of the shape of `values`: the value is one of `known`, which must be sorted."""
    if not len(known):
        return np.zeros(values.shape, bool)
    matches: np.ndarray = (
        known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    )
    return matches


def group_near_duplicates(documents: list[np.ndarray]) -> np.ndarray:
    """A group number (documents,) for each document, given as an array of tokens.

    Two documents that share over half of the smaller one's distinct shingles are in one group.
    Every shingle counts, not a sketch of them, but text that over a quarter of the documents (and
    over 20 of them) has does not count in a document that has text of its own. When more than 21
    documents have a shingle, each is compared with the 20 that follow it, so many near copies are
    linked as a chain. A group of over a share LARGE of the documents is cut where it is a chain of
    documents that are not near copies of one another.
    """
    sets = _distinct_shingles(documents)
    sizes = np.array([len(s) for s in sets], dtype=np.int64)
    parent = np.arange(len(documents))

    def find_root(i: int) -> int:
        while parent[i] != i:
            i = int(parent[i])
        return i

    for (a, b), count in _count_shared_shingles(sets, sizes).items():
        if 2 * count > min(sizes[a], sizes[b]):
            roots = find_root(a), find_root(b)
            parent[max(roots)] = min(roots)
    groups = np.array([find_root(i) for i in range(len(documents))], dtype=np.int64)
    for group in np.flatnonzero(np.bincount(groups) > max(LINKS, LARGE * len(groups))).tolist():
        members = np.flatnonzero(groups == group)
        groups[members] = _cut_chain(members.tolist(), sets)
    return groups


def _cut_chain(members: list[int], sets: list[np.ndarray]) -> list[int]:
    """The group of each of `members`: a document that it is a near copy of, or itself.

    From the longest document on, each joins the one that it shares most with among those that
    stand for a group, where that is over half of the smaller one's shingles, and else stands for a
    group of its own.
    """
    holders: dict[int, list[int]] = {}  # shingle -> the documents that stand for groups and have it
    group: dict[int, int] = {}
    for document in sorted(members, key=lambda i: (-len(sets[i]), i)):
        shingles = sets[document].tolist()
        shared = Counter(first for shingle in shingles for first in holders.get(shingle, ()))
        first, count = max(shared.items(), key=lambda item: (item[1], -item[0]), default=(0, 0))
        if 2 * count > len(shingles):  # the others are no shorter
            group[document] = first
            continue
        group[document] = document
        for shingle in shingles:
            holders.setdefault(shingle, []).append(document)
    return [group[i] for i in members]


def _distinct_shingles(documents: list[np.ndarray]) -> list[np.ndarray]:
    """The distinct shingles of each document, without common ones where it has text of its own."""
    hashes = [shingle_hashes(d) for d in documents]
    sets = [drop_repeats(np.sort(h)) for h in hashes]
    common = _find_common(sets)
    if not len(common):
        return sets
    out = []
    for document, own, distinct in zip(documents, hashes, sets, strict=True):
        covered = np.zeros(len(document) + 1, np.int64)  # by common shingles: a difference array
        places = np.flatnonzero(is_among(own, common))
        np.add.at(covered, places, 1)
        np.add.at(covered, places + SHINGLE, -1)
        free = int((np.cumsum(covered)[:-1] == 0).sum())
        out.append(distinct[~is_among(distinct, common)] if free >= OWN else distinct)
    return out


def _find_common(sets: list[np.ndarray]) -> np.ndarray:
    """The shingles, sorted, that over a share COMMON of the documents and LINKS of them have."""
    least = int(max(LINKS, COMMON * len(sets))) + 1
    if len(sets) < least:
        return np.zeros(0, np.uint64)
    ordered = np.sort(np.concatenate(sets))
    if len(ordered) < least:
        return np.zeros(0, np.uint64)
    return drop_repeats(ordered[least - 1 :][ordered[least - 1 :] == ordered[: 1 - least]])


def _count_shared_shingles(sets: list[np.ndarray], sizes: np.ndarray) -> dict[tuple[int, int], int]:
    """How many shingles each pair of documents shares; `sets` are the shingles of each document."""
    owner = np.repeat(np.arange(len(sets)), sizes)
    shingle, several = np.concatenate([*sets, np.zeros(0, np.uint64)]), find_repeats(sets)
    in_several = is_among(shingle, several)
    shingle, owner = shingle[in_several], owner[in_several]
    order = np.argsort(shingle, kind="stable")  # owners ascend already
    shingle, owner = shingle[order], owner[order]
    shared: dict[tuple[int, int], int] = {}
    starts = np.searchsorted(shingle, several, "left")
    ends = np.searchsorted(shingle, several, "right")
    for start, end in zip(starts, ends, strict=True):
        members = owner[start:end].tolist()
        for i, a in enumerate(members):  # a licence in 1,000 documents would have 500,000 pairs
            for b in members[i + 1 : i + 1 + LINKS]:
                shared[(a, b)] = shared.get((a, b), 0) + 1
    return shared


def assign_splits(hashes: list[str], groups: np.ndarray) -> np.ndarray:
    """The split (documents,) of each document as an index into SPLITS.

    The smallest text hash of its group decides it.
    """
    smallest: dict[int, str] = {}
    for value, group in zip(hashes, groups.tolist(), strict=True):
        smallest[group] = min(value, smallest.get(group, value))
    bounds = np.cumsum([SHARES[s] for s in SPLITS])
    place = np.array([int(smallest[g][:12], 16) / 16**12 for g in groups.tolist()])
    return np.minimum(np.searchsorted(bounds, place, side="right"), len(SPLITS) - 1).astype(
        np.uint8
    )


def mark_copied_tokens(documents: list[np.ndarray], splits: np.ndarray) -> np.ndarray:
    """bool (n,), in document order: the 32-token window around it stands in a train document.

    Always False inside train. The window is clipped to the document, so that it has 32 tokens
    wherever the document has.
    """
    hashes, is_train = [shingle_hashes(d) for d in documents], splits == SPLITS.index("train")
    train = [h for h, known in zip(hashes, is_train, strict=True) if known]
    copies = find_repeats(hashes)
    copies = copies[is_among(copies, np.sort(np.concatenate(train)))] if train else copies[:0]
    out = []
    for tokens, own, known in zip(documents, hashes, is_train, strict=True):
        flags = np.zeros(len(tokens), bool)
        if not known and len(own):
            seen = is_among(own, copies)
            flags = seen[np.clip(np.arange(len(tokens)) - SHINGLE // 2, 0, len(own) - 1)]
        out.append(flags)
    return np.concatenate(out) if out else np.zeros(0, bool)
