"""Documents of a corpus, their splits, copied tokens, and the text that a capture gives back."""

import hashlib
import itertools
import json
import zlib
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from core.activations.capture import describe, split_documents
from core.errors import NotReady, UsageError
from core.records import SPLITS
from core.subject.subject import Subject
from core.text import hub_datasets, spools
from core.text.documents import Corpus, Document, read_corpus, text_hash
from core.text.hub_datasets import DatasetName
from core.text.splits import (
    COMMON,
    LINKS,
    OWN,
    SHINGLE,
    assign_splits,
    group_near_duplicates,
    mark_copied_tokens,
    shingle_hashes,
)
from core.text.tokens import Tokens
from tests.support.text import encode, tables_of
from tests.support.tiny import byte_level_tokenizer, tiny_model

TRAIN, VAL, TEST = range(3)


def tokens_of(n, seed):
    """Tokens that no two seeds share a 32-run of."""
    return np.random.default_rng(seed).integers(0, 50_000, n)


# ---------------------------------------------------------------- reading


def test_txt_jsonl_and_folders_are_read(tmp_path):
    (tmp_path / "deep").mkdir()
    (tmp_path / "a.txt").write_text("one\ntwo\n", encoding="utf-8")
    (tmp_path / "deep" / "b.jsonl").write_text(
        '{"text": "näïve"}\n\n{"prompt": "say"}\n', encoding="utf-8"
    )
    (tmp_path / "ignored.rst").write_text("not read")
    texts = {d.name: d.text for d in read_corpus(str(tmp_path))}
    assert texts == {"a.txt": "one\ntwo\n", "b.jsonl:1": "näïve", "b.jsonl:3": "say"}
    assert [d.text for d in read_corpus(str(tmp_path / "a.txt"))] == ["one\ntwo\n"]
    assert {d.text for d in read_corpus(str(tmp_path / "deep" / "b.jsonl"))} == {"näïve", "say"}


def test_conversations_are_read_with_their_turns(tmp_path):
    turns = [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "me"}]
    (tmp_path / "a.jsonl").write_text(json.dumps({"messages": turns}) + "\n")
    (document,) = read_corpus(str(tmp_path))
    assert document.turns == (("user", "who?"), ("assistant", "me"))
    assert document.text == "who?\nme"


@pytest.mark.parametrize("column", ["text", "prompt", "messages"])
def test_parquet_is_read_by_its_column(tmp_path, column):
    values = (
        [[{"role": "user", "content": t}] for t in ("a", "b")]
        if column == "messages"
        else ["a", None, "b"]
    )
    pd.DataFrame({"id": range(len(values)), column: values}).to_parquet(tmp_path / "x.parquet")
    assert sorted((d.name, d.text) for d in read_corpus(str(tmp_path))) == [
        ("x.parquet:1", "a"),
        (f"x.parquet:{len(values)}", "b"),
    ]


def test_parquet_without_text_and_files_that_only_say_so_are_errors(tmp_path):
    pd.DataFrame({"id": [1], "body": ["x"]}).to_parquet(tmp_path / "x.parquet")
    with pytest.raises(UsageError, match=r"has columns \['id', 'body'\]"):
        read_corpus(str(tmp_path))
    (tmp_path / "x.parquet").write_text("no")
    with pytest.raises(UsageError, match="not a Parquet file"):
        read_corpus(str(tmp_path))


@pytest.fixture
def dataset(tmp_path):
    """A folder in the layout of a dataset on the hub, two splits of two columns."""
    for split, texts in (
        ("train", ["one two", "three four", "five six"]),
        ("validation", ["seven"]),
    ):
        (tmp_path / "set").mkdir(exist_ok=True)
        pd.DataFrame({"text": texts, "body": [t.upper() for t in texts]}).to_parquet(
            tmp_path / "set" / f"{split}-00000-of-00001.parquet"
        )
    return f"hf:{tmp_path / 'set'}"


