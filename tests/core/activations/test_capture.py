"""The stage `capture`: activations against whole passes by hand, interruptions, what is counted."""

import itertools
import json
import re
import threading
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch

import core.activations.capture
import core.activations.shards
import core.subject.subject
from autointerp.pipeline import capture_together
from core.activations.passes import Reader, TextRows
from core.activations.shards import ShardMaker, shard_rows
from core.activations.store import (
    ActivationStore,
    from_numpy,
    open_activations,
    open_targets,
    to_numpy,
    write_shard,
)
from core.errors import NotReady, UsageError
from core.records import SPLITS, Site
from core.settings import CaptureSettings
from core.subject.load import load_subject
from core.subject.subject import Subject
from core.text.documents import text_hash
from core.text.tokens import Tokens
from tests.support.stages import capture
from tests.support.tiny import (
    N_DOCUMENTS,
    SHARD_TOKENS,
    SMALL_CAPTURE,
    WIDTH,
    Counted,
    Killed,
    byte_level_tokenizer,
    new_run,
    save_subject,
    tiny_model,
)

pytestmark = pytest.mark.slow  # the file as a whole


@pytest.fixture(autouse=True)
def several_shards(monkeypatch):
    """Cut the captures of this module into shards as the small run is cut."""
    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", SHARD_TOKENS)


def by_hand(subject, ids, context, layer=1):
    """Activations of a document's tokens, from one whole pass for each row.

    The first position of a row is left out.
    """
    bos = [] if subject.bos is None else [subject.bos]
    size = context - len(bos)
    out = []
    for start in range(0, len(ids), size):
        row = torch.tensor([bos + list(ids[start : start + size])])
        with torch.inference_mode():
            out.append(
                subject.model(
                    input_ids=row, output_hidden_states=True, use_cache=False
                ).hidden_states[layer + 1][0, 1:]
            )
    return torch.cat(out)


def captured(run):
    folder = run.folder("capture")
    return Tokens(folder), ActivationStore(folder)


def document_activations(tokens, store, number):
    return store.read(
        np.arange(tokens.document_offsets[number], tokens.document_offsets[number + 1])
    )


# ---------------------------------------------------------------- the store


def test_every_stored_activation_is_that_of_its_row_alone(tiny_run, documents_folder):
    """Rows never mix documents, no token is lost, and BOS starts every row and is never kept."""
    subject, (tokens, store) = load_subject(tiny_run), captured(tiny_run)
    assert store.n_shards > 2
    assert len(store) == len(tokens) == int(store.bounds[-1])
    assert sorted(tokens.names) == sorted(p.name for p in documents_folder.glob("*.txt"))
    for number, name in enumerate(tokens.names):
        text = (documents_folder / name).read_text(encoding="utf-8")
        ids = subject.tokenizer.encode(text)
        assert (
            tokens.ids[
                tokens.document_offsets[number] : tokens.document_offsets[number + 1]
            ].tolist()
            == ids
        )
        assert tokens.text(number) == text
        torch.testing.assert_close(
            document_activations(tokens, store, number),
            by_hand(subject, ids, 32),
            rtol=1e-4,
            atol=1e-4,
        )


def test_without_bos_the_first_token_of_a_row_is_read_but_not_kept(
    tmp_path, subject_folder_without_bos, documents_folder
):
    run = new_run(tmp_path / "run", subject_folder_without_bos, documents_folder)
    manifest = capture(run, SMALL_CAPTURE)
    subject, (tokens, store) = load_subject(run), captured(run)
    assert subject.bos is None
    left_out = 0
    for number, name in enumerate(tokens.names):
        ids = subject.tokenizer.encode((documents_folder / name).read_text(encoding="utf-8"))
        kept = [token for i, token in enumerate(ids) if i % 32]
        left_out += len(ids) - len(kept)
        assert (
            tokens.ids[
                tokens.document_offsets[number] : tokens.document_offsets[number + 1]
            ].tolist()
            == kept
        )
        torch.testing.assert_close(
            document_activations(tokens, store, number),
            by_hand(subject, ids, 32),
            rtol=1e-4,
            atol=1e-4,
        )
    assert (
        manifest.summary["left_out"]["first tokens of rows (no BOS)"]
        == left_out
        > len(tokens.names)
    )


