"""Assign documents to splits, and find near duplicates and copied tokens.

The hash of its normalised text decides the split of a document; the shares are 60 / 10 / 30.
Documents that share over half of the smaller one's 32-token shingles form a group and share a
split, which the smallest hash in the group decides; large groups are cut where they are chains. A
token is *copied* when the 32-token window around it also stands in a train document; scores leave
such tokens out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from core.records import SPLITS
from core.text.spools import HashSpool

SHARES = {"train": 0.6, "val": 0.1, "test": 0.3}
SHINGLE = 32  # tokens
LINKS = 20  # documents with the same shingle that each of them is compared with
COMMON = 0.25  # share of the documents from which a shingle is common text, such as a system prompt
LARGE = 0.05  # share of the documents from which a group is looked through for chains
OWN = 32  # tokens outside common text from which a document is compared by those alone
_TRAIN = 2**32 - 1  # stands for the place of a shingle of a train document


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


def is_among(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """bool, of the shape of `values`: the value is one of `known`, which must be sorted."""
    if not len(known):
        return np.zeros(values.shape, bool)
    matches: np.ndarray = (
        known[np.minimum(np.searchsorted(known, values), len(known) - 1)] == values
    )
    return matches


def group_near_duplicates(
    documents: Sequence[np.ndarray], folder: Path | None = None
) -> np.ndarray:
    """A group number (documents,) for each document, given as an array of tokens.

    Two documents that share over half of the smaller one's distinct shingles are in one group.
    Every shingle counts, not a sketch of them, but text that over a quarter of the documents (and
    over 20 of them) has does not count in a document that has text of its own. When more than 21
    documents have a shingle, each is compared with the 20 that follow it, so many near copies are
    linked as a chain. A group of over a share LARGE of the documents is cut where it is a chain of
    documents that are not near copies of one another. The shingles lie in a temporary file of
    `folder`, 12 bytes a token.
    """
    n = len(documents)
    spool, sizes = HashSpool(sum(len(d) for d in documents), folder), np.zeros(n, np.int64)
    for number, document in enumerate(documents):
        own = drop_repeats(np.sort(shingle_hashes(document)))
        sizes[number] = len(own)
        spool.add(own, number)
    common = _find_common(spool, n)
    free = _have_text_of_their_own(documents, common)
    pairs, shared = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for hashes, owners in spool.parts():
        if len(common):
            dropped = is_among(hashes, common) & free[owners]
            sizes -= np.bincount(owners[dropped], minlength=n)
            hashes, owners = hashes[~dropped], owners[~dropped]
        pairs, shared = _add_counts((pairs, shared), _count_pairs(hashes, owners, n))
    first, second = np.divmod(pairs, max(1, n))
    near = 2 * shared > np.minimum(sizes[first], sizes[second])
    groups = _join(first[near], second[near], n)

    def shingles_of(number: int) -> np.ndarray:
        own = drop_repeats(np.sort(shingle_hashes(documents[number])))
        return own[~is_among(own, common)] if free[number] else own

    for group in np.flatnonzero(np.bincount(groups) > max(LINKS, LARGE * n)).tolist():
        members = np.flatnonzero(groups == group)
        longest = members[np.argsort(-sizes[members], kind="stable")]
        groups[longest] = _cut_chain(longest.tolist(), shingles_of)
    return groups


def _cut_chain(members: list[int], shingles_of: Callable[[int], np.ndarray]) -> list[int]:
    """The group of each of `members`: a document that it is a near copy of, or itself.

    From the first on, the longest, each joins the one that it shares most with among those that
    stand for a group, where that is over half of the smaller one's shingles, and else stands for a
    group of its own. Only the shingles of those that stand for a group are held.
    """
    holders: dict[int, list[int]] = {}  # shingle -> the documents that stand for groups and have it
    groups: list[int] = []
    for document in members:
        shingles = shingles_of(document).tolist()
        shared = Counter(first for shingle in shingles for first in holders.get(shingle, ()))
        first, count = max(shared.items(), key=lambda item: (item[1], -item[0]), default=(0, 0))
        if 2 * count > len(shingles):  # the others are no shorter
            groups.append(first)
            continue
        groups.append(document)
        for shingle in shingles:
            holders.setdefault(shingle, []).append(document)
    return groups


def _find_common(spool: HashSpool, n_documents: int) -> np.ndarray:
    """The shingles, sorted, that over a share COMMON of the documents and LINKS of them have.

    The spool holds the distinct shingles of each document.
    """
    least = int(max(LINKS, COMMON * n_documents)) + 1
    if n_documents < least:
        return np.zeros(0, np.uint64)
    found = [np.zeros(0, np.uint64)]
    for hashes, _ in spool.parts():
        far = hashes[least - 1 :]
        found.append(drop_repeats(far[far == hashes[: len(far)]]))
    return np.concatenate(found)  # the parts ascend


def _have_text_of_their_own(documents: Sequence[np.ndarray], common: np.ndarray) -> np.ndarray:
    """bool (documents,): OWN tokens or more lie outside the common shingles."""
    free = np.zeros(len(documents), bool)
    if not len(common):
        return free
    for number, document in enumerate(documents):
        places = np.flatnonzero(is_among(shingle_hashes(document), common))
        covered = np.zeros(len(document) + 1, np.int64)  # a difference array
        np.add.at(covered, places, 1)
        np.add.at(covered, places + SHINGLE, -1)
        free[number] = (np.cumsum(covered)[:-1] == 0).sum() >= OWN
    return free


Counts = tuple[np.ndarray, np.ndarray]  # (values ascending, how often each), int64


def _count_pairs(hashes: np.ndarray, owners: np.ndarray, n: int) -> Counts:
    """How many shingles pairs of documents share: pairs are first * n + second, ascending.

    `hashes` are sorted, the `owners` of equal ones ascend. A licence in 1,000 documents would make
    500,000 pairs, so each document is paired with the LINKS that follow it.
    """
    counts = np.zeros(0, np.int64), np.zeros(0, np.int64)
    for lag in range(1, LINKS + 1):
        same = np.flatnonzero(hashes[lag:] == hashes[:-lag])
        if not len(same):
            break
        pairs = owners[same].astype(np.int64) * n + owners[same + lag]
        counts = _add_counts(counts, np.unique(pairs, return_counts=True))
    return counts


def _add_counts(one: Counts, other: Counts) -> Counts:
    """The counts of both."""
    if not len(one[0]) or not len(other[0]):
        return one if len(one[0]) else other
    values, counts = (np.concatenate(both) for both in zip(one, other, strict=True))
    order = np.argsort(values, kind="stable")
    values, counts = values[order], counts[order]
    starts = np.flatnonzero(np.r_[True, values[1:] != values[:-1]])
    return values[starts], np.add.reduceat(counts, starts)


def _join(first: np.ndarray, second: np.ndarray, n: int) -> np.ndarray:
    """The smallest document (n,) that each of n documents is linked to, by pairs or chains."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    links = coo_array((np.ones(len(first), bool), (first, second)), shape=(n, n))
    n_groups, of_document = connected_components(links, directed=False) if n else (0, first)
    smallest = np.full(n_groups, n, np.int64)
    np.minimum.at(smallest, of_document, np.arange(n))
    groups: np.ndarray = smallest[of_document]
    return groups


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