def test_a_dataset_is_streamed_by_split_and_column(dataset):
    assert [d.text for d in read_corpus(dataset)] == ["one two", "three four", "five six"]
    assert [d.text for d in read_corpus(f"{dataset}:validation")] == ["seven"]
    assert [d.text for d in read_corpus(f"{dataset}:train:body")][0] == "ONE TWO"


def test_a_stream_is_not_read_past_the_limit(dataset, tmp_path):
    subject, read = Subject(tiny_model("gpt2"), byte_level_tokenizer()), []
    endless = (
        read.append(i) or Document(str(i), f"{i} the cat sat on the mat") for i in itertools.count()
    )
    encoded, left_out = encode(subject, Corpus(endless, streamed=True), max_tokens=1000)
    assert 1000 <= sum(len(d.ids) for d in encoded) < 1100
    assert len(read) < 200
    assert left_out.keys() <= {"documents past the token limit"}


@pytest.mark.parametrize(
    ("suffix", "message"), [(":test", "cannot be read"), (":train:title", "no text under 'title'")]
)
def test_a_dataset_without_that_split_or_column_is_an_error(dataset, suffix, message):
    with pytest.raises(UsageError, match=message):
        list(read_corpus(dataset + suffix))


def test_a_colon_within_brackets_parts_no_name():
    assert DatasetName.parse("hf:a/b@c:train[:100]:body") == DatasetName(
        "a/b", "c", "train[:100]", "body"
    )
    assert DatasetName.parse("hf:a/b:test:body") == DatasetName("a/b", "", "test", "body")


def test_a_stream_without_documents_ends(tmp_path, monkeypatch, capsys):
    folder = tmp_path / "set"
    folder.mkdir()
    lines = [json.dumps({"text": text}) for text in ["one", *[""] * 30, "two"]]
    (folder / "train.jsonl").write_text("\n".join(lines))
    monkeypatch.setattr(hub_datasets, "IDLE", 20)
    corpus = read_corpus(f"hf:{folder}")
    assert [d.text for d in corpus] == ["one"]
    assert corpus.left_out.counts == {"records without a word": 20}
    assert "read no further" in capsys.readouterr().err


def test_a_dataset_that_is_nowhere_is_an_error(tmp_path):
    with pytest.raises((UsageError, NotReady)):
        list(read_corpus(f"hf:{tmp_path / 'nowhere'}"))


def test_a_file_is_read_exactly_as_it_stands(tmp_path):
    """Carriage returns too: offsets count the characters of the file that a person opens."""
    text = "a\r\nb\n\tc \u2028d\r"
    (tmp_path / "a.txt").write_bytes(text.encode())
    assert next(iter(read_corpus(str(tmp_path)))).text == text