def test_the_size_of_a_pass_changes_nothing_but_speed(
    tiny_run, tmp_path, subject_folder, documents_folder
):
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    manifest = capture(run, CaptureSettings(context=32, batch_tokens=1))
    assert manifest.key == tiny_run.manifest("capture").key
    (tokens, store), (same_tokens, same) = captured(tiny_run), captured(run)
    assert np.array_equal(tokens.ids, same_tokens.ids)
    torch.testing.assert_close(
        store.read(np.arange(len(store))), same.read(np.arange(len(store))), rtol=1e-4, atol=1e-4
    )


def test_passes_at_once_give_the_same_bytes_and_return_the_cores(
    tiny_run, tmp_path, subject_folder, documents_folder, monkeypatch
):
    """As on two cores. The main thread keeps one: a process forked from it would hang in torch."""
    shares, given_back, original, get, put = (
        set(),
        [],
        TextRows.tokens,
        torch.get_num_threads,
        torch.set_num_threads,
    )
    calls, both = itertools.count(), threading.Barrier(2, timeout=60)

    def tokens(rows, chosen):
        if next(calls) < 2:
            both.wait()  # the first pass waits until a second one has begun
        shares.add(get())
        return original(rows, chosen)

    monkeypatch.setattr(TextRows, "tokens", tokens)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    monkeypatch.setattr(
        torch,
        "set_num_threads",
        lambda n: (
            given_back.append(n)
            if threading.current_thread() is threading.main_thread()
            else put(n)
        ),
    )
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    assert capture(run, SMALL_CAPTURE).files == tiny_run.manifest("capture").files
    assert shares == {1}
    assert given_back == [2]


def test_an_error_in_the_background_is_raised(
    tmp_path, subject_folder, documents_folder, monkeypatch
):
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.capture, "word_tree", 1)
        capture(run, SMALL_CAPTURE)
    assert run.find("capture") is None
    assert run.state("capture") == "partial"


def test_shards_are_cut_between_rows_and_hold_every_row():
    offsets = np.array([0, 10, 20, 50, 55, 60])
    assert shard_rows(offsets, 20) == [(0, 2), (2, 3), (3, 5)]
    assert shard_rows(offsets, 1) == [(0, 1), (1, 2), (2, 3), (3, 4), (4, 5)]
    assert shard_rows(offsets, 10**6) == [(0, 5)]


def test_activations_are_read_in_the_order_asked_for(tiny_run):
    _, store = captured(tiny_run)
    whole = torch.cat([store.shard(i) for i in range(store.n_shards)])
    ordinals = np.random.default_rng(0).permutation(len(store))[:500]
    assert torch.equal(store.read(ordinals), whole[ordinals])


def test_an_epoch_visits_every_vector_once_and_can_be_entered_in_the_middle(tiny_run):
    _, store = captured(tiny_run)
    ordinals = np.arange(3, 1003)
    batches = list(store.shuffled(ordinals, 100, seed=4, epoch=0))
    visited, stored = torch.cat(batches), store.read(ordinals)
    assert sorted(map(tuple, visited.tolist())) == sorted(map(tuple, stored.tolist()))
    assert not torch.equal(torch.cat(batches)[:100], store.read(ordinals[:100]))
    again = list(store.shuffled(ordinals, 100, seed=4, epoch=0, skip=7))
    assert len(again) == 3
    assert all(torch.equal(a, b) for a, b in zip(again, batches[7:], strict=True))
    assert not torch.equal(next(store.shuffled(ordinals, 100, seed=4, epoch=1)), batches[0])
    assert not torch.equal(next(store.shuffled(ordinals, 100, seed=5, epoch=0)), batches[0])
    assert [len(b) for b in store.shuffled(ordinals, 300, seed=4, epoch=0)] == [300, 300, 300]


def test_bfloat16_survives_the_disk_bit_for_bit(tmp_path):
    x = torch.randn(50, 3).to(torch.bfloat16)
    write_shard(tmp_path, 0, x)
    stored = np.load(tmp_path / "activations-00000.npy")
    assert stored.dtype == np.uint16
    assert torch.equal(from_numpy(stored, "bfloat16"), x)
    assert to_numpy(x.float()).dtype == np.float32


