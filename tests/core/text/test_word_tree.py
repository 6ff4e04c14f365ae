"""The tree over words: it has the nodes of scipy's own tree, and planted kinds are nodes of it."""

import numpy as np
from scipy.cluster.hierarchy import linkage, to_tree

from core.text.word_tree import lexeme, read_word_tree, tree, word_tree, write_word_tree

KINDS = [["cat", "dog", "cow"], ["one", "two", "three", "four"], ["(", "[", "{"]]
TEXTS = [f" {w}" for kind in KINDS for w in kind] + ["cat", "one", "\n"]


def embeddings(rng: np.random.Generator) -> np.ndarray:
    middles = rng.normal(size=(len(KINDS) + 1, 300)) * 5
    kind_of = {w: k for k, kind in enumerate(KINDS) for w in kind}
    return np.array(
        [middles[kind_of.get(lexeme(t), len(KINDS))] + rng.normal(size=300) for t in TEXTS]
    )


def below(leaves, spans) -> set[frozenset]:
    return {frozenset(leaves[a:b]) for a, b in spans.tolist()}


def test_nodes_are_those_of_scipy():
    vectors = np.random.default_rng(0).normal(size=(40, 6))
    leaves, spans = tree(vectors)
    nodes, expected = [to_tree(linkage(vectors, "ward"))], set()
    while nodes:
        node = nodes.pop()
        if not node.is_leaf():
            expected.add(frozenset(node.pre_order()))
            nodes += [node.get_left(), node.get_right()]
    assert below(leaves, spans) == expected
    assert sorted(leaves) == list(range(40))


def test_words_of_a_kind_are_a_node_and_spaces_do_not_matter(tmp_path):
    counts = np.arange(1, len(TEXTS) + 1)
    leaves, spans = word_tree(TEXTS, counts, embeddings(np.random.default_rng(1)))
    words = [lexeme(TEXTS[i]) for i in leaves]
    assert sorted(words) == sorted({lexeme(t) for t in TEXTS})
    assert (
        TEXTS.index("cat") in leaves and TEXTS.index(" cat") not in leaves
    )  # the commoner of the two
    assert {frozenset(k) for k in KINDS} <= below(words, spans)
    write_word_tree(tmp_path, np.arange(100, 100 + len(TEXTS)), (leaves, spans))
    kept = read_word_tree(tmp_path)
    assert (kept[0] == leaves + 100).all()
    assert (kept[1] == spans).all()


def test_a_capture_without_a_tree_and_one_word(tmp_path):
    assert read_word_tree(tmp_path) is None
    leaves, spans = word_tree(["a", " a"], np.array([1, 2]), np.ones((2, 3)))
    assert leaves.tolist() == [1]
    assert spans.shape == (0, 2)