def test_a_line_of_jsonl_ends_at_a_newline_only(tmp_path):
    """A JSON string may hold U+2028 and U+0085 unescaped; str.splitlines would cut there."""
    (tmp_path / "a.jsonl").write_text(
        '{"text": "a\u2028b\u0085c"}\n{"text": "d"}\n', encoding="utf-8"
    )
    assert sorted(d.text for d in read_corpus(str(tmp_path))) == ["a\u2028b\u0085c", "d"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b"\nnot json\n", "line 2"),
        ("a.jsonl", b'{"body": "x"}\n', "a.jsonl:1 has body"),
        ("a.jsonl", b'{"text": 3}\n', "a.jsonl:1 has a int"),
        ("a.jsonl", b'["text"]\n', "a.jsonl:1"),
        ("a.txt", b"caf\xe9 au lait", "not UTF-8.*byte 3"),
        ("a.md", b"  \n", "is empty: 1 files without a word"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_that_says_where(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_corpus(str(tmp_path))


def test_a_missing_corpus_is_an_error(tmp_path):
    with pytest.raises(UsageError, match="no corpus"):
        read_corpus(str(tmp_path / "nowhere"))


def test_the_order_of_documents_is_independent_of_their_splits(tmp_path):
    """A limit keeps the first documents; in the order of the hash itself, all would be train."""
    (tmp_path / "a.jsonl").write_text(
        "".join(json.dumps({"text": f"document {i}"}) + "\n" for i in range(600))
    )
    documents = list(read_corpus(str(tmp_path)))
    hashes = [text_hash(d.text) for d in documents]
    first = assign_splits(hashes, np.arange(600))[:200]
    np.testing.assert_allclose(np.bincount(first, minlength=3) / 200, (0.6, 0.1, 0.3), atol=0.1)
    assert hashes != sorted(hashes)


# ---------------------------------------------------------------- splits


def test_splits_follow_the_hash_by_hand():
    """0.6 is 0x.999999..., 0.7 is 0x.b33333..."""
    by_hand = {
        "0": TRAIN,
        "9": TRAIN,
        "9999": TRAIN,
        "999a": VAL,
        "b": VAL,
        "b332": VAL,
        "b334": TEST,
        "f" * 64: TEST,
    }
    for start, split in by_hand.items():
        assert assign_splits([start.ljust(64, "0")], np.array([0]))[0] == split, start


def test_shares_are_60_10_30():
    hashes = [hashlib.sha256(str(i).encode()).hexdigest() for i in range(20_000)]
    shares = np.bincount(assign_splits(hashes, np.arange(20_000)), minlength=3) / 20_000
    np.testing.assert_allclose(shares, (0.6, 0.1, 0.3), atol=0.01)


def test_a_group_shares_the_split_of_its_smallest_hash():
    hashes = ["f" * 64, "0" * 64, "b0".ljust(64, "0"), "f0".ljust(64, "0")]
    assert assign_splits(hashes, np.array([0, 0, 2, 2])).tolist() == [TRAIN, TRAIN, VAL, VAL]


def test_case_and_white_space_do_not_change_the_hash():
    assert text_hash("The  Cat\n sat ") == text_hash("the cat sat") != text_hash("the cats at")


def shingles_by_hand(tokens):
    return {tuple(tokens[i : i + SHINGLE].tolist()) for i in range(len(tokens) - SHINGLE + 1)}


def test_shingle_hashes_tell_runs_apart_and_equal_runs_together():
    tokens = np.r_[tokens_of(100, 0), tokens_of(60, 1), tokens_of(100, 0)]
    hashes = shingle_hashes(tokens)
    assert len(hashes) == len(tokens) - SHINGLE + 1
    assert len(np.unique(hashes)) == len(shingles_by_hand(tokens))
    assert np.array_equal(hashes[:69], hashes[160:229])
    assert len(shingle_hashes(tokens[: SHINGLE - 1])) == 0
    assert shingle_hashes(tokens[:SHINGLE])[0] != shingle_hashes(tokens[:SHINGLE][::-1])[0], (
        "order counts"
    )


@pytest.mark.parametrize("part", [3, 50, 10**6])
def test_hashes_come_back_in_parts_by_value_with_their_numbers(monkeypatch, part, tmp_path):
    monkeypatch.setattr(spools, "PART", part)
    monkeypatch.setattr(spools, "CHUNK", 20)
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**64, 40, np.uint64)
    added = [(rng.choice(values, n), number) for number, n in enumerate((9, 0, 25, 70, 1))]
    spool = spools.HashSpool(105, tmp_path)
    for hashes, number in added:
        spool.add(hashes, number)
    everything = sorted((int(h), number) for hashes, number in added for h in hashes)
    for _ in range(2):
        parts = list(spool.parts())
        assert len(parts) == -(-105 // part)
        pairs = [(int(h), int(n)) for both in parts for h, n in zip(*both, strict=True)]
        assert pairs == everything
    assert not list(tmp_path.iterdir()), "its file has no name"


def test_documents_wait_on_disk_in_the_order_of_their_hashes(tmp_path, monkeypatch):
    monkeypatch.setattr(spools, "HELD", 100)
    documents = [Document(f"{i}", f"naïve 雪 \ud800 {i % 7}", (("user", "a"),)) for i in range(30)]
    spool = spools.DocumentSpool(tmp_path)
    for document in documents:
        spool.add(document)
    expected = sorted(documents, key=lambda d: (text_hash(d.text)[::-1], d.name))
    assert list(spool) == expected == list(spool)
    assert len(spool) == 30
    assert not list(spools.DocumentSpool())


def groups_in_memory(documents):
    """What `group_near_duplicates` promises, by sets and a count of every pair."""
    sets = [set(shingle_hashes(d).tolist()) for d in documents]
    times = Counter(itertools.chain(*sets))
    common = {h for h, n in times.items() if n > max(LINKS, COMMON * len(sets))}
    for number, document in enumerate(documents):
        places = [i for i, h in enumerate(shingle_hashes(document).tolist()) if h in common]
        covered = {place + offset for place in places for offset in range(SHINGLE)}
        if len(document) - len(covered) >= OWN:
            sets[number] -= common
    holders = {}
    for number, own in enumerate(sets):
        for value in own:
            holders.setdefault(value, []).append(number)
    shared = Counter(
        (a, b)
        for members in holders.values()
        for place, a in enumerate(members)
        for b in members[place + 1 : place + 1 + LINKS]
    )
    group = list(range(len(documents)))
    for (a, b), count in shared.items():
        if 2 * count > min(len(sets[a]), len(sets[b])):
            joined = (group[a], group[b])
            group = [min(joined) if g in joined else g for g in group]
    return group


@pytest.mark.slow
def test_groups_on_disk_are_those_in_memory_on_the_standard_library(monkeypatch):
    """Whatever the parts; with a header that over a quarter of the documents carry."""
    monkeypatch.setattr(spools, "PART", 20_000)
    monkeypatch.setattr(spools, "CHUNK", 9_000)
    licence = tokens_of(60, 0)
    documents = []
    for number, document in enumerate(itertools.islice(read_corpus("stdlib"), 300)):
        words = document.text.split()[:1500]
        tokens = np.array([zlib.crc32(word.encode()) % 50_000 for word in words], np.int64)
        documents.append(np.r_[licence, tokens] if number % 3 else tokens)
        if not number % 10:
            documents.append(np.r_[tokens[: len(tokens) * 3 // 4], tokens_of(50, number)])
    groups = group_near_duplicates(documents)
    assert groups.tolist() == groups_in_memory(documents)
    assert 20 < (groups != np.arange(len(groups))).sum() < 100


def test_documents_that_share_over_half_are_one_group_and_those_under_are_not():
    base = tokens_of(200, 0)
    over = np.r_[base[:140], tokens_of(60, 1)]  # 109 of 169 shingles
    under = np.r_[base[:100], tokens_of(100, 2)]  # 69 of 169
    inside = base[105:165]  # all 29 of its own, few of the larger one's
    groups = group_near_duplicates(
        [base, over, under, tokens_of(200, 3), inside, tokens_of(5, 4), np.zeros(0, int)]
    )
    for i, same in enumerate([True, True, False, False, True, False, False]):
        assert (groups[i] == groups[0]) == same, i
    assert len({*groups.tolist()} - {groups[0]}) == 4


def test_a_large_family_of_near_copies_is_one_group():
    """Generated files come by the hundred; none past the twentieth may be in another split."""
    base = tokens_of(100, 0)
    family = [np.r_[base, tokens_of(20, 10 + i)] for i in range(70)]
    assert len(set(group_near_duplicates(family).tolist())) == 1


def test_a_chain_of_near_copies_is_cut_where_it_is_long():
    """Each shares over half with the next alone: a diary that is copied on, a log that rolls."""
    stream = tokens_of(40 * 300 + 200, 0)
    chain = [stream[40 * i : 40 * i + 200] for i in range(300)]
    others = [tokens_of(200, 10 + i) for i in range(100)]
    groups = group_near_duplicates(chain + others)
    assert np.bincount(groups).max() <= 5, "a document and those beside it that it shares half with"
    assert len(set(groups[300:].tolist())) == 100
    short = group_near_duplicates(chain[:15])
    assert len(set(short.tolist())) == 1, "a short chain stays whole"


def test_a_short_text_within_many_long_ones_makes_them_no_group():
    quoted = tokens_of(40, 0)
    quoting = [np.r_[tokens_of(150, 10 + i), quoted, tokens_of(150, 500 + i)] for i in range(90)]
    others = [tokens_of(200, 1000 + i) for i in range(310)]
    groups = group_near_duplicates([quoted, *quoting, *others])
    assert np.bincount(groups).max() == 2


def test_a_large_family_within_a_corpus_stays_one_group():
    base = tokens_of(200, 0)
    family = [np.r_[base, tokens_of(20 + i % 7, 10 + i)] for i in range(70)]
    others = [tokens_of(200, 1000 + i) for i in range(300)]
    groups = group_near_duplicates([*family, *others])
    assert len(set(groups[:70].tolist())) == 1 and np.bincount(groups).max() == 70


def test_a_licence_that_all_carry_makes_no_group():
    licence = tokens_of(60, 0)
    documents = [np.r_[licence, tokens_of(200, 10 + i)] for i in range(30)]
    assert len(set(group_near_duplicates(documents).tolist())) == 30


def test_near_copies_of_a_captured_corpus_share_a_split(tmp_path):
    subject = Subject(tiny_model("gpt2"), byte_level_tokenizer())
    rng = np.random.default_rng(0)
    documents = []
    for i in range(30):
        words = [str(w) for w in rng.integers(0, 10**6, 40)]
        documents += [
            Document(f"{i}a", " ".join(words)),
            Document(f"{i}b", " ".join(words[:-1] + ["other"])),
        ]
    tables = tables_of(subject, encode(subject, documents)[0], tmp_path, 32)
    split_documents(tables)
    assert np.array_equal(tables["split"][::2], tables["split"][1::2])
    alone = assign_splits([text_hash(d.text) for d in documents], np.arange(60))
    assert not np.array_equal(alone[::2], alone[1::2]), "without groups they would not"
    assert len(set(tables["split"].tolist())) == 3


# ---------------------------------------------------------------- copied windows


def copied(documents, splits):
    flags = np.zeros(sum(map(len, documents)), bool)
    mark_copied_tokens(documents, splits, flags)
    return flags


def copied_by_hand(documents, splits):
    known = set().union(
        *(shingles_by_hand(d) for d, s in zip(documents, splits, strict=True) if s == TRAIN)
    )
    out = []
    for tokens, split in zip(documents, splits, strict=True):
        for i in range(len(tokens)):
            start = min(max(i - SHINGLE // 2, 0), max(len(tokens) - SHINGLE, 0))
            out.append(split != TRAIN and tuple(tokens[start : start + SHINGLE].tolist()) in known)
    return np.array(out)


def test_copied_windows_equal_comparing_every_window_by_hand():
    base = tokens_of(150, 0)
    documents = [
        base,
        np.r_[tokens_of(40, 1), base[20:90], tokens_of(40, 2)],
        base[:60],
        base[:31],
        tokens_of(80, 3),
        tokens_of(50, 4),
    ]
    splits = np.array([TRAIN, TEST, VAL, TEST, TEST, TRAIN], np.uint8)
    flags = copied(documents, splits)
    np.testing.assert_array_equal(flags, copied_by_hand(documents, splits))
    assert flags[150:300].sum() == 70 - SHINGLE + 1
    assert flags[300:360].all()
    assert not flags[360:].any()
    assert not flags[:150].any()


def test_nothing_is_copied_without_a_train_document():
    assert not copied([tokens_of(50, 0), tokens_of(50, 0)], np.array([TEST, VAL], np.uint8)).any()


# ---------------------------------------------------------------- text and places

TEXTS = [
    "  leading spaces\n\n and 🎉🎊 emoji, näïve 雪 text. ",
    "tabs\tand\r\nreturns, a family 👩‍👩‍👧 of joined characters",
    "x" * 70 + " the cat\u2028sat",
]


@pytest.fixture(params=[False, True], ids=["whole offsets", "trimmed offsets"])
def tokens(request, tmp_path):
    """Tables of TEXTS in rows of 15 tokens."""
    subject = Subject(tiny_model("gpt2"), byte_level_tokenizer(trim=request.param))
    encoded, _ = encode(subject, [Document(str(i), t) for i, t in enumerate(TEXTS)])
    tables = tables_of(subject, encoded, tmp_path, 16)
    assert tables.left_out == {}
    describe([tmp_path], tables, subject)
    return Tokens(tmp_path)


def test_source_text_comes_back_exactly_and_every_token_knows_its_characters(tokens):
    tokenizer = byte_level_tokenizer()
    for number, text in enumerate(TEXTS):
        assert tokens.text(number) == text
        a, b = tokens.document_offsets[number : number + 2]
        ids, starts, ends = (np.asarray(x[a:b]) for x in (tokens.ids, tokens.starts, tokens.ends))
        assert tokenizer.decode(ids.tolist()) == text, "all tokens are kept, in order"
        covered = 0
        for token, start, end in zip(ids.tolist(), starts.tolist(), ends.tolist(), strict=True):
            assert start <= covered <= end, "no character is skipped"
            covered = end
            piece = tokens.vocabulary[token]
            if not text[:end].strip():
                continue  # a trimming tokenizer does not tell how the first white space is shared
            if not piece.startswith("<0x") and "<0x" not in piece:
                assert text[start:end] == piece, (
                    "the characters of a whole token are its text, its leading space included"
                )
            else:
                assert 1 <= end - start <= 2, "a part of a character points at that character"
        assert covered == len(text)


def test_pieces_of_one_character_all_point_at_it(tokens):
    start = TEXTS[0].index("🎉")
    a, b = tokens.document_offsets[:2]
    here = [
        (s, e)
        for s, e in zip(tokens.starts[a:b].tolist(), tokens.ends[a:b].tolist(), strict=True)
        if e == start + 1 and s >= start - 1
    ]
    assert len(here) >= 4
    assert all(e - s <= 2 for s, e in here)


def test_locate_and_ordinal_are_inverse(tokens):
    for ordinal in range(len(tokens)):
        document, position = tokens.locate(ordinal)
        assert tokens.ordinal(document, position) == ordinal
    assert tokens.locate(0) == (0, 0)
    assert tokens.locate(int(tokens.document_offsets[1])) == (1, 0)
    assert tokens.locate(len(tokens) - 1) == (2, int(np.diff(tokens.document_offsets)[2]) - 1)


def test_a_position_that_does_not_exist_is_an_error(tokens):
    length = int(tokens.document_offsets[1])
    wrong = (
        (3, 0, "documents 0 to 2"),
        (-1, 0, "no document -1"),
        (0, length, f"positions 0 to {length - 1}"),
        (0, -1, "no position -1"),
    )
    for document, position, message in wrong:
        with pytest.raises(UsageError, match=message):
            tokens.ordinal(document, position)


def test_rows_hold_one_document_each_and_follow_it_without_a_gap(tokens):
    assert np.diff(tokens.row_offsets).max() == 15
    for row, document in enumerate(tokens.row_document.tolist()):
        ordinals = np.arange(tokens.row_offsets[row], tokens.row_offsets[row + 1])
        assert len(ordinals)
        assert set(tokens.document_of(ordinals).tolist()) == {document}
    assert int(tokens.row_offsets[-1]) == int(tokens.document_offsets[-1]) == len(tokens)


def test_a_split_is_that_of_the_tokens_document(tokens):
    for name in SPLITS:
        expected = [SPLITS[tokens.split[tokens.locate(i)[0]]] == name for i in range(len(tokens))]
        assert tokens.in_split(name).tolist() == expected