def test_a_bfloat16_subject_gives_a_bfloat16_store(tmp_path, subject_folder, documents_folder):
    run = new_run(tmp_path / "run", subject_folder, documents_folder, dtype="bfloat16")
    assert capture(run, CaptureSettings(context=32, max_tokens=500)).summary["dtype"] == "bfloat16"
    tokens, store = captured(run)
    x = document_activations(tokens, store, 0)
    assert x.dtype == torch.bfloat16
    exact = by_hand(
        Subject.load(subject_folder, device="cpu", dtype="float32"),
        tokens.ids[: tokens.document_offsets[1]].tolist(),
        32,
    )
    assert float((x.float() - exact).norm() / exact.norm()) < 0.05


# ---------------------------------------------------------------- several sites, no store


@pytest.mark.slow
def test_several_runs_are_captured_in_one_pass_as_each_would_be_alone(
    tmp_path, subject_folder, documents_folder, monkeypatch
):
    sites = ("resid_post.1", "mlp_out.0", "attn_z.2")
    alone = [
        new_run(tmp_path / "alone" / site, subject_folder, documents_folder, site=site)
        for site in sites
    ]
    for run in alone:
        capture(run, SMALL_CAPTURE)
    calls = kill_at(monkeypatch, Reader, "start", 0)
    together = [
        new_run(tmp_path / "together" / site, subject_folder, documents_folder, site=site)
        for site in sites
    ]
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.shards, "write_shard", 5)
        capture_together(together, SMALL_CAPTURE, redo=False)
    calls.clear()
    manifests = capture_together(together, SMALL_CAPTURE, redo=False)
    assert {len(c[2]) for c in calls} == {3, 1}, (
        "three sites at once, and the one that the kill kept from its second shard"
    )
    for run, manifest in zip(alone, manifests, strict=True):
        assert manifest.key == run.manifest("capture").key
        assert manifest.summary == run.manifest("capture").summary
        assert manifest.files.keys() == run.manifest("capture").files.keys()
        for name in manifest.files:
            if name.startswith("activations"):
                mine, other = (
                    np.load(folder / name)
                    for folder in (
                        run.folder("capture"),
                        together[alone.index(run)].folder("capture"),
                    )
                )
                np.testing.assert_allclose(mine, other, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_a_run_of_two_sites_stores_both_from_one_pass(
    tmp_path, subject_folder, documents_folder, monkeypatch
):
    """Each as the run of that site alone stores it; a published transcoder's are read live."""
    alone = {}
    for site in ("mlp_in.1", "mlp_out.1"):
        run = new_run(tmp_path / site, subject_folder, documents_folder, site=site)
        capture(run, SMALL_CAPTURE)
        alone[site] = open_activations(run)
    calls = kill_at(monkeypatch, Reader, "start", 0)
    settings = {"site": "mlp_in.1", "site_out": "mlp_out.1"}
    both = new_run(tmp_path / "both", subject_folder, documents_folder, **settings)
    capture(both, SMALL_CAPTURE)
    assert {len(call[2]) for call in calls} == {2}
    live = new_run(tmp_path / "live", subject_folder, documents_folder, sae="some", **settings)
    capture(live, SMALL_CAPTURE)
    every = np.arange(len(alone["mlp_in.1"]))
    for run in (both, live):
        for site, source in (("mlp_in.1", open_activations(run)), ("mlp_out.1", open_targets(run))):
            torch.testing.assert_close(
                source.read(every), alone[site].read(every), rtol=1e-5, atol=1e-5
            )


def test_runs_that_differ_in_more_than_their_site_are_not_captured_together(
    tmp_path, subject_folder, documents_folder
):
    runs = [
        new_run(tmp_path / f"{dtype}", subject_folder, documents_folder, dtype=dtype)
        for dtype in ("float32", "bfloat16")
    ]
    with pytest.raises(UsageError, match="dtype float32 -> bfloat16"):
        capture_together(runs, SMALL_CAPTURE, redo=False)
    assert all(run.find("capture") is None and run.state("capture") == "absent" for run in runs)


def test_activations_that_were_not_stored_are_read_again_as_they_were(
    tiny_run, tmp_path, subject_folder, documents_folder
):
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    capture(run, replace(SMALL_CAPTURE, store="no"))
    assert not list(run.folder("capture").glob("activations-*"))
    live, (_, store) = open_activations(run), captured(tiny_run)
    assert (live.width, live.bounds.tolist(), live.n_shards, len(live)) == (
        store.width,
        store.bounds.tolist(),
        store.n_shards,
        len(store),
    )
    for number in range(store.n_shards):
        torch.testing.assert_close(live.shard(number), store.shard(number), rtol=1e-5, atol=1e-5)
    ordinals = np.random.default_rng(0).permutation(len(store))[:100]
    torch.testing.assert_close(live.read(ordinals), store.read(ordinals), rtol=1e-5, atol=1e-5)
    assert isinstance(open_activations(tiny_run), ActivationStore)
    with pytest.raises(NotReady, match="stored no activations"):
        ActivationStore(run.folder("capture"))


def test_a_resumed_capture_uses_the_batch_size_that_was_measured(
    tmp_path, subject_folder, documents_folder, monkeypatch
):
    run, measuring = (
        new_run(tmp_path / "run", subject_folder, documents_folder),
        replace(SMALL_CAPTURE, batch_tokens=0),
    )
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.shards, "write_shard", 2)
        capture(run, measuring)
    best = json.loads((run.path / "capture.partial" / ".batch.json").read_text())["batch_tokens"]
    assert best in (1024, 2048, 4096, 8192)
    measurements = kill_at(monkeypatch, core.activations.shards, "read_activations", 0)
    calls = kill_at(monkeypatch, core.activations.shards, "Reader", 0)
    capture(run, measuring)
    assert not measurements, "no other size is tried again"
    assert {c[3] for c in calls} == {best}, "no other size is tried again"
    assert run.state("capture") == "done"
    assert ".batch.json" not in run.manifest("capture").files


