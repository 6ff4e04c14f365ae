"""The text of each token of a vocabulary, for every family of tokenizers.

A token decoded alone loses the space in front of it wherever the decoder strips the start of a text
(Llama 2, Mistral, T5), so each is decoded behind an anchor: a token with a letter. A token that
holds only part of a character is told byte by byte, `<0xE9>`, so no two of them look alike.
"""

from __future__ import annotations

import codecs
import re
from typing import Any

BROKEN = "\ufffd"  # what decoders write for bytes that are no character
BYTE = re.compile(r"<0x[0-9A-F]{2}>")  # a token of byte fallback


def token_texts(tokenizer: Any, n: int) -> list[str]:
    """The texts (n,) of the token ids 0 to n - 1; empty for an id that the tokenizer lacks.

    `tokenizer` is a fast tokenizer of transformers.
    """
    anchor = tokenizer.encode("a", add_special_tokens=False)[-1:]
    front, *wholes = tokenizer.batch_decode(
        [anchor, *([*anchor, i] for i in range(n))],
        skip_special_tokens=False,
        clean_up_tokenization_spaces=False,
    )
    pieces = tokenizer.convert_ids_to_tokens(list(range(n)))
    added = tokenizer.added_tokens_decoder
    bytes_of = _byte_alphabet() if _is_byte_level(tokenizer) else {}
    texts = []
    for i, (piece, whole) in enumerate(zip(pieces, wholes, strict=True)):
        text = whole.removeprefix(front)
        if i in added:  # a run of spaces may be one, and decodes as such
            text = added[i].content if added[i].special or BROKEN in text else text
        elif piece is None:
            text = ""
        elif bytes_of and all(c in bytes_of for c in piece):
            text = bytes(bytes_of[c] for c in piece).decode("utf-8", errors="tell_bytes")
        elif BROKEN in text:  # a byte of byte fallback, or a piece that no decoder can read alone
            text = piece
        texts.append(text)
    return texts


def special_ids(tokenizer: Any) -> list[int]:
    """The ids of the special tokens, ascending; they hold no text of a document.

    A token for unknown text is not one of them, unless it also begins, ends or pads a text.
    """
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    special |= set(tokenizer.all_special_ids)
    marks = {tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id}
    return sorted(special - ({tokenizer.unk_token_id} - marks))


def find_ends(model: Any, tokenizer: Any) -> frozenset[int]:
    """The token ids that end a generated text, as `generate` of transformers knows them.

    Where the model's generation config names none, it is the tokenizer's end of text.
    """
    named = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
    if named is None:
        named = tokenizer.eos_token_id
    ids = named if isinstance(named, list | tuple) else [named]
    return frozenset(int(i) for i in ids if i is not None)


def find_stop_strings(model: Any) -> tuple[str, ...]:
    """The strings that end a generated text, as the model's generation config names them."""
    named = getattr(getattr(model, "generation_config", None), "stop_strings", None) or ()
    return (named,) if isinstance(named, str) else tuple(named)


def ends_with_stop(tokenizer: Any, stops: tuple[str, ...], ids: list[int]) -> bool:
    """Whether the text of token `ids` holds a stop string that ends within the last token.

    So does the library's own criterion, in which more of the last token may follow the string.
    """
    near = ids[-(1 + max(map(len, stops), default=0)) :]  # a token holds a character or more
    before, whole = (
        tokenizer.decode(part, skip_special_tokens=False, clean_up_tokenization_spaces=False)
        for part in (near[:-1], near)
    )
    return any(
        whole.find(stop, max(0, len(before.rstrip(BROKEN)) - len(stop) + 1)) >= 0 for stop in stops
    )


def cut_broken(text: str) -> str:
    """`text` without the part of a character at its end, where the text was cut within one."""
    return text.rstrip(BROKEN)


def tell_broken(tokenizer: Any, ids: list[int], text: str, skip_special: bool = False) -> str:
    """The decoded `text` of `ids` with bytes that make no character told as `<0xE9>`.

    Bytes at the end, which more tokens may complete, stand as U+FFFD.
    """
    if BROKEN not in text:
        return text
    skipped = set(tokenizer.all_special_ids) if skip_special else set()
    named = tokenizer.convert_ids_to_tokens([i for i in ids if i not in skipped])
    pieces = [piece for piece in named if piece is not None]  # rows that only pad the vocabulary
    if _is_byte_level(tokenizer):
        known = _byte_alphabet()
        data = b"".join(
            bytes(known[c] for c in piece) if all(c in known for c in piece) else piece.encode()
            for piece in pieces
        )
        return _tell(data, False)
    told = _told_runs(pieces)
    parts = text.split(BROKEN)
    if len(parts) != len(told) + 1:  # a decoder of another kind
        return text
    return "".join(a + b for a, b in zip(parts, [*told, ""], strict=True))


def _told_runs(pieces: list[str]) -> list[str]:
    """What to show for each U+FFFD that byte fallback decodes `pieces` to.

    The decoder gives one for each byte of a run that is no text.
    """
    told: list[str] = []
    places = {i for i, piece in enumerate(pieces) if BYTE.fullmatch(piece)}
    at = 0
    while at < len(pieces):
        end = at
        while end < len(pieces) and end in places:
            end += 1
        if end == at:
            told += [BROKEN] * pieces[at].count(BROKEN)
            at += 1
            continue
        data = bytes(int(piece[3:5], 16) for piece in pieces[at:end])
        try:
            told += [BROKEN] * data.decode().count(BROKEN)
        except UnicodeDecodeError:
            told += [_tell(data, end < len(pieces)), *[""] * (len(data) - 1)]
        at = end
    return told


def _tell(data: bytes, final: bool) -> str:
    """Bytes as text, those that make no character as `<0xE9>`; U+FFFD for a part at the end."""
    decoder = codecs.getincrementaldecoder("utf-8")("tell_bytes")
    text = decoder.decode(data, final)
    return text + BROKEN if decoder.getstate()[0] else text


def _is_byte_level(tokenizer: Any) -> bool:
    decoder = tokenizer.backend_tokenizer.decoder
    return decoder is not None and b"ByteLevel" in bytes(decoder.__getstate__())


def _byte_alphabet() -> dict[str, int]:
    """Character -> byte in the alphabet of byte-level BPE (Radford et al. 2019).

    The printable bytes of Latin-1 stand for themselves, the others for characters from 256 on.
    """
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    table = {chr(byte): byte for byte in plain}
    return table | {chr(256 + i): byte for i, byte in enumerate(others)}


def _tell_bytes(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return "".join(f"<0x{b:02X}>" for b in error.object[error.start : error.end]), error.end


codecs.register_error("tell_bytes", _tell_bytes)
