"""Token texts, ids and special tokens, for tokenizers of every family."""

import re

import numpy as np
import pytest
import torch
from transformers.convert_slow_tokenizer import bytes_to_unicode

from core.activations.capture import describe
from core.activations.tokenize import Chat, spell_prompt
from core.errors import UsageError
from core.records import Site
from core.subject.subject import Subject
from core.subject.token_texts import cut_broken, find_ends, special_ids, token_texts
from core.text.documents import Document
from core.text.tokens import Tokens, find_shown
from tests.support.text import encode, tables_of
from tests.support.tiny import byte_level_tokenizer, tiny_model
from tests.support.tokenizers import FAMILIES, make_tokenizer, save_with_state, write_tekken

pytestmark = pytest.mark.slow  # the file as a whole

TEXTS = [
    "the cat sat on the mat, and the dog ran",
    "(the cat) x=1;\n\n\tdef run(self): return  self.value",
    "снег 雪 and 🎉🎊, naïve café: 👩‍👩‍👧 joined",
    "the cat <|mark|> sat",
    "the dog ran \n\n\t ",
    " \u200bzero\u00a0width\u3000wide\r\nof the cat\x0b",
    "ﬁne ① ½ e\u0301a ``quoted'' का हिन्दी 한국어 𝕳 🇩🇪 \ufeffx",
]
BROKEN = "\ufffd"
BYTES = re.compile("(<0x[0-9A-F]{2}>)+")
COUNTING = Chat(special=True)
SITE = Site.parse("resid_post.1")


def subject_of(tokenizer):
    return Subject(tiny_model("gpt2", len(tokenizer) + 5), tokenizer)


def tokens_of(subject, texts, folder, chat=COUNTING):
    """What a capture keeps of the texts, in rows of 16 tokens."""
    documents = [Document(str(i), t) for i, t in enumerate(texts)]
    encoded, left_out = encode(subject, documents, chat=chat)
    describe([folder], tables_of(subject, encoded, folder, 17), subject)
    return Tokens(folder), left_out


@pytest.fixture(params=FAMILIES)
def family(request):
    return request.param


@pytest.mark.parametrize("added", [False, True], ids=["plain", "added tokens"])
def test_joined_token_texts_are_the_document(tmp_path, family, added):
    """Whatever window is cut, and whatever the tokenizer drops within or around the text."""
    subject = subject_of(make_tokenizer(family, added))
    tokens, _ = tokens_of(subject, TEXTS, tmp_path)
    offsets = tokens.document_offsets.tolist()
    for number, text in enumerate(TEXTS):
        a, b = offsets[number : number + 2]
        texts = tokens.spell(a, b)
        assert "".join(texts) == text
        assert len(texts) == b - a
        for start in range(a, b, 3):
            window = "".join(tokens.spell(start, min(b, start + 7)))
            assert window in text
            assert BROKEN not in window
            assert all(tokens.spell_each(start, min(b, start + 7)))
    joined = "".join(tokens.spell(0, len(tokens)))
    assert joined == "".join(TEXTS), "windows that cross documents too"


def test_token_texts_hold_no_broken_character_and_keep_their_space(family):
    tokenizer = make_tokenizer(family)
    texts = token_texts(tokenizer, len(tokenizer) + 3)
    assert not [text for text in texts if BROKEN in text]
    assert texts[-3:] == ["", "", ""], "ids that the tokenizer lacks"
    words = [texts[i] for i in tokenizer.encode("cat the cat", add_special_tokens=False)]
    if family != "xlm-r without a prefix space":  # it drops every space of a text
        assert words[-2:] == [" the", " cat"]


def test_two_tokens_share_a_text_only_where_the_tokenizer_decodes_both_alike(family):
    tokenizer = make_tokenizer(family)
    texts = token_texts(tokenizer, len(tokenizer))
    (front,) = tokenizer.encode("a", add_special_tokens=False)[-1:]
    seen = {}
    for i, text in enumerate(texts):
        decoded = tokenizer.decode([front, i, front])
        assert seen.setdefault(text, decoded) == decoded, text