def fastest_in(monkeypatch, kind):
    """This machine is now faster in `kind`."""
    monkeypatch.setattr(core.subject.subject, "pick_dtype", FASTEST[kind])


def pick_float32(name, *_):
    return torch.float32 if name == "auto" else getattr(torch, name)


def pick_bfloat16(name, *_):
    return torch.bfloat16 if name == "auto" else getattr(torch, name)


FASTEST = {"float32": pick_float32, "bfloat16": pick_bfloat16}


@pytest.mark.slow
@pytest.mark.parametrize(("first", "then"), [("bfloat16", "float32"), ("float32", "bfloat16")])
def test_a_capture_keeps_the_type_that_it_was_begun_with(
    tmp_path, subject_folder, documents_folder, monkeypatch, first, then
):
    """Also its resumption and every later stage, on a machine that is faster in the other."""
    run = new_run(tmp_path / "run", subject_folder, documents_folder, dtype="auto")
    fastest_in(monkeypatch, first)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.shards, "write_shard", 2)
        capture(run, SMALL_CAPTURE)
    fastest_in(monkeypatch, then)
    folders = [run.path / "capture.partial"]
    maker = ShardMaker(run.path, folders, [Site.parse("resid_post.1")], [], 4096)
    assert str(maker.reader.subject.model.dtype) == f"torch.{first}", "as another process loads it"
    manifest = capture(run, SMALL_CAPTURE)
    assert manifest.summary["dtype"] == first
    assert ".dtype.json" not in manifest.files
    assert str(load_subject(run).model.dtype) == f"torch.{first}"
    assert capture(run, SMALL_CAPTURE, redo=True).summary["dtype"] == then, "begun anew"


# ---------------------------------------------------------------- chats

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}> {{ m.content | trim }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)
TALK = [
    ("user", "snow in winter? "),
    ("assistant", "the cat sat on the mat"),
    ("user", "the dog"),
    ("assistant", "ran"),
]


@pytest.fixture
def chat_folder(tmp_path):
    tiny_model("gpt2").save_pretrained(tmp_path / "chat")
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(tmp_path / "chat")
    return str(tmp_path / "chat")


