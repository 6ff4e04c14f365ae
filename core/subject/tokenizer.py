"""Load the tokenizer of a subject: that of its folder, or what Mistral's `tekken.json` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.errors import UsageError

TEKKEN, PLAIN = "tekken.json", "tokenizer.json"


def load_tokenizer(name: str, **source: Any) -> Any:
    """The tokenizer of the subject `name`, a folder or a repository of the hub.

    A checkpoint that has `tekken.json` and no `tokenizer.json` gets the library's conversion of it:
    a fast tokenizer with its marks of begin and end, which the library leaves out where it converts
    by itself. `source` holds `revision` and `trust_remote_code`. Raises UsageError for an old
    `tekken.json`, which only its own library reads.
    """
    from transformers import AutoTokenizer
    from transformers.integrations.mistral import convert_tekken_tokenizer

    revision = source.get("revision")
    if not _find(name, PLAIN, revision) and (tekken := _find(name, TEKKEN, revision)):
        try:
            return convert_tekken_tokenizer(tekken)
        except ImportError:
            raise UsageError(
                f"The tokenizer of {name!r} is a {TEKKEN} of an old form.",
                "Type: pip install mistral-common, then the same command again.",
            ) from None
    # else mistral-common, where it is installed, takes the place of the files, without offsets
    return AutoTokenizer.from_pretrained(name, mistral_format=False, **source)


def _find(name: str, file: str, revision: str | None) -> str:
    """The path of a file of the subject; empty where there is none or the hub does not answer."""
    path = Path(name) / file
    if Path(name).is_dir():
        return str(path) if path.is_file() else ""
    from transformers.utils import cached_file

    found = cached_file(
        name,
        file,
        revision=revision,
        _raise_exceptions_for_gated_repo=False,
        _raise_exceptions_for_missing_entries=False,
        _raise_exceptions_for_connection_errors=False,
    )
    return str(found or "")