def mark_copied_tokens(
    documents: Sequence[np.ndarray],
    splits: np.ndarray,
    flags: np.ndarray,
    folder: Path | None = None,
) -> None:
    """Set `flags` (n,) of the tokens around which a 32-token window stands in a train document.

    The tokens are in document order; `flags` must be False, and stay so inside train. The window is
    clipped to the document, so that it has 32 tokens wherever the document has. The shingles lie in
    a temporary file of `folder`, 12 bytes a token.
    """
    spool, is_train = HashSpool(len(flags), folder), splits == SPLITS.index("train")
    starts = np.r_[0, np.cumsum([len(d) for d in documents])].astype(np.int64)
    for document, known, start in zip(documents, is_train, starts[:-1], strict=True):
        own = shingle_hashes(document)
        if known:
            spool.add(drop_repeats(np.sort(own)), _TRAIN)
        else:
            spool.add(own, np.arange(start, start + len(own)))
    for hashes, places in spool.parts():
        held_out = places != _TRAIN
        copies = is_among(hashes[held_out], drop_repeats(hashes[~held_out]))
        flags[places[held_out][copies]] = True  # where a window begins that is copied
    for known, start, end in zip(is_train, starts[:-1], starts[1:], strict=True):
        if not known and end - start >= SHINGLE:
            begins = np.arange(end - start) - SHINGLE // 2
            flags[start:end] = flags[start + np.clip(begins, 0, end - start - SHINGLE)]