def test_the_replacement_character_itself_is_shown_where_a_document_has_it(tmp_path):
    subject = subject_of(make_tokenizer("gpt2"))
    tokens, _ = tokens_of(subject, [f"a {BROKEN} b the cat"], tmp_path)
    assert "".join(tokens.spell(0, len(tokens))) == f"a {BROKEN} b the cat"


@pytest.mark.parametrize(
    "half", ["a \ud800 b the cat", "the \udc80\udcff cat", "cut in an emoji \ud83d"]
)
def test_half_a_character_is_read_as_none_and_counted(tmp_path, family, half):
    """JSON may hold halves of UTF-16 pairs; no tokenizer reads them."""
    subject = subject_of(make_tokenizer(family))
    tokens, left_out = tokens_of(subject, [half, "the cat \ud83c\udf89 sat"], tmp_path)
    shown = {tokens.text(i) for i in range(2)}
    assert shown == {
        "".join(BROKEN if "\ud800" <= c <= "\udfff" else c for c in half),
        "the cat 🎉 sat",
    }
    assert left_out["documents with halves of characters, read as U+FFFD"] == 2
    subject.prompt_tokens(half)


def test_a_prompt_is_spelt_as_it_stands(family):
    subject = subject_of(make_tokenizer(family))
    for text in TEXTS:
        texts = spell_prompt(subject, text)
        ids = subject.prompt_tokens(text)
        assert len(texts) == len(ids) and all(texts)
        if subject.bos is not None:
            assert texts[0] == subject.token_texts()[subject.bos]
            texts, ids = texts[1:], ids[1:]
        inner = "".join("" if BYTES.fullmatch(one) else one for one in texts)
        assert inner in (text, f" {text}"), "a space that the tokenizer put in front may be a token"


def test_a_token_that_the_subject_has_no_row_for_is_refused():
    tokenizer = make_tokenizer("llama 2", added=True)
    subject = Subject(tiny_model("gpt2", len(tokenizer) - 2), tokenizer)
    assert subject.prompt_tokens("the dog")
    with pytest.raises(UsageError, match="gives the token"):
        subject.prompt_tokens("the dog <|mark|>")


def test_a_row_that_only_pads_the_vocabulary_is_no_text(family):
    tokenizer = make_tokenizer(family)
    subject = Subject(tiny_model("gpt2", len(tokenizer) + 8), tokenizer)
    front, beyond = subject.prompt_tokens("the"), len(tokenizer) + 3
    ids = tokenizer.encode("snow 雪", add_special_tokens=False)
    for cut_at in range(len(ids) + 1):
        said = subject.text_after(front, [*ids[:cut_at], beyond])
        assert said.startswith(cut_broken(subject.text_after(front, ids[:cut_at])))


def test_a_checkpoint_with_tekken_json_alone_has_its_marks(tmp_path):
    tiny_model("mistral", write_tekken(tmp_path)).save_pretrained(tmp_path)
    subject = Subject.load(str(tmp_path), device="cpu", dtype="float32")
    text = "the cat 雪 [INST]"
    assert subject.bos == 1 and subject.ends == {0} and subject.tokenizer.eos_token_id == 2
    ids = subject.prompt_tokens(text)
    assert ids[0] == 1 and ids[-1] == 3 and subject.tokenizer.decode(ids[1:]) == text
    write_tekken(tmp_path, marks=False)
    with pytest.raises(UsageError, match="old form"):
        Subject.load(str(tmp_path))


