"""Read the documents of local files: what each form holds, compressed or not.

    .txt .md               text; long ones are cut into documents at blank lines
    .jsonl .ndjson         a record a line
    .json                  a list of records, one record, or a list under one key
    .csv .tsv              a record a row, the columns named in the first; one column whose first
                           row is a sentence has no name
    .parquet               a record a row
    .gz .zst               any of these, compressed

A suffix may be in any case. `core/text/forms.py` says what a record is.
"""

from __future__ import annotations

import codecs
import contextlib
import csv
import io
import itertools
import json
import re
import sys
from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import IO, Any, TextIO

from core.text.forms import COLUMNS, Document, LeftOut, Unusable, is_column, make_document

TEXTS, LINES, JSONS, TABLES = (".txt", ".md"), (".jsonl", ".ndjson"), (".json",), (".csv", ".tsv")
PARQUET = (".parquet",)
FORMS = (*TEXTS, *LINES, *JSONS, *TABLES, *PARQUET)
COMPRESSIONS = {".gz": "gzip", ".zst": "zstd"}
LONG = 100_000  # characters of a text file from which `auto` cuts it
PIECE = 2000  # characters that a document cut from a file has at least, where its blank lines allow
NAME_WORDS = 4  # words that the name of a column has at most
BLOCK = 1 << 20  # bytes or characters of a file that are read at once
ROWS = 1024  # of a Parquet file that are read at once
BLANK = re.compile(r"(?:\r?\n[ \t]*){2,}")
MARKS = {  # that of UTF-32 begins as that of UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32-le",
    codecs.BOM_UTF32_BE: "utf-32-be",
    codecs.BOM_UTF8: "utf-8",
    codecs.BOM_UTF16_LE: "utf-16-le",
    codecs.BOM_UTF16_BE: "utf-16-be",
}


def form_of(path: Path) -> str:
    """The suffix that tells how a file is read; empty for one that is not read."""
    suffixes = [s.lower() for s in path.suffixes]
    if suffixes and suffixes[-1] in COMPRESSIONS:
        suffixes.pop()
    return suffixes[-1] if suffixes and suffixes[-1] in FORMS else ""


def list_files(folder: Path) -> list[Path]:
    """The files of a folder that can be read, hidden ones and those in hidden folders left out."""
    return sorted(
        path
        for path in folder.rglob("*")
        if form_of(path)
        and path.is_file()
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )


def read_file(
    path: Path, left_out: LeftOut, cut: bool | None, column: str = ""
) -> Iterator[Document]:
    """Yield the documents of one file; what cannot be read is counted in `left_out`.

    `column` names where the records have their text; empty finds it. A text file is cut at its
    blank lines where `cut` says so; None cuts those of over LONG characters. A file is checked from
    end to end and then read in pieces, so it may be larger than memory: a .json file, and a
    compressed .parquet file, may not.
    """
    form = form_of(path)
    try:
        if form in TEXTS and column:
            raise Unusable("text files, which have no columns", path.name)
        if form in TEXTS:
            yield from _read_text(path, _Text(path), cut)
            return
        if form in PARQUET:
            records = _parquet_records(path, column)
        else:
            records = _records(path, form, _Text(path), column)
        for name, record in records:
            try:
                if isinstance(record, Unusable):
                    raise record
                yield make_document(name, record, column)
            except Unusable as error:
                left_out.add(error.reason, error.example, advice=error.advice)
    except Unusable as error:
        left_out.add(error.reason, error.example, advice=error.advice)