def talks(path, n=12):
    lines = [
        {"messages": [{"role": role, "content": f"{content} {i}"} for role, content in TALK]}
        for i in range(n)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.mark.parametrize("turns", ["all", "user", "assistant"])
def test_a_conversation_is_read_in_the_template_and_the_turns_asked_for_count(
    tmp_path, chat_folder, turns
):
    run = new_run(tmp_path / "run", chat_folder, talks(tmp_path / "talks.jsonl"))
    summary = capture(run, CaptureSettings(turns=turns)).summary
    tokens, _ = captured(run)
    number = tokens.names.index("talks.jsonl:3")
    text = tokens.text(number)
    assert text == (
        "<user> snow in winter?  2\n<assistant> the cat sat on the mat 2\n"
        "<user> the dog 2\n<assistant> ran 2\n"
    )
    here = slice(*tokens.document_offsets[number : number + 2])
    heard = "".join(
        text[s:e] if c else "|"
        for s, e, c in zip(
            tokens.starts[here], tokens.ends[here], tokens.counted[here], strict=True
        )
    )
    for role, content in TALK:
        assert (f"{content.strip()}" in heard) == (turns in ("all", role))
    assert "user>" not in heard, "the template never counts"
    assert "assistant>" not in heard, "the template never counts"
    assert summary["counted"] == int(tokens.counted.sum()) < summary["tokens"]
    assert tokens.copied[~tokens.counted].all()
    assert not np.any(tokens.in_split("train") & ~tokens.counted)


def test_prompts_become_a_users_turn_that_the_subject_answers(tmp_path, chat_folder, prompts):
    run = new_run(tmp_path / "run", chat_folder, prompts)
    capture(run, CaptureSettings(chat=True, generate=4, turns="assistant"))
    tokens, _ = captured(run)
    for number in range(len(tokens.names)):
        here = slice(*tokens.document_offsets[number : number + 2])
        prompt = tokens.text(number)[: int(tokens.starts[here][tokens.counted[here]][0])]
        assert prompt.startswith("<user> the cat")
        assert prompt.endswith("\n<assistant> ")
        assert 1 <= tokens.counted[here].sum() <= 4


def test_a_subject_without_a_template_cannot_chat(tmp_path, subject_folder):
    with pytest.raises(UsageError, match="no chat template"):
        capture(
            new_run(tmp_path / "run", subject_folder, talks(tmp_path / "talks.jsonl")),
            CaptureSettings(),
        )


def test_a_template_that_changes_a_turn_is_not_guessed_at(tmp_path, chat_folder):
    tokenizer = byte_level_tokenizer()
    tokenizer.chat_template = TEMPLATE.replace("trim", "upper")
    tokenizer.save_pretrained(chat_folder)
    with pytest.raises(UsageError, match="12 conversations whose user turns the chat template"):
        capture(
            new_run(tmp_path / "run", chat_folder, talks(tmp_path / "talks.jsonl")),
            CaptureSettings(),
        )


# ---------------------------------------------------------------- interruptions


def kill_at(monkeypatch, module, name, nth):
    """Make call number `nth` of `module.name` a kill; returns the list of calls."""
    original, calls = getattr(module, name), []

    def dying(*args, **kwargs):
        calls.append(args)
        if len(calls) == nth:
            raise Killed
        return original(*args, **kwargs)

    monkeypatch.setattr(module, name, dying)
    return calls


def test_a_killed_capture_goes_on_to_the_same_bytes(
    tiny_run, tmp_path, subject_folder, documents_folder, monkeypatch
):
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.shards, "write_shard", 3)
        capture(run, SMALL_CAPTURE)
    assert run.state("capture") == "partial"
    assert run.find("capture") is None
    first = tmp_path / "run" / "capture.partial" / "activations-00000.npy"
    made = first.stat().st_mtime_ns
    calls = kill_at(monkeypatch, core.activations.shards, "write_shard", 0)
    manifest = capture(run, SMALL_CAPTURE)
    assert [c[1] for c in calls][:1] == [2], "the first two shards are kept"
    assert (run.path / "capture" / "activations-00000.npy").stat().st_mtime_ns == made
    assert manifest.files == tiny_run.manifest("capture").files
    assert manifest.summary == tiny_run.manifest("capture").summary