def test_parts_of_a_character_are_told_apart_and_shown_as_the_character(tmp_path):
    subject = subject_of(make_tokenizer("llama 2"))
    tokens, _ = tokens_of(subject, ["the 雪 cat"], tmp_path)
    texts = tokens.spell(0, len(tokens))
    place = texts.index("雪")
    assert texts[place : place + 3] == ("雪", "", "")
    assert tokens.spell_each(0, len(tokens))[place : place + 3] == ("雪", "<0x9B>", "<0xAA>")
    pieces = [tokens.vocabulary[i] for i in tokens.ids[place : place + 3]]
    assert pieces == ["<0xE9>", "<0x9B>", "<0xAA>"], "what rules tell apart"
    assert [find_shown(texts, place + i) for i in range(3)] == [place] * 3


# ---------------------------------------------------------------- ids


@pytest.mark.parametrize(("truncation", "padding"), [(1, 0), (0, 1), (1, 1)])
def test_truncation_and_padding_that_were_saved_change_no_id(tmp_path, family, truncation, padding):
    tokenizer = save_with_state(make_tokenizer(family), tmp_path, bool(truncation), bool(padding))
    fresh = make_tokenizer(family)
    subject = subject_of(tokenizer)
    texts = ["the cat " * 60 + "sat", "the dog ran"]
    expected = [fresh.encode(text, add_special_tokens=False) for text in texts]
    for _ in range(2):  # the library's own calls change the state
        encoded, _ = encode(
            subject, [Document(str(i), t) for i, t in enumerate(texts)], chat=COUNTING
        )
        assert [d.ids.tolist() for d in encoded] == expected
        bos = [] if subject.bos is None else [subject.bos]
        assert subject.prompt_tokens(texts[0]) == bos + expected[0]
        tokenizer(texts, truncation=True, padding="max_length", max_length=8)


# ---------------------------------------------------------------- special tokens


def test_special_tokens_in_a_text_are_context_and_counted_apart(tmp_path, family):
    tokenizer = make_tokenizer(family, added=True)
    subject = subject_of(tokenizer)
    special = [tokenizer.convert_ids_to_tokens(i) for i in special_ids(tokenizer)]
    texts = [f"the cat {mark} sat on the mat" for mark in special]
    tokens, left_out = tokens_of(subject, texts, tmp_path, Chat())
    are_special = np.isin(tokens.ids, special_ids(tokenizer))
    assert are_special.sum() == len(special)
    assert np.array_equal(np.asarray(tokens.counted), ~are_special)
    assert np.asarray(tokens.copied)[are_special].all(), "no example is drawn from them"
    assert left_out["special tokens written in a text, not counted"] == len(special)
    kept, nothing = tokens_of(subject, texts, tmp_path, Chat(special=True))
    assert np.asarray(kept.counted).all() and not nothing


def test_a_leading_bos_is_not_doubled(tmp_path, family):
    tokenizer = make_tokenizer(family)
    subject = subject_of(tokenizer)
    if subject.bos is None:
        pytest.skip("the tokenizer has no BOS")
    text = f"{tokenizer.bos_token}the cat sat on the mat"
    assert subject.prompt_tokens(text) == tokenizer.encode(text, add_special_tokens=False)
    assert subject.prompt_tokens(text).count(subject.bos) == 1
    tokens, _ = tokens_of(subject, [text, "the dog ran"], tmp_path)
    assert (
        tokens.ids[: len(subject.prompt_tokens(text)) - 1].tolist()
        == (subject.prompt_tokens(text)[1:])
    )


# ---------------------------------------------------------------- where a text ends


def own_text(model, prompt, n_new, **more):
    return model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=n_new,
        do_sample=False,
        pad_token_id=0,
        **more,
    )[0].tolist()


@pytest.mark.parametrize("spread", [1, 2])
def test_generation_stops_at_the_stop_strings_of_the_config(spread):
    tokenizer, model = byte_level_tokenizer(), tiny_model("gpt2")
    free = Subject(model, tokenizer)
    prompt = torch.tensor([free.prompt_tokens("the cat")])
    (made,) = free.generate(["the cat"], 12, SITE, temperature=0)
    said = made.tokens[made.n_prompt :]
    stop = tokenizer.decode(said[4 : 4 + spread])
    assert stop and BROKEN not in stop
    model.generation_config.stop_strings = ["never said", stop]
    subject = Subject(model, tokenizer)
    assert subject.stop_strings == ("never said", stop)
    (stopped,) = subject.generate(["the cat"], 12, SITE, temperature=0)
    assert stopped.tokens == own_text(model, prompt, 12, tokenizer=tokenizer)
    assert len(stopped.tokens) < len(made.tokens)


