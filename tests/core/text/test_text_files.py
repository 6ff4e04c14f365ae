"""Corpora in every form of file and record, and what of them is left out and why."""

import codecs
import gzip
import json

import numpy as np
import pandas as pd
import pyarrow
import pytest

from core.errors import UsageError
from core.text.documents import check_corpus, read_corpus
from core.text.forms import Document, Unusable, make_document
from core.text.splits import group_near_duplicates
from core.text.text_files import PIECE, cut_pieces, form_of

ROWS = [{"id": 1, "text": "one, two"}, {"id": 2, "text": 'three\n"four"'}]


def texts(path, **how):
    return sorted(d.text for d in read_corpus(str(path), **how))


def as_bytes(form, tmp_path):
    """ROWS in one form."""
    table = pd.DataFrame(ROWS)
    if form in (".jsonl", ".ndjson"):
        return "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    if form == ".json":
        return json.dumps(ROWS).encode()
    if form in (".csv", ".tsv"):
        return table.to_csv(index=False, sep="\t" if form == ".tsv" else ",").encode()
    table.to_parquet(tmp_path / "made")
    data = (tmp_path / "made").read_bytes()
    (tmp_path / "made").unlink()
    return data


def compress(data, how):
    if how == ".gz":
        return gzip.compress(data)
    return pyarrow.compress(data, codec="zstd", asbytes=True) if how == ".zst" else data


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
@pytest.mark.parametrize("form", [".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet"])
def test_every_form_gives_the_same_documents_compressed_or_not(tmp_path, form, how):
    data = compress(as_bytes(form, tmp_path), how)
    for name in (f"a{form}{how}", f"A{form.upper()}{how.upper()}"):
        (tmp_path / name).write_bytes(data)
        assert form_of(tmp_path / name) == form
        assert texts(tmp_path / name) == sorted(row["text"] for row in ROWS)
        (tmp_path / name).unlink()