def test_the_bar_of_a_capture_moves_with_every_pass(
    tmp_path, subject_folder, documents_folder, monkeypatch
):
    """Also one that is resumed: shards that are there count at once."""
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, core.activations.shards, "write_shard", 3)
        capture(run, replace(SMALL_CAPTURE, batch_tokens=200))
    monkeypatch.setattr(core.activations.shards, "progress", Counted)
    capture(run, replace(SMALL_CAPTURE, batch_tokens=200))
    bar, (tokens, store) = Counted.last, captured(run)
    assert sum(bar.counts) == bar.total == len(tokens)
    assert len(bar.counts) > 2 * store.n_shards
    assert sorted(bar.counts)[-2:] == sorted(np.diff(store.bounds)[:2].tolist())


@pytest.fixture
def prompts(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(
        "".join(
            json.dumps({"prompt": f"the cat {i} sat on 🎉 mat {'x' * (i % 5)}"}) + "\n"
            for i in range(40)
        ),
        encoding="utf-8",
    )
    return path


GENERATING = CaptureSettings(context=48, generate=6)


@pytest.fixture
def smaller_shards(monkeypatch):
    monkeypatch.setattr(core.activations.capture, "SHARD_TOKENS", 300)


def test_prompts_are_kept_with_what_the_subject_says_to_them(
    tmp_path, subject_folder, prompts, smaller_shards, monkeypatch
):
    original, seeds = Subject.generate, []
    monkeypatch.setattr(
        Subject,
        "generate",
        lambda *args, **how: seeds.extend(how["seeds"]) or original(*args, **how),
    )
    run = new_run(tmp_path / "run", subject_folder, prompts)
    assert capture(run, GENERATING).summary["documents"] == 40
    subject, (tokens, store) = load_subject(run), captured(run)
    lines = {
        f"prompts.jsonl:{i + 1}": json.loads(line)["prompt"]
        for i, line in enumerate(prompts.read_text(encoding="utf-8").splitlines())
    }
    continuations = set()
    for number, name in enumerate(tokens.names):
        a, b = tokens.document_offsets[number : number + 2]
        ids, prompt_ids = tokens.ids[a:b].tolist(), subject.tokenizer.encode(lines[name])
        assert ids[: len(prompt_ids)] == prompt_ids
        assert 1 <= len(ids) - len(prompt_ids) <= 6
        continuation = tokens.text(number).removeprefix(lines[name])
        continuations.add(continuation)
        assert "\ufffd" not in continuation
        # where the tokenizer writes U+FFFD, the bytes are told
        decoded = subject.tokenizer.decode(ids[len(prompt_ids) :])
        alike = [
            re.sub("(<0x..>|\ufffd)+", "?", text).rstrip("?") for text in (continuation, decoded)
        ]
        assert alike[0] == alike[1]
        starts, ends = tokens.starts[a:b], tokens.ends[a:b]
        assert ends[-1] == len(tokens.text(number))
        assert starts[len(prompt_ids)] == len(lines[name])
        assert np.array_equal(starts[len(prompt_ids) + 1 :], ends[len(prompt_ids) : -1]), (
            "no gap in the continuation"
        )
        torch.testing.assert_close(
            document_activations(tokens, store, number),
            by_hand(subject, ids, 48),
            rtol=1e-4,
            atol=1e-4,
        )
    assert len(continuations) > 30, "every prompt has its own seed"
    assert len(set(seeds)) == 40, "every prompt has its own seed"


def test_a_capture_killed_while_generating_goes_on_to_the_same_bytes(
    tmp_path, subject_folder, prompts, smaller_shards, monkeypatch
):
    whole = capture(new_run(tmp_path / "whole", subject_folder, prompts), GENERATING)
    run = new_run(tmp_path / "run", subject_folder, prompts)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        kill_at(patch, Subject, "generate", 2)
        capture(run, GENERATING)
    with monkeypatch.context() as patch, pytest.raises(Killed):
        calls = kill_at(patch, Subject, "generate", 0)
        kill_at(patch, core.activations.shards, "write_shard", 2)
        capture(run, GENERATING)
    assert len(calls) == 1, "the first batch of prompts is not generated again"
    calls = kill_at(monkeypatch, Subject, "generate", 0)
    manifest = capture(run, GENERATING)
    assert len(calls) == 0, "nor is any after a kill among the shards"
    assert manifest.files == whole.files


def test_no_room_for_a_prompt_is_an_error(tmp_path, subject_folder, prompts):
    with pytest.raises(UsageError, match="no room"):
        capture(new_run(tmp_path / "run", subject_folder, prompts), CaptureSettings(generate=63))


def test_nan_activations_commit_nothing(tmp_path, documents_folder):
    model = tiny_model("gpt2")
    with torch.no_grad():
        model.transformer.h[1].mlp.c_proj.bias[3] = float("nan")
    model.save_pretrained(tmp_path / "subject")
    byte_level_tokenizer().save_pretrained(tmp_path / "subject")
    run = new_run(tmp_path / "run", str(tmp_path / "subject"), documents_folder)
    with pytest.raises(UsageError, match="NaN or infinite"):
        capture(run, SMALL_CAPTURE)
    assert run.find("capture") is None
    assert not list(run.path.rglob("activations-*"))
    capture(
        new_run(
            tmp_path / "before", str(tmp_path / "subject"), documents_folder, site="resid_post.0"
        ),
        SMALL_CAPTURE,
    )  # it is only behind layer 1


# ---------------------------------------------------------------- what is left out, what is counted


def test_documents_are_left_out_for_a_reason_that_is_counted(tmp_path, subject_folder):
    texts = ["", "x", "The  cat sat", "the cat sat\n", "the dog ran", "two words"]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    summary = capture(
        new_run(tmp_path / "run", subject_folder, tmp_path / "a.jsonl"), CaptureSettings()
    ).summary
    assert summary["left_out"] == {
        "records without a word": 1,
        "documents under two tokens": 1,
        "documents that copy another": 1,
    }
    assert summary["documents"] == 3


def test_only_documents_that_are_too_short_is_an_error(tmp_path, subject_folder):
    (tmp_path / "a.txt").write_text("x")
    with pytest.raises(UsageError, match="under two tokens"):
        capture(new_run(tmp_path / "run", subject_folder, tmp_path / "a.txt"), CaptureSettings())


def test_a_limit_on_tokens_ends_with_a_whole_document(
    tmp_path, subject_folder, documents_folder, tiny_run
):
    run = new_run(tmp_path / "run", subject_folder, documents_folder)
    summary = capture(run, CaptureSettings(context=32, max_tokens=1000)).summary
    tokens, _ = captured(run)
    lengths = np.diff(tokens.document_offsets)
    assert summary["tokens"] >= 1000
    assert summary["tokens"] - lengths[-1] < 1000
    assert (
        summary["documents"] + summary["left_out"]["documents past the token limit"] == N_DOCUMENTS
    )
    assert tokens.names == captured(tiny_run)[0].names[: len(tokens.names)], (
        "the limit takes the first of the same order"
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [(CaptureSettings(context=1), "context of 1"), (CaptureSettings(context=0), "context of 0")],
)
def test_a_context_without_room_for_a_token_is_an_error(
    tmp_path, subject_folder, documents_folder, settings, message
):
    with pytest.raises(UsageError, match=message):
        capture(new_run(tmp_path / "run", subject_folder, documents_folder), settings)


def test_a_site_that_is_not_there_is_told_before_anything_is_read(tmp_path, subject_folder):
    run = new_run(
        tmp_path / "run", subject_folder, tmp_path / "no corpus either", site="resid_post.9"
    )
    with pytest.raises(UsageError, match="layers 0 to 2"):
        capture(run, CaptureSettings())


def test_the_summary_counts_what_is_there(tiny_run, documents_folder):
    summary, (tokens, _) = tiny_run.manifest("capture").summary, captured(tiny_run)
    texts = [p.read_text(encoding="utf-8") for p in documents_folder.glob("*.txt")]
    ids = [byte_level_tokenizer().encode(t) for t in texts]
    lengths = [len(i) for i in ids]
    assert summary["documents"] == len(texts)
    assert summary["tokens"] == sum(lengths)
    assert summary["characters"] == sum(map(len, texts))
    assert summary["rows"] == sum(-(-n // 31) for n in lengths)
    assert (summary["document_tokens"]["min"], summary["document_tokens"]["max"]) == (
        min(lengths),
        max(lengths),
    )
    counts = Counter(token for i in ids for token in i)
    assert summary["tokens_used"] == len(counts)
    assert [count for _, count in summary["frequent_tokens"]] == [
        count for _, count in counts.most_common(20)
    ]
    assert summary["frequent_tokens"][0][0] == byte_level_tokenizer().decode(
        [counts.most_common(1)[0][0]]
    )
    splits = [tokens.split[tokens.names.index(p.name)] for p in documents_folder.glob("*.txt")]
    for number, name in enumerate(SPLITS):
        assert summary["splits"][name]["documents"] == splits.count(number)
        assert summary["splits"][name]["tokens"] == sum(
            n for n, s in zip(lengths, splits, strict=True) if s == number
        )
    assert summary["near_duplicate_documents"] == 0
    assert len({text_hash(t) for t in texts}) == len(texts)


def test_copied_tokens_of_a_capture_are_counted_on_held_out_documents_only(
    tmp_path, subject_folder
):
    """Documents share a long passage but are no near duplicates: held-out ones have it copied."""
    rng = np.random.default_rng(0)
    passage = " ".join(str(w) for w in rng.integers(0, 10**6, 15))
    for i in range(12):
        before, after = (" ".join(str(w) for w in rng.integers(0, 10**6, 60)) for _ in range(2))
        (tmp_path / f"{i}.txt").write_text(f"{before} {passage} {after}")
    run = new_run(tmp_path / "run", subject_folder, tmp_path)
    summary, (tokens, _) = capture(run, CaptureSettings(context=64)).summary, captured(run)
    held = ~tokens.in_split("train")
    assert summary["near_duplicate_documents"] == 0
    assert 0 < held.sum() < len(tokens)
    assert not np.asarray(tokens.copied)[~held].any()
    assert summary["copied_share_of_held_out"] == pytest.approx(
        np.asarray(tokens.copied)[held].mean(), abs=1e-4
    )
    for number in np.flatnonzero(tokens.split != 0):
        a, b = tokens.document_offsets[number : number + 2]
        flagged = np.flatnonzero(tokens.copied[a:b])
        text = tokens.text(int(number))[
            int(tokens.starts[a + flagged[0]]) : int(tokens.ends[a + flagged[-1]])
        ]
        assert text in passage


def test_the_width_of_the_store_is_that_of_the_site(tmp_path, subject_folder, documents_folder):
    run = new_run(
        tmp_path / "run", subject_folder, documents_folder, site="transformer.h.0.mlp.act.output"
    )
    capture(run, CaptureSettings(context=32, max_tokens=300))
    assert captured(run)[1].width == 4 * WIDTH


def test_saved_subjects_are_what_the_other_tests_believe(tmp_path):
    """The helper itself: a subject loads the very weights that were saved."""
    subject = Subject.load(save_subject(tmp_path), device="cpu", dtype="float32")
    assert torch.equal(
        subject.model.transformer.wte.weight, tiny_model("gpt2").transformer.wte.weight
    )


@pytest.mark.slow
def test_a_streamed_corpus_has_a_limit_that_is_said(tmp_path, subject_folder, monkeypatch, capsys):
    """`max_tokens` sets another; a local corpus is read to its end."""
    monkeypatch.setattr(core.activations.capture, "STREAM_TOKENS", 300)
    (tmp_path / "set").mkdir()
    lines = [json.dumps({"text": f"{i} the cat sat on the mat"}) for i in range(200)]
    (tmp_path / "set" / "train.jsonl").write_text("\n".join(lines))

    def n_tokens(name, corpus, settings=SMALL_CAPTURE):
        return capture(new_run(tmp_path / name, subject_folder, corpus), settings).summary["tokens"]

    assert 300 <= n_tokens("a", f"hf:{tmp_path / 'set'}") < 330
    assert "read up to 300 tokens" in capsys.readouterr().err
    assert n_tokens("b", f"hf:{tmp_path / 'set'}", replace(SMALL_CAPTURE, max_tokens=600)) >= 600
    assert n_tokens("c", tmp_path / "set") > 1000
    assert "read up to" not in capsys.readouterr().err


def test_one_document_alone_is_said(tmp_path, subject_folder, capsys):
    (tmp_path / "a.txt").write_text("the cat sat on the mat " * 20)
    capture(new_run(tmp_path / "run", subject_folder, tmp_path / "a.txt"), SMALL_CAPTURE)
    assert "The corpus is one document" in capsys.readouterr().err