def test_a_text_that_is_cut_within_a_character_ends_before_it(tmp_path):
    tokenizer = byte_level_tokenizer()
    ids = tokenizer.encode("a 雪雪", add_special_tokens=False)
    for n in range(1, len(ids) + 1):
        text = cut_broken(tokenizer.decode(ids[:n]))
        assert BROKEN not in text and "a 雪雪".startswith(text)
    assert text == "a 雪雪"


@pytest.mark.parametrize(
    "name", ["gpt2", "llama 3", "mistral, tekken", "llama 2", "gemma", "unigram with bytes"]
)
@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"the \xe9\x9b cat", "the <0xE9><0x9B> cat"),
        (b"\xff\xfe the cat", "<0xFF><0xFE> the cat"),
        (b"a \xe9\xe9\x9b\xaa b", "a <0xE9>雪 b"),
        (b"a \xf0\x9f\x8e\x89\x80 b", "a 🎉<0x80> b"),
        (b"a \xef\xbf\xbd b", f"a {BROKEN} b"),
        (b"a \xe9\x9b", "a "),
        (b"a \xff\xe9\x9b", "a <0xFF>"),
    ],
)
def test_bytes_that_make_no_character_are_told_within_a_continuation(name, data, told):
    """For every number of tokens written so far the text only grows, as `capture` needs it."""
    tokenizer = make_tokenizer(name)
    subject = subject_of(tokenizer)
    ids = ids_of_bytes(tokenizer, data)
    front = tokenizer.encode("the", add_special_tokens=False)
    said = ""
    for n in range(1, len(ids) + 1):
        text = cut_broken(subject.text_after(front, ids[:n]))
        assert text.startswith(said), (said, text)
        said = text
    assert said == told


def ids_of_bytes(tokenizer, data):
    """The tokens of single bytes, of letters where the tokenizer has them as such."""
    letters = {chr(b): c for b, c in bytes_to_unicode().items()}
    out = []
    for byte in data:
        pieces = [f"<0x{byte:02X}>", letters[chr(byte)]]
        if byte < 128:
            pieces = [chr(byte).replace(" ", "▁"), letters[chr(byte)], *pieces]
        ids = (tokenizer.convert_tokens_to_ids(piece) for piece in pieces)
        out.append(next(i for i in ids if i is not None and i != tokenizer.unk_token_id))
    return out


@pytest.mark.parametrize("ends", [7, [7, 9], None])
def test_generation_stops_where_that_of_transformers_stops(ends):
    tokenizer, model = byte_level_tokenizer(), tiny_model("gpt2")
    free = Subject(model, tokenizer)
    prompt = torch.tensor([free.prompt_tokens("the cat")])
    (made,) = free.generate(["the cat"], 12, SITE, temperature=0)
    said = made.tokens[made.n_prompt :]
    if ends is not None:  # tokens that the subject says, and not at once
        ends = said[5] if isinstance(ends, int) else [said[7], said[4]]
    model.generation_config.eos_token_id = ends
    subject = Subject(model, tokenizer)
    own = own_text(model, prompt, 12)
    (stopped,) = subject.generate(["the cat"], 12, SITE, temperature=0)
    if ends is None:  # then the tokenizer's end of text is the only one that is known
        assert subject.ends == {tokenizer.eos_token_id}
    else:
        assert stopped.tokens == own
        assert len(stopped.tokens) < len(made.tokens)
    assert find_ends(model, tokenizer) == subject.ends