@pytest.mark.parametrize("name", ["a.txt", "A.TXT", "a.md", "a.txt.gz", "a.md.zst"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_is_read_without_its_byte_order_mark(tmp_path, name, encoding):
    data = compress("naïve 雪\r\n".encode(encoding), "." + name.rpartition(".")[2])
    (tmp_path / name).write_bytes(data)
    assert texts(tmp_path) == ["naïve 雪\r\n"]


def test_hidden_folders_and_unknown_forms_are_not_read(tmp_path):
    for folder in (".git", ".ipynb_checkpoints", "deep"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.txt").write_text(f"text in {folder}")
    (tmp_path / ".hidden.txt").write_text("hidden")
    (tmp_path / "a.rst").write_text("of another form")
    assert texts(tmp_path) == ["text in deep"]
    with pytest.raises(UsageError, match="no form that can be read"):
        read_corpus(str(tmp_path / "a.rst"))


def test_a_long_file_is_cut_at_blank_lines_and_said(tmp_path, capsys):
    paragraphs = [f"paragraph {i} " + "word " * 150 for i in range(12)]
    (tmp_path / "book.txt").write_text("\n\n".join(paragraphs))
    cut = texts(tmp_path)
    assert len(cut) == 4
    assert "cut at blank lines into 4 documents; --cut no" in capsys.readouterr().err
    assert [p for p in paragraphs if not any(p.strip() in piece for piece in cut)] == []
    assert len(texts(tmp_path, cut="no")) == 1
    (tmp_path / "note.txt").write_text("one\n\ntwo")
    assert len(texts(tmp_path)) == 2, "short files beside others stay whole"
    assert len(texts(tmp_path, cut="yes")) == 5
    whole = "\n\n".join(["x" * 3000] * 3)
    assert list(cut_pieces([whole])) == ["x" * 3000] * 3


@pytest.mark.parametrize("end", ["", "\n", "\r\n \t\n\n", "x" * 2500 + "\n\n"])
def test_the_blocks_in_which_a_text_is_read_change_no_document(end):
    rng = np.random.default_rng(0)
    blanks = ["\n\n", "\r\n\r\n", "\n \t\n\n", "\n", " "]
    text = "".join("y" * int(n) + blanks[n % 5] for n in rng.integers(1, 1500, 40)) + end
    whole = list(cut_pieces([text]))
    assert len(whole) > 5
    assert min(map(len, whole[:-1])) >= PIECE
    assert " ".join(whole).split() == text.split()
    for size in (1, 7, 1000, 4096):
        blocks = [text[start : start + size] for start in range(0, len(text), size)]
        assert list(cut_pieces(blocks)) == whole


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("encoding", "broken", "at"),
    [("utf-8", b"\xff", 11), ("utf-8-sig", b"\xff", 11), ("utf-16-le", b"\x00\xdc", 16)],
)
def test_bytes_that_are_no_text_are_told_by_their_place(
    tmp_path, monkeypatch, encoding, broken, at, how
):
    """Whatever blocks the file is read in."""
    mark = codecs.BOM_UTF16_LE if "16" in encoding else b""
    data = compress(mark + "naïve 雪 ".encode(encoding) + broken + b"ab", how)
    (tmp_path / f"a.txt{how}").write_bytes(data)
    for block in (1, 3, 1 << 20):
        monkeypatch.setattr("core.text.text_files.BLOCK", block)
        with pytest.raises(UsageError, match=rf"not UTF-8 .*at byte {at}\)"):
            texts(tmp_path)


VARIANTS = {  # of one form: what else programs write under the same suffix
    "a mark and CRLF.csv": "\ufeffid,text\r\n1,one\r\n2,two\r\n",
    "semicolons.csv": "id;text\n1;one\n2;two\n",
    "bars.csv": "id|text\n1|one\n2|two\n",
    "tabs.csv": "id\ttext\n1\tone\n2\ttwo\n",
    "commas.tsv": "id,text\n1,one\n2,two\n",
    "spaces in the header.csv": "id, text\n1,one\n2,two\n",
    "one column.csv": "review\none\ntwo\n",
    "capitals.csv": "ID,Text\n1,one\n2,two\n",
    "capitals.jsonl": '{"ID": 1, "TEXT": "one"}\n{"ID": 2, "TEXT": "two"}\n',
    "CRLF.jsonl": '{"text": "one"}\r\n{"text": "two"}\r\n',
    "one value.jsonl": '[\n  {"text": "one"},\n  {"text": "two"}\n]\n',
    "strings.jsonl": '"one"\n"two"\n',
    "lines.json": '{"text": "one"}\n{"text": "two"}\n',
    "under a key.json": '{"version": 2, "rows": [{"text": "one"}, {"text": "two"}]}',
    "under two keys.json": '{"data": {"train": [{"text": "one"}, {"text": "two"}]}}',
    "by name.json": '{"a": {"text": "one"}, "b": {"text": "two"}}',
    "columns.json": '{"id": [1, 2], "text": ["one", "two"]}',
    "columns by index.json": '{"id": {"0": 1, "1": 2}, "text": {"0": "one", "1": "two"}}',
}


@pytest.mark.parametrize("how", ["", ".gz", ".zst"])
@pytest.mark.parametrize("name", VARIANTS)
def test_what_programs_write_under_one_suffix_is_read(tmp_path, name, how):
    (tmp_path / (name + how)).write_bytes(compress(VARIANTS[name].encode(), how))
    assert texts(tmp_path) == ["one", "two"]


SENTENCE = "The first row is a sentence of the corpus and names nothing."


@pytest.mark.parametrize("form", [".csv", ".tsv"])
def test_the_first_row_of_a_table_without_names_is_read(tmp_path, form):
    (tmp_path / f"a{form}").write_text(f"{SENTENCE}\none\ntwo\n")
    corpus = read_corpus(str(tmp_path))
    assert sorted(d.text for d in corpus) == sorted([SENTENCE, "one", "two"])
    assert not corpus.left_out.counts


def test_a_first_row_that_may_be_a_name_is_counted(tmp_path):
    (tmp_path / "a.csv").write_text("Hello world\none\ntwo\n")
    corpus = read_corpus(str(tmp_path))
    assert sorted(d.text for d in corpus) == ["one", "two"]
    reason = "first rows of tables, taken for the name of their column"
    assert corpus.left_out.counts == {reason: 1}
    assert "Hello world" in corpus.left_out.line()


@pytest.mark.parametrize("form", [".jsonl", ".json", ".csv", ".tsv", ".parquet"])
def test_a_column_of_a_local_file_can_be_named(tmp_path, form):
    table = pd.DataFrame({"text": ["x", "y"], "body": ["one", "two"], "id": [1, 2]})
    path = tmp_path / f"a{form}"
    if form == ".parquet":
        table.to_parquet(path)
    elif form in (".csv", ".tsv"):
        table.to_csv(path, index=False, sep="\t" if form == ".tsv" else ";")
    else:
        table.to_json(path, orient="records", lines=form == ".jsonl")
    for spec in (path, tmp_path):
        assert texts(f"{spec}:body") == ["one", "two"]
        assert texts(spec) == ["x", "y"]
    check_corpus(f"{path}:body")
    with pytest.raises(UsageError, match="'text', 'body', 'id'|text, body, id"):
        read_corpus(f"{path}:title")
    with pytest.raises(UsageError, match="no corpus"):
        check_corpus(f"{path}x:body")


def test_parquet_with_lists_bytes_and_large_strings(tmp_path):
    import pyarrow.parquet as parquet

    for kind in ("string", "large_string", "binary"):
        column = pyarrow.array(["one", "two"]).cast(kind)
        parquet.write_table(pyarrow.table({"text": column, "id": [1, 2]}), tmp_path / "a.parquet")
        assert texts(tmp_path) == ["one", "two"], kind
    paragraphs = pyarrow.array([["one", "first"], ["two"]])
    parquet.write_table(pyarrow.table({"text": paragraphs}), tmp_path / "a.parquet")
    assert texts(tmp_path) == ["one\nfirst", "two"]
    broken = pyarrow.array([b"caf\xe9", b"fine"])
    parquet.write_table(pyarrow.table({"text": broken}), tmp_path / "a.parquet")
    corpus = read_corpus(str(tmp_path))
    assert [d.text for d in corpus] == ["fine"]
    assert corpus.left_out.counts == {"records whose bytes are not UTF-8": 1}


def test_a_file_of_bytes_is_no_text(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes("ASCII in UTF-16".encode("utf-16-le"))
    (tmp_path / "c.csv").write_bytes(b"text\n\0\0\1\n")
    corpus = read_corpus(str(tmp_path))
    assert [d.text for d in corpus] == ["fine"]
    assert corpus.left_out.counts == {"files that are not text": 2}


# ---------------------------------------------------------------- bad records

BAD = [
    ('{"text": ""}', "records without a word"),
    ('{"text": null}', "records whose text is null"),
    ('{"text": 3}', "records whose text is no text"),
    ('{"body": "x"}', "records without a column of text"),
    ("3", "records that are no objects"),
    ("{not json", "lines that are not JSON"),
    ('{"messages": []}', "conversations without a turn"),
    ('{"messages": [3]}', "conversations whose turns are no objects"),
    ('{"messages": [{"content": "x"}]}', "conversations whose turns have no role"),
    ('{"messages": [{"user": "Ann", "text": "x"}]}', "conversations whose turns have no role"),
    ('{"messages": ["x", "y"]}', "conversations whose turns do not say who speaks"),
    (
        '{"messages": [{"role": "user", "content": 3}]}',
        "conversations with a turn that holds no text",
    ),
]


@pytest.mark.parametrize(("line", "reason"), BAD)
def test_a_bad_record_is_counted_by_its_reason_and_ends_nothing(tmp_path, line, reason):
    (tmp_path / "a.jsonl").write_text(f'\ufeff{{"text": "fine"}}\n{line}\n{line}\n', "utf-8")
    corpus = read_corpus(str(tmp_path))
    assert [d.text for d in corpus] == ["fine"]
    assert corpus.left_out.counts == {reason: 2}
    (tmp_path / "a.jsonl").write_text(f"{line}\n", "utf-8")
    with pytest.raises(UsageError, match=f"is empty: 1 {reason}"):
        read_corpus(str(tmp_path))


def test_a_bad_file_is_counted_and_the_commonest_reason_comes_first(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"caf\xe9")
    (tmp_path / "b.json").write_text("{no")
    (tmp_path / "c.csv").write_text("id,body\n1,x\n")
    (tmp_path / "d.jsonl.gz").write_bytes(b"no gzip")
    (tmp_path / "e.txt").write_bytes(b"\xff\xfe\x00\xd8")
    with pytest.raises(UsageError, match="is empty: 2 files that are not UTF-8") as error:
        read_corpus(str(tmp_path))
    for part in ("files that are not JSON", "columns \\['id', 'body'\\]", "decompressed as .gz"):
        assert error.match(part)
    (tmp_path / "f.txt").write_text("fine")
    corpus = read_corpus(str(tmp_path))
    assert [d.text for d in corpus] == ["fine"]
    assert corpus.left_out.counts.total() == 5


# ---------------------------------------------------------------- conversations


def test_parts_of_a_turn_that_are_no_text_are_counted():
    parts = [{"type": "image", "url": "x"}, {"type": "text", "text": "what is this?"}]
    sound = {"type": "input_audio", "input_audio": {"data": "AAAA"}}
    nested = {"type": "tool_result", "content": [{"type": "text", "text": "2"}]}
    turns = [
        {"role": "user", "content": [*parts, sound]},
        {"role": "assistant", "content": "a cat"},
        {"role": "user", "content": [nested]},
    ]
    document = make_document("a", {"messages": turns})
    assert document.unread == 2
    assert [text for _, text in document.turns] == ["what is this?", "a cat", "2"]


TURNS = (("user", "who?"), ("assistant", "me"))
FORMS_OF_CHATS = {
    "messages": {"messages": [{"role": r, "content": c} for r, c in TURNS]},
    "parts": {
        "messages": [{"role": r, "content": [{"type": "text", "text": c}]} for r, c in TURNS]
    },
    "parts with an image": {
        "messages": [
            {"role": r, "content": [{"type": "image", "url": "x"}, {"type": "text", "text": c}]}
            for r, c in TURNS
        ]
    },
    "ShareGPT": {
        "conversations": [{"from": "human", "value": "who?"}, {"from": "gpt", "value": "me"}]
    },
    "conversation": {"conversation": [{"role": r, "content": c} for r, c in TURNS]},
    "a JSON string": {"messages": json.dumps([{"role": r, "content": c} for r, c in TURNS])},
    "instruction": {"instruction": "who?", "input": "", "output": "me"},
    "threads": {
        "messages": [
            {"role": r, "content": [{"type": "text", "text": {"value": c, "annotations": []}}]}
            for r, c in TURNS
        ]
    },
    "nested results": {
        "messages": [
            {"role": "user", "content": [{"type": "tool_result", "content": [{"text": "who?"}]}]},
            {"role": "assistant", "content": [{"text": "me"}]},
        ]
    },
    "exchanges": {"conversation": [{"human": "who?", "assistant": "me"}]},
    "text of turns": {"conversation": [{"role": r, "text": c} for r, c in TURNS]},
    "upper case": {"messages": [{"role": r.upper(), "content": c} for r, c in TURNS]},
}


@pytest.mark.parametrize("form", FORMS_OF_CHATS)
def test_a_conversation_is_read_in_every_common_form(tmp_path, form):
    record = FORMS_OF_CHATS[form]
    assert make_document("x", record).turns == TURNS
    (tmp_path / "a.jsonl").write_text(json.dumps(record) + "\n")
    pd.DataFrame([record]).to_parquet(tmp_path / "b.parquet")
    assert [d.turns for d in read_corpus(str(tmp_path))] == [TURNS, TURNS]


@pytest.mark.parametrize("content", [None, "", []])
def test_a_tool_call_beside_no_content_is_the_turns_text(content):
    if content == []:
        with pytest.raises(Unusable, match="holds no text"):
            make_document("x", {"messages": [{"role": "user", "content": content}]})
        return
    call = {"type": "function", "function": {"name": "look", "arguments": {"at": "雪"}}}
    turns = [
        {"role": "user", "content": "look"},
        {"role": "assistant", "content": content, "tool_calls": [call]},
        {"role": "tool", "content": "snow"},
    ]
    document = make_document("x", {"messages": turns})
    assert document.turns == (
        ("user", "look"),
        ("assistant", '{"name": "look", "arguments": {"at": "雪"}}'),
        ("tool", "snow"),
    )


def test_a_line_that_is_a_list_of_turns_is_a_conversation(tmp_path):
    turns = [{"role": role, "content": content} for role, content in TURNS]
    (tmp_path / "a.jsonl").write_text(json.dumps(turns) + "\n")
    assert [d.turns for d in read_corpus(str(tmp_path))] == [TURNS]


def test_a_tool_call_within_the_content_is_the_turns_text():
    call = {"type": "tool_use", "id": "x", "name": "look", "input": {"at": "雪"}}
    said = {"role": "assistant", "content": [{"type": "text", "text": "I look."}, call]}
    document = make_document("x", {"messages": [{"role": "user", "content": "look"}, said]})
    assert document.turns[1][1] == 'I look.\n{"name": "look", "input": {"at": "雪"}}'


# ---------------------------------------------------------------- datasets


@pytest.fixture
def dataset(tmp_path):
    """A folder in the layout of a dataset on the hub: two configs, two splits, two columns."""
    folder = tmp_path / "set"
    lines = ["---", "configs:"]
    for config in ("small", "large"):
        lines += [f"- config_name: {config}", "  data_files:"]
        for split in ("train", "validation"):
            (folder / config).mkdir(parents=True, exist_ok=True)
            rows = [f"{config} {split} {i}" for i in range(3)]
            pd.DataFrame({"text": [*rows, None], "body": "b"}).to_parquet(
                folder / config / f"{split}.parquet"
            )
            lines += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
    (folder / "README.md").write_text("\n".join([*lines, "---", ""]))
    return f"hf:{folder}"


def test_a_dataset_is_read_by_config_split_and_column(dataset):
    corpus = read_corpus(f"{dataset}@large:validation")
    assert [d.text for d in corpus] == [f"large validation {i}" for i in range(3)]
    assert corpus.left_out.counts == {"records whose text is null": 1}
    assert {d.text for d in read_corpus(f"{dataset}@small:train:body")} == {"b"}


@pytest.mark.parametrize(
    ("suffix", "advice"),
    [
        ("", "Its configs are small, large"),
        ("@huge", "Its configs are small, large"),
        ("@small:test", "Its splits are train, validation"),
        ("@small:train:title", "They have: text, body"),
    ],
)
def test_an_error_says_what_the_dataset_has(dataset, suffix, advice):
    with pytest.raises(UsageError) as error:
        list(read_corpus(dataset + suffix))
    assert advice in error.value.next_step


def test_common_text_links_no_documents_that_have_text_of_their_own():
    import numpy as np

    def draw(n, seed):
        return np.random.default_rng(seed).integers(0, 50_000, n)

    prompt = draw(400, 0)
    documents = [np.r_[prompt, draw(100, 10 + i)] for i in range(300)]
    copies = [np.r_[prompt, draw(100, 11), draw(4, 999)], np.r_[draw(100, 12), draw(40, 998)]]
    groups = group_near_duplicates([*documents, *copies])
    assert groups[300] == groups[1]
    assert groups[301] == groups[2]
    assert len(set(groups.tolist())) == 300


def test_the_standard_library_is_cut_where_that_is_asked_for(monkeypatch):
    from core.text import documents

    whole = [Document("a.py", "\n\n".join(["x" * 3000, "y" * 3000])), Document("b.py", "z")]
    monkeypatch.setattr(documents, "_read_stdlib", lambda: iter(whole))
    named = {cut: {d.name: d.text for d in documents.read_corpus("stdlib", cut).documents} for cut in ("yes", "auto", "no")}  # fmt: skip
    assert named["yes"] == {"a.py:1": "x" * 3000, "a.py:2": "y" * 3000, "b.py": "z"}
    assert named["auto"] == named["no"] == {d.name: d.text for d in whole}