@contextlib.contextmanager
def _open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Context manager: yields the bytes of a file, decompressed."""
    compression = COMPRESSIONS.get(path.suffix.lower())
    if compression is None:
        with open(path, "rb") as handle:
            yield handle
        return
    import pyarrow

    try:
        with pyarrow.input_stream(str(path), compression=compression) as stream:
            yield stream
    except (OSError, pyarrow.ArrowException) as error:
        raise Unusable(
            f"files that cannot be decompressed as {path.suffix.lower()}",
            f"{path.name}: {_first_line(error)}",
            "Compress it again, or remove it.",
        ) from None


class _Text:
    """The text of a file without its byte-order mark; making one raises Unusable for no text.

    `open` gives a handle that turns no \\r\\n into \\n, as read_text would.
    """

    def __init__(self, path: Path):
        self.path = path
        with _open_bytes(path) as handle:
            head = handle.read(4)
            self.mark = next((m for m in MARKS if head.startswith(m)), b"")
            self.encoding = MARKS.get(self.mark, "utf-8")
            self._check(head[len(self.mark) :], handle)

    def _check(self, piece: bytes, handle: IO[bytes]) -> None:
        """Decode from `piece` on to the end."""
        decoder, at = codecs.getincrementaldecoder(self.encoding)(), 0
        while True:
            rest = handle.read(BLOCK)
            begun = len(decoder.getstate()[0])  # bytes of a character that is not whole yet
            try:
                text = decoder.decode(piece, final=not rest)
            except UnicodeDecodeError as error:
                raise Unusable(
                    "files that are not UTF-8",
                    f"{self.path.name}: {error.reason} at byte {at - begun + error.start}",
                    "Convert it to UTF-8.",
                ) from None
            if "\0" in text:  # binary, or UTF-16 without its mark
                raise Unusable(
                    "files that are not text", f"{self.path.name} has zero bytes", "Remove it."
                )
            if not rest:
                return
            at, piece = at + len(piece), rest

    @contextlib.contextmanager
    def open(self, newline: str = "") -> Iterator[TextIO]:
        """Context manager: yields the text; `newline` is that of `open`: "\\n" or "" for any."""
        with _open_bytes(self.path) as handle:
            handle.read(len(self.mark))
            yield io.TextIOWrapper(handle, self.encoding, newline=newline)

    def read(self) -> str:
        """All of it."""
        with self.open() as handle:
            return handle.read()

    def first_line(self) -> str:
        """The first line that is not blank, without white space in front."""
        with self.open("\n") as handle:
            return next((line for line in handle if line.strip()), "").lstrip().rstrip("\n")


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]


# ---------------------------------------------------------------- text


def _read_text(path: Path, text: _Text, cut: bool | None) -> Iterator[Document]:
    with text.open() as handle:
        head = handle.read(LONG + 1)
        pieces: Iterator[str] = iter(())
        if len(head) > LONG if cut is None else cut:
            pieces = cut_pieces(itertools.chain((head,), iter(partial(handle.read, BLOCK), "")))
        first, second = next(pieces, None), next(pieces, None)
        if first is not None and second is not None:
            for number, piece in enumerate(itertools.chain((first, second), pieces), 1):
                yield Document(f"{path.name}:{number}", piece)
            return
    whole = text.read()
    if not whole.strip():
        raise Unusable("files without a word", path.name)
    yield Document(path.name, whole)


def cut_pieces(blocks: Iterable[str]) -> Iterator[str]:
    """Cut a text, given in blocks, at blank lines into documents of PIECE characters or more.

    The last may be shorter.
    """
    held, begin, searched = "", 0, 0
    for block in blocks:
        held += block
        for blank in BLANK.finditer(held, searched):
            if blank.end() == len(held):
                break  # it may go on in the next block
            if blank.start() - begin >= PIECE:
                yield held[begin : blank.start()]
                begin = blank.end()
        held, begin = held[begin:], 0
        searched = len(held.rstrip("\r\n \t"))
    for blank in BLANK.finditer(held, searched):
        if blank.start() >= PIECE:
            yield held[: blank.start()]
            held = ""
    if held.strip():
        yield held


# ---------------------------------------------------------------- records

Named = Iterator[tuple[str, Any]]  # (name, record, or the Unusable that stands in its place)


def _records(path: Path, form: str, text: _Text, column: str) -> Named:
    if form in LINES:
        return _lines(path, text)
    if form in TABLES:
        return _rows(path, text, "\t" if form == ".tsv" else ",", column)
    return _json(path, text)


def _lines(path: Path, text: _Text) -> Named:
    if not _is_json(text.first_line()) and _is_json(whole := text.read()):
        yield from _values(path, json.loads(whole))  # one value over many lines
        return
    with text.open("\n") as handle:  # a JSON string may hold U+2028, where splitlines cuts too
        for number, line in enumerate(handle, 1):
            if line.strip():
                name = f"{path.name}:{number}"
                try:
                    yield name, json.loads(line)
                except ValueError as error:
                    example = f"{path.name}, line {number}: {_first_line(error)}"
                    yield name, Unusable("lines that are not JSON", example, "Correct the lines.")


def _json(path: Path, text: _Text) -> Named:
    try:
        value = json.loads(text.read())
    except ValueError as error:
        if _is_json(text.first_line()):  # JSON lines under another name
            yield from _lines(path, text)
            return
        raise Unusable(
            "files that are not JSON", f"{path.name}: {_first_line(error)}", "Correct the file."
        ) from None
    yield from _values(path, value)


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True


def _values(path: Path, value: Any) -> Named:
    """The records of a JSON value: a list, a list or records under keys, columns, or one record."""
    for number, record in enumerate(_list_records(value), 1):
        yield f"{path.name}:{number}", record


def _list_records(value: Any, depth: int = 0) -> list[Any]:
    if isinstance(value, list):
        return value
    if not isinstance(value, dict):
        return [value]
    if any(c in value for c in COLUMNS):
        return _turn_columns(value) if _is_columns(value) else [value]
    inner = list(value.values())
    if inner and all(isinstance(v, dict) and any(c in v for c in COLUMNS) for v in inner):
        return inner  # records by their names
    lists = [v for v in inner if isinstance(v, list)]
    if len(lists) == 1:
        return lists[0]
    tables = [v for v in inner if isinstance(v, dict)]
    return _list_records(tables[0], depth + 1) if len(tables) == 1 and depth < 3 else [value]


def _is_columns(value: dict[str, Any]) -> bool:
    """Whether a JSON object holds columns, as lists or by index, rather than one record."""
    texts = next((value[c] for c in COLUMNS if c in value), None)
    cells = list(texts.values()) if isinstance(texts, dict) else texts
    return isinstance(cells, list) and bool(cells) and all(isinstance(t, str) for t in cells)


def _turn_columns(value: dict[str, Any]) -> list[Any]:
    columns = {k: list(v.values()) if isinstance(v, dict) else v for k, v in value.items()}
    columns = {k: v for k, v in columns.items() if isinstance(v, list)}
    return [dict(zip(columns, row, strict=False)) for row in zip(*columns.values(), strict=False)]


def _pick_delimiter(header: str, delimiter: str, column: str) -> str:
    """What stands between the columns that the first line names, where a known one is named."""
    for other in dict.fromkeys((delimiter, ";", "\t", ",", "|")):
        names = next(csv.reader([header.strip("\r")], delimiter=other), [])
        if len(names) > 1 and any(is_column(name, column) or is_column(name) for name in names):
            return other
    return delimiter


def _rows(path: Path, text: _Text, delimiter: str, wanted: str) -> Named:
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    delimiter = _pick_delimiter(text.first_line(), delimiter, wanted)
    with text.open() as handle:
        rows = csv.DictReader(handle, delimiter=delimiter)
        rows.fieldnames = [c.strip() for c in rows.fieldnames or [] if c is not None]
        column = _pick_column(path, list(rows.fieldnames), wanted)
        known = is_column(column, wanted)
        if not known:
            yield f"{path.name}:0", _read_header(path, column)
        try:
            for number, row in enumerate(rows, 1):
                value = row.get(column)
                record = row | {column: value} if known else value
                yield f"{path.name}:{number}", record if value is not None else {column: None}
        except csv.Error as error:
            raise Unusable("files that are no tables", f"{path.name}: {error}") from None


def _read_header(path: Path, name: str) -> Any:
    """The first row of a table of one column: its first text, or else the Unusable that counts it.

    A name has at most NAME_WORDS words and ends without a full stop.
    """
    if len(name.split()) > NAME_WORDS or name.endswith((".", "!", "?", "。")):
        return name
    return Unusable(
        "first rows of tables, taken for the name of their column", f"{path.name}: {name}"
    )


def _pick_column(path: Path, columns: list[str], wanted: str) -> str:
    """The column that holds the text: the one that is wanted, one of COLUMNS, or the only one."""
    if wanted:
        column = wanted if wanted in columns else None
    else:
        only = columns[0] if len(columns) == 1 else None
        column = next((c for known in COLUMNS for c in columns if c.lower() == known), only)
    if column is None:
        raise Unusable(
            f"files without a column {wanted}" if wanted else "files without a column of text",
            f"{path.name} has columns {columns}",
            f"One of them must be {', '.join(COLUMNS)}, or name one: {path.name}:COLUMN.",
        )
    return column


def _parquet_records(path: Path, named: str) -> Named:
    import pyarrow
    import pyarrow.parquet as parquet

    source: Any = path
    if path.suffix.lower() in COMPRESSIONS:  # it is read from its end, which a stream cannot be
        with _open_bytes(path) as handle:
            source = io.BytesIO(handle.read())
    try:
        file = parquet.ParquetFile(source)
    except pyarrow.ArrowException as error:
        raise Unusable(
            "files that are not Parquet",
            f"{path.name} is not a Parquet file: {_first_line(error)}",
            "Remove it from the corpus.",
        ) from None
    names = list(file.schema_arrow.names)
    column = _pick_column(path, names, named)
    wanted = [c for c in ("instruction", "input", "output") if c in names]
    number = 0
    columns = wanted if column.lower() == "instruction" else [column]
    for batch in file.iter_batches(ROWS, columns=columns):
        for record in batch.to_pylist():
            number += 1
            # a column that has another name is the only one
            known = is_column(column, named)
            yield f"{path.name}:{number}", record if known else {"text": record[column]}
