"""Read the documents of a corpus.

A corpus is one of: `stdlib`, the standard library of the running interpreter; a .txt file (one
document); a .jsonl file (one document a line: text under "text" or "prompt", or a conversation
under "messages", with a role and content each); a .parquet file (a column of one of those names);
a folder of such files; `hf:name[:split][:column]`, a dataset on the hub or a local folder in the
same layout, which is streamed.
"""

from __future__ import annotations

import hashlib
import json
import sysconfig
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import NotReady, UsageError

SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "encodings",
    "site-packages",
    "lib2to3",
    "ensurepip",
    "pydoc_data",
    "turtledemo",
    "__pycache__",
}
TABLES = {"stringprep.py", "entities.py"}  # generated tables
SUFFIXES = (".txt", ".jsonl", ".parquet")
COLUMNS = ("text", "prompt", "messages")  # the first of these that a record has holds its text
HELP = (
    "Give stdlib, a .txt, .jsonl or .parquet file, a folder of them, or hf:name[:split][:column]."
)


@dataclass(frozen=True)
class Document:
    """One document. A conversation has `turns`: (role, content) pairs.

    `spans` are the character ranges of `text` whose tokens are analysed; None means all of it.
    """

    name: str
    text: str
    turns: tuple[tuple[str, str], ...] = ()
    spans: tuple[tuple[int, int], ...] | None = None


def text_hash(text: str) -> str:
    """The SHA-256 of the text in lower case, with each run of white space replaced by one space."""
    return hashlib.sha256(" ".join(text.split()).lower().encode()).hexdigest()


def check_corpus(spec: str) -> None:
    """Raise UsageError for a local corpus that does not exist."""
    if spec != "stdlib" and not spec.startswith("hf:") and not Path(spec).exists():
        raise UsageError(f"There is no corpus {spec!r}.", HELP)


def read_corpus(spec: str) -> Iterable[Document]:
    """All documents of the corpus `spec`.

    A local corpus is a list, ordered by the reversed hash of the text: a document's split depends
    on the first digits of its hash, so a limit on the tokens keeps the shares of the splits. A
    dataset on the hub is a stream in its own order. Raises UsageError when there are no documents.
    """
    check_corpus(spec)
    if spec.startswith("hf:"):
        return _read_dataset(spec)
    if spec == "stdlib":
        documents = list(_read_stdlib())
    else:
        path = Path(spec)
        files = (
            [path] if path.is_file() else sorted(p for p in path.rglob("*") if p.suffix in SUFFIXES)
        )
        documents = [d for file in files for d in _read_file(file)]
    if not documents:
        raise UsageError(f"The corpus {spec!r} is empty.", HELP)
    return sorted(documents, key=lambda d: (text_hash(d.text)[::-1], d.name))


# ---------------------------------------------------------------- files


def _read_file(path: Path) -> Iterator[Document]:
    if path.suffix == ".parquet":
        yield from _read_parquet(path)
        return
    try:  # read_text would turn \r\n into \n, and offsets would not be those of the file
        text = path.read_bytes().decode("utf-8")
    except UnicodeDecodeError as error:
        raise UsageError(
            f"{path} is not UTF-8: {error.reason} at byte {error.start}.", "Convert it to UTF-8."
        ) from None
    if path.suffix != ".jsonl":
        yield Document(path.name, text)
        return
    lines = text.split("\n")  # splitlines also cuts at U+2028, which a JSON string may hold
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            yield _make_document(f"{path.name}:{number}", json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError):
            raise UsageError(
                f"{path}, line {number}, is not a JSON object with a string under 'text' or "
                "'prompt', or turns under 'messages'.",
                "Correct the line, or remove it.",
            ) from None


def _read_parquet(path: Path) -> Iterator[Document]:
    import pyarrow
    import pyarrow.parquet as parquet

    try:
        file = parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise UsageError(
            f"{path} is not a Parquet file: {error}.", "Remove it from the corpus."
        ) from None
    column = next((c for c in COLUMNS if c in file.schema_arrow.names), None)
    if column is None:
        raise UsageError(
            f"{path} has columns {file.schema_arrow.names}.",
            f"One of them must be {' or '.join(COLUMNS)}.",
        )
    number = 0
    for batch in file.iter_batches(columns=[column]):
        for record in batch.to_pylist():
            number += 1
            if record[column] is not None:
                yield _make_document(f"{path.name}:{number}", record)


def _make_document(name: str, record: dict[str, Any], column: str = "") -> Document:
    """The document of one record; raises KeyError or TypeError for a record without text."""
    content = record[column or next((c for c in COLUMNS if c in record), "text")]
    if isinstance(content, str):
        return Document(name, content)
    turns = tuple((turn["role"], turn["content"]) for turn in content)
    if not turns or not all(isinstance(part, str) for turn in turns for part in turn):
        raise TypeError
    return Document(name, "\n".join(text for _, text in turns), turns)


# ---------------------------------------------------------------- the hub, the standard library


def _read_dataset(spec: str) -> Iterator[Document]:
    """Stream the records of hf:name[:split][:column].

    Raises UsageError for a dataset that cannot be read and NotReady when the hub does not answer.
    """
    import datasets
    from huggingface_hub.errors import HfHubHTTPError

    name, split, column = (*spec.removeprefix("hf:").split(":"), "", "")[:3]
    datasets.disable_progress_bars()
    try:
        stream = datasets.load_dataset(name, split=split or "train", streaming=True)
        for number, record in enumerate(stream):
            yield _make_document(f"{name}:{number}", record, column)
    except (datasets.exceptions.DatasetNotFoundError, FileNotFoundError, ValueError) as error:
        raise UsageError(
            f"The dataset {name!r} cannot be read: {str(error).splitlines()[0]}",
            "Check name and split: hf:name[:split][:column].",
        ) from None
    except (ConnectionError, HfHubHTTPError) as error:
        raise NotReady(
            f"The dataset {name!r} cannot be reached: {str(error).splitlines()[0]}",
            "Check the connection; set HF_TOKEN if it is gated.",
        ) from None
    except (KeyError, TypeError):
        raise UsageError(
            f"A record of {name!r} has no text under {column or ' or '.join(COLUMNS)!r}.",
            "Name its column: hf:name:split:column.",
        ) from None


def _read_stdlib() -> Iterator[Document]:
    """The .py files of the standard library, except tests and generated tables; its help topics."""
    root = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(root.rglob("*.py")):
        inside = path.relative_to(root)
        if (
            SKIPPED & set(inside.parts)
            or path.name in TABLES
            or path.name.startswith("_sysconfigdata")
            or inside.parts[0].startswith("config-")
        ):
            continue
        yield Document(str(inside), path.read_text(encoding="utf-8", errors="replace"))
    from pydoc_data.topics import topics

    for name, text in sorted(topics.items()):
        yield Document(f"topics/{name}", text)
