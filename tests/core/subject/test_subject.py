"""Read, edit and generate with a subject, against the models' own numbers."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    PretrainedConfig,
    PreTrainedTokenizerFast,
)

from core.errors import NotReady, UsageError
from core.records import Site
from core.subject.decoding import draw
from core.subject.families import FAMILIES
from core.subject.subject import Subject, pick_device
from core.subject.token_texts import cut_broken, tell_broken
from tests.support.tiny import (
    CONFIGS,
    FAMILY_NAMES,
    N_LAYERS,
    WIDTH,
    byte_level_tokenizer,
    save_subject,
    tiny_model,
    token_rows,
)

pytestmark = pytest.mark.slow  # the file as a whole

ROWS = token_rows(2, 9)
LONG, SHORT = "the cat sat on the mat and the dog ran", "snow"


def layer_of(subject, number):
    return subject.model.get_submodule(subject.family.layer.format(number))


def hand_read(module, side, subject, rows):
    """The input or output of `module` in a whole forward pass, taken by a hook placed here."""
    seen = []
    if side == "input":
        handle = module.register_forward_pre_hook(
            lambda _m, args, kwargs: seen.append(args[0] if args else kwargs["hidden_states"]),
            with_kwargs=True,
        )
    else:
        handle = module.register_forward_hook(
            lambda _m, _a, out: seen.append(out if isinstance(out, torch.Tensor) else out[0])
        )
    with torch.inference_mode():
        subject.model(input_ids=rows, use_cache=False)
    handle.remove()
    (only,) = seen
    return only


def n_hooks(model):
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


def edited_by_hand(subject, rows, layer, change):
    """Logits with `change` applied to the output of `layer` at every position but the first."""

    def patch(_module, _args, out):
        hidden = (out if isinstance(out, torch.Tensor) else out[0]).clone()
        hidden[:, 1:] = change(hidden[:, 1:])
        return hidden if isinstance(out, torch.Tensor) else (hidden, *out[1:])

    handle = layer_of(subject, layer).register_forward_hook(patch)
    with torch.inference_mode():
        logits = subject.model(input_ids=rows, use_cache=False).logits
    handle.remove()
    return logits


# ---------------------------------------------------------------- reading


@pytest.mark.parametrize("layer", range(N_LAYERS))
def test_the_residual_stream_is_the_models_own_hidden_states(subject, layer):
    with torch.inference_mode():
        states = subject.model(
            input_ids=ROWS, use_cache=False, output_hidden_states=True
        ).hidden_states
    torch.testing.assert_close(
        subject.read(Site("resid_pre", layer), ROWS), states[layer], rtol=0, atol=0
    )
    after = subject.read(Site("resid_post", layer), ROWS)
    if layer == N_LAYERS - 1:  # transformers' last hidden state is behind the final norm
        assert not torch.allclose(after, states[-1], atol=1e-2)
        with torch.inference_mode():
            after = subject.model.get_submodule(subject.family.final_norm)(after)
    torch.testing.assert_close(after, states[layer + 1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("kind", ["attn_out", "attn_z", "mlp_in", "mlp_out", "neurons"])
def test_parts_of_a_layer_are_what_a_hook_placed_by_hand_sees(subject, kind):
    layer = layer_of(subject, 1)
    family = subject.family
    path, side = {
        "attn_out": (family.attn, "output"),
        "attn_z": (family.attn_projection, "input"),
        "mlp_in": (family.mlp_in, "input"),
        "mlp_out": (family.mlp, "output"),
        "neurons": (family.neurons, "input"),
    }[kind]
    torch.testing.assert_close(
        subject.read(Site(kind, 1), ROWS),
        hand_read(layer.get_submodule(path), side, subject, ROWS),
        rtol=0,
        atol=0,
    )


def test_parts_of_a_layer_add_up_to_the_residual_stream(subject):
    """resid_post = resid_pre + attn_out + mlp_out in every family, the parallel ones included."""
    parts = [subject.read(Site(kind, 1), ROWS) for kind in ("resid_pre", "attn_out", "mlp_out")]
    torch.testing.assert_close(
        sum(parts), subject.read(Site("resid_post", 1), ROWS), rtol=1e-5, atol=1e-5
    )


def test_the_mlp_turns_mlp_in_into_mlp_out(subject):
    """Also where the halves run in parallel: what the module reads is after its norm."""
    with torch.inference_mode():
        module = layer_of(subject, 1).get_submodule(subject.family.mlp_in)
        out = module(subject.read(Site("mlp_in", 1), ROWS))
    torch.testing.assert_close(out, subject.read(Site("mlp_out", 1), ROWS), rtol=1e-6, atol=1e-6)


def test_neurons_times_the_output_projection_is_mlp_out(subject):
    with torch.inference_mode():
        out = layer_of(subject, 1).get_submodule(subject.family.neurons)(
            subject.read(Site("neurons", 1), ROWS)
        )
    torch.testing.assert_close(out, subject.read(Site("mlp_out", 1), ROWS), rtol=1e-6, atol=1e-6)


def test_experts_have_no_neurons_of_one_layer(subjects):
    with pytest.raises(UsageError, match="neurons"):
        subjects["mixtral"].read(Site("neurons", 1), ROWS)


def test_attn_z_times_the_output_projection_is_attn_out(subject):
    with torch.inference_mode():
        out = layer_of(subject, 1).get_submodule(subject.family.attn_projection)(
            subject.read(Site("attn_z", 1), ROWS)
        )
    torch.testing.assert_close(out, subject.read(Site("attn_out", 1), ROWS), rtol=1e-6, atol=1e-6)


def test_the_middle_of_a_layer_is_the_stream_between_its_halves(subject):
    if subject.family.middle is None:
        with pytest.raises(UsageError, match="in parallel"):
            subject.read(Site("resid_mid", 1), ROWS)
        return
    parts = [subject.read(Site(kind, 1), ROWS) for kind in ("resid_pre", "attn_out")]
    torch.testing.assert_close(
        sum(parts), subject.read(Site("resid_mid", 1), ROWS), rtol=1e-5, atol=1e-5
    )


def test_an_edit_in_the_middle_of_a_layer_reaches_the_stream_and_not_only_the_norm(subject):
    """Adding to the stream between the halves is adding to what attention writes."""
    if subject.family.middle is None:
        return

    def change(hidden, _editable):
        return hidden + torch.linspace(-1, 1, WIDTH)

    plain, middle, attention = (
        subject.logits(ROWS, site, change if site else None)
        for site in (None, Site("resid_mid", 1), Site("attn_out", 1))
    )
    torch.testing.assert_close(middle, attention, rtol=1e-4, atol=1e-4)
    assert (middle - plain).abs().max() > 0.05


def test_several_sites_are_read_in_one_pass(subject):
    calls, sites = (
        [],
        [Site.parse(s) for s in ("resid_post.1", "attn_z.0", "mlp_out.1", "resid_pre.2")],
    )
    handle = subject.model.register_forward_pre_hook(lambda *_: calls.append(1))
    together = subject.read_sites(sites, ROWS)
    handle.remove()
    assert len(calls) == 1
    for site, activations in zip(sites, together, strict=True):
        assert torch.equal(activations, subject.read(site, ROWS))


def test_a_module_path_names_a_site(gpt2):
    torch.testing.assert_close(
        gpt2.read(Site.parse("transformer.h.1.mlp.output"), ROWS),
        gpt2.read(Site("mlp_out", 1), ROWS),
        rtol=0,
        atol=0,
    )
    torch.testing.assert_close(
        gpt2.read(Site.parse("transformer.h.2.input"), ROWS),
        gpt2.read(Site("resid_post", 1), ROWS),
        rtol=0,
        atol=0,
    )
    inside = gpt2.read(Site.parse("transformer.h.1.mlp.act.output"), ROWS)
    assert inside.shape == (2, 9, 4 * WIDTH)


def test_reading_ends_at_the_site(subject):
    calls = []
    handles = [
        layer_of(subject, i).register_forward_pre_hook(lambda _m, _a, i=i: calls.append(i))
        for i in range(N_LAYERS)
    ]
    for site in ("resid_post.0", "resid_pre.1"):
        subject.read(Site.parse(site), ROWS)
    for handle in handles:
        handle.remove()
    assert calls == [0, 0, 1], (
        "resid_post.0 runs layer 0; resid_pre.1 enters layer 1 and stops there; layer 2 never runs"
    )


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_hooks_are_gone_after_reading_and_after_an_error(family):
    subject = Subject(
        tiny_model(family), byte_level_tokenizer()
    )  # a fresh one: transformers leaves hooks of its own after output_hidden_states
    subject.read(Site("resid_post", 1), ROWS)
    assert n_hooks(subject.model) == 0

    def broken(hidden, editable):
        raise ZeroDivisionError

    for call in (
        lambda: subject.losses(ROWS, Site("resid_post", 1), broken),
        lambda: subject.generate(["a"], 2, Site("resid_pre", 1), edit=broken),
        lambda: subject.read(Site("resid_post", 2), torch.tensor([[10**6]])),
    ):
        with pytest.raises((ZeroDivisionError, IndexError)):
            call()
        assert n_hooks(subject.model) == 0


def test_a_read_leaves_no_trace_in_the_model(subject):
    with torch.inference_mode():
        before = subject.model(input_ids=ROWS, use_cache=False, output_hidden_states=True)
        subject.read(Site("resid_post", 0), ROWS)
        after = subject.model(input_ids=ROWS, use_cache=False, output_hidden_states=True)
    assert len(before.hidden_states) == len(after.hidden_states) == N_LAYERS + 1
    assert torch.equal(before.logits, after.logits)


def test_right_padding_changes_no_activation_before_it(subject):
    padded = torch.cat([ROWS, torch.zeros(2, 5, dtype=torch.long)], 1)
    torch.testing.assert_close(
        subject.read(Site("resid_post", 1), padded)[:, :9],
        subject.read(Site("resid_post", 1), ROWS),
        rtol=1e-5,
        atol=1e-5,
    )


def test_a_text_model_inside_a_multimodal_one_is_found():
    config = Gemma3Config(
        text_config=CONFIGS["gemma3_text"] | {"vocab_size": 320},
        vision_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "image_size": 28,
            "patch_size": 14,
        },
        mm_tokens_per_image=4,
        image_token_index=5,
    )
    subject = Subject(AutoModelForCausalLM.from_config(config).float(), byte_level_tokenizer())
    assert (subject.n_layers, subject.width) == (N_LAYERS, WIDTH)
    parts = [subject.read(Site(kind, 1), ROWS) for kind in ("resid_mid", "mlp_out")]
    torch.testing.assert_close(
        sum(parts), subject.read(Site("resid_post", 1), ROWS), rtol=1e-5, atol=1e-5
    )
    assert subject.logit_lens(torch.ones(3, WIDTH)).shape == (3, 320)


def test_a_direction_at_the_heads_writes_its_image_under_the_output_projection(subject):
    site = Site("attn_z", 1)
    width = subject.read(site, ROWS).shape[-1]
    direction = torch.linspace(-1, 1, width)
    written = subject.to_residual(site, direction[None])[0]
    z, out = subject.read(site, ROWS), hand_read(subject.module(site)[0], "output", subject, ROWS)
    with torch.inference_mode():
        moved = subject.module(site)[0](z + direction)
    torch.testing.assert_close(moved, out + written, rtol=1e-4, atol=1e-5)
    assert torch.equal(
        subject.to_residual(Site("resid_post", 1), torch.ones(2, WIDTH)), torch.ones(2, WIDTH)
    )
    assert subject.to_residual(Site.parse("lm_head.output"), torch.ones(2, 320)) is None


def test_a_continuation_keeps_the_space_that_sentencepiece_drops_in_front():
    inner = Tokenizer(
        models.WordLevel({"▁the": 0, "▁cat": 1, "▁sat": 2, "s": 3, "<s>": 4}, unk_token="<s>")
    )
    inner.pre_tokenizer, inner.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
    subject = Subject(
        tiny_model("gpt2"), PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<s>")
    )
    assert subject.tokenizer.decode([1, 2]) == "cat sat"
    assert subject.text_after([0], [1, 2]) == " cat sat"
    assert subject.text_after([1], [3]) == "s"
    assert subject.text_after([], [1]) == "cat"


class OneLayer(nn.Module):
    """Doubles its hidden states and returns a Tensor or a tuple."""

    def __init__(self, as_tuple):
        super().__init__()
        self.as_tuple = as_tuple

    def forward(self, hidden_states, scale=2.0):
        out = hidden_states * scale
        return (out, "cache") if self.as_tuple else out


class Wrapped(nn.Module):
    """A model of one layer that is called by position or by keyword."""

    def __init__(self, by_keyword, as_tuple):
        super().__init__()
        self.by_keyword, self.layer = by_keyword, OneLayer(as_tuple)
        self.embed = nn.Embedding(8, 4)
        self.config = PretrainedConfig(
            name_or_path="wrapped", hidden_size=4, max_position_embeddings=8
        )
        self.config.model_type = "wrapped"

    def get_output_embeddings(self):
        return self.embed

    def forward(self, input_ids, use_cache=False):
        hidden = self.embed(input_ids)
        out = (
            self.layer(scale=2.0, hidden_states=hidden)
            if self.by_keyword
            else self.layer(hidden, 2.0)
        )
        if self.layer.as_tuple:
            assert out[1] == "cache"  # the rest of the tuple must come through an edit
            out = out[0]
        return SimpleNamespace(logits=out @ self.embed.weight.T)


@pytest.mark.parametrize("by_keyword", [False, True])
@pytest.mark.parametrize("as_tuple", [False, True])
@pytest.mark.parametrize("side", ["input", "output"])
def test_tuples_and_keywords_are_read_and_edited(by_keyword, as_tuple, side):
    subject = Subject(Wrapped(by_keyword, as_tuple), byte_level_tokenizer())
    site, rows = Site.parse(f"layer.{side}"), torch.tensor([[1, 2, 3]])
    x = subject.model.embed.weight[rows]
    factor = 1.0 if side == "input" else 2.0
    torch.testing.assert_close(subject.read(site, rows), factor * x)
    logits = subject.logits(rows, site, lambda hidden, editable: hidden + 1.0)
    torch.testing.assert_close(
        logits, (2 * x + (2.0 if side == "input" else 1.0)) @ subject.model.embed.weight.T
    )


@pytest.mark.parametrize(
    ("site", "message"),
    [("resid_post.3", "layers 0 to 2"), ("transformer.h.7.output", "no module transformer.h.7")],
)
def test_a_site_that_is_not_there_is_an_error_that_says_what_there_is(gpt2, site, message):
    with pytest.raises(UsageError, match=message):
        gpt2.read(Site.parse(site), ROWS)


def test_named_sites_of_an_unknown_architecture_ask_for_a_module_path():
    subject = Subject(Wrapped(False, False), byte_level_tokenizer())
    with pytest.raises(UsageError, match="module path"):
        subject.read(Site("resid_post", 0), ROWS)
    with pytest.raises(UsageError, match="final norm"):
        subject.logit_lens(torch.ones(1, 4))


def test_a_module_that_never_runs_is_an_error(gpt2):
    gpt2.model.unused = nn.Linear(2, 2)
    try:
        with pytest.raises(UsageError, match="never reached"):
            gpt2.read(Site.parse("unused.output"), ROWS)
    finally:
        del gpt2.model.unused


# ---------------------------------------------------------------- editing


def test_an_edit_changes_the_logits_as_a_patch_by_hand_does(subject):
    direction = torch.linspace(-3, 3, WIDTH)

    def edit(hidden, editable):
        return torch.where(editable[..., None], hidden * 0.5 + direction, hidden)

    edited = subject.logits(ROWS, Site("resid_post", 1), edit)
    torch.testing.assert_close(
        edited,
        edited_by_hand(subject, ROWS, 1, lambda h: h * 0.5 + direction),
        rtol=1e-5,
        atol=1e-5,
    )
    plain = subject.logits(ROWS)
    torch.testing.assert_close(edited[:, 0], plain[:, 0], rtol=1e-5, atol=1e-5)
    assert (edited[:, 1:] - plain[:, 1:]).abs().amax(-1).min() > 0.05


def test_an_edit_of_the_input_equals_one_of_the_output_before(subject):
    def edit(hidden, editable):
        return torch.where(editable[..., None], hidden + 1.0, hidden)

    torch.testing.assert_close(
        subject.logits(ROWS, Site("resid_pre", 2), edit),
        subject.logits(ROWS, Site("resid_post", 1), edit),
        rtol=1e-6,
        atol=1e-6,
    )


def test_losses_are_cross_entropies_of_the_models_own_logits(subject):
    with torch.inference_mode():
        logits = subject.model(input_ids=ROWS, use_cache=False).logits
    expected = nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), ROWS[:, 1:].reshape(-1), reduction="none"
    ).reshape(2, 8)
    torch.testing.assert_close(subject.losses(ROWS), expected, rtol=1e-5, atol=1e-5)
    with torch.inference_mode():
        own = subject.model(input_ids=ROWS, labels=ROWS).loss
    torch.testing.assert_close(subject.losses(ROWS).mean(), own, rtol=1e-5, atol=1e-5)


def test_losses_with_an_edit_are_those_of_the_edited_logits(gpt2):
    def edit(hidden, editable):
        return torch.where(editable[..., None], 0.0, hidden)

    logits = gpt2.logits(ROWS, Site("resid_post", 1), edit)
    expected = -logits.log_softmax(-1)[:, :-1].gather(2, ROWS[:, 1:, None])[..., 0]
    torch.testing.assert_close(
        gpt2.losses(ROWS, Site("resid_post", 1), edit), expected, rtol=1e-5, atol=1e-5
    )


# ---------------------------------------------------------------- generating

SITE = Site("resid_post", 1)


def test_greedy_generation_is_that_of_transformers(subject):
    ids = torch.tensor([subject.prompt_tokens(LONG)])
    with torch.inference_mode():
        own = subject.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=False,
            max_new_tokens=12,
            pad_token_id=0,
        )
    (ours,) = subject.generate([LONG], 12, SITE, temperature=0)
    assert ours.tokens == own[0].tolist()
    assert ours.n_prompt == ids.shape[1]
    text = subject.tokenizer.decode(own[0, ids.shape[1] :], skip_special_tokens=True)
    told = tell_broken(subject.tokenizer, own[0, ids.shape[1] :].tolist(), text, True)
    assert ours.text == cut_broken(told), "one that is cut within a character ends before it"


def test_a_row_does_not_depend_on_the_rows_beside_it(subject):
    (alone,) = subject.generate([SHORT], 12, SITE, seeds=[5])
    batch = subject.generate([LONG, SHORT, "def run"], 12, SITE, seeds=[4, 5, 6])
    assert batch[1].tokens == alone.tokens
    torch.testing.assert_close(batch[1].activations, alone.activations, rtol=1e-4, atol=1e-5)
    assert len({tuple(g.tokens[g.n_prompt :]) for g in batch}) == 3


def test_generated_activations_are_those_of_reading_the_whole_text(subject):
    for generation in subject.generate([LONG, SHORT], 10, SITE, seeds=[1, 2]):
        fresh = subject.read(SITE, torch.tensor([generation.tokens]))[0]
        assert generation.activations.shape == fresh.shape == (len(generation.tokens), WIDTH)
        torch.testing.assert_close(generation.activations, fresh, rtol=1e-4, atol=1e-5)


def test_the_same_seeds_give_the_same_text_and_others_another(gpt2):
    texts = [
        [g.text for g in gpt2.generate([LONG, LONG], 15, SITE, seeds=seeds)]
        for seeds in ([1, 2], [1, 2], [3, 1])
    ]
    assert texts[0] == texts[1]
    assert texts[0][0] != texts[0][1]
    assert texts[2][1] == texts[0][0], "the seed decides, not the place in the batch"


def test_sampling_follows_the_distribution(gpt2):
    logits = torch.tensor([0.0, 1.0, 2.0, -torch.inf])
    generator = torch.Generator().manual_seed(0)
    counts = np.bincount([int(draw(logits, 0.5, generator)) for _ in range(4000)], minlength=4)
    np.testing.assert_allclose(counts / 4000, (logits / 0.5).softmax(0).numpy(), atol=0.02)
    assert counts[3] == 0


@pytest.mark.parametrize("edit_prompt", [True, False])
def test_a_cached_generation_under_an_edit_equals_whole_passes(subject, edit_prompt):
    direction = torch.linspace(-2, 2, WIDTH)

    def edit(hidden, editable):
        return torch.where(editable[..., None], hidden + direction, hidden)

    made = subject.generate(
        [LONG, SHORT],
        8,
        SITE,
        temperature=0,
        edit=edit,
        where=None
        if edit_prompt
        else (lambda tokens, generated: torch.full_like(tokens, generated, dtype=torch.bool)),
    )
    plain = subject.generate([LONG, SHORT], 8, SITE, temperature=0)
    for row, unedited in zip(made, plain, strict=True):
        tokens, seen = row.tokens[: row.n_prompt], None
        while len(tokens) < len(row.tokens):
            editable = torch.arange(len(tokens))[None] >= (1 if edit_prompt else row.n_prompt)
            with (
                torch.inference_mode(),
                subject.edit_site(SITE, edit, lambda editable=editable: editable),
            ):
                tokens = [
                    *tokens,
                    int(
                        subject.model(input_ids=torch.tensor([tokens]), use_cache=False)
                        .logits[0, -1]
                        .argmax()
                    ),
                ]
        assert tokens == row.tokens
        seen = subject.read(SITE, torch.tensor([tokens]))[0].clone()
        start = 1 if edit_prompt else row.n_prompt
        seen[start:] += direction
        torch.testing.assert_close(row.activations, seen, rtol=1e-4, atol=1e-4)
        assert row.tokens != unedited.tokens, "the edit must matter, or this test shows nothing"


def test_end_of_text_ends_a_row_and_only_that_row():
    subject = Subject(tiny_model("gpt2"), byte_level_tokenizer())
    plain = subject.generate([LONG, SHORT], 8, SITE, temperature=0)
    new = [g.tokens[g.n_prompt :] for g in plain]
    end = next(
        t for t in new[0][1:] if t not in new[1] and t != new[0][0]
    )  # a token that only the first row says, and not at once
    subject.ends = frozenset({end})
    stopped = subject.generate([LONG, SHORT], 8, SITE, temperature=0)
    cut = new[0].index(end) + 1
    assert [g.tokens[g.n_prompt :] for g in stopped] == [new[0][:cut], new[1]]
    assert [len(g.activations) for g in stopped] == [len(g.tokens) for g in stopped]
    assert cut < 8


def test_nothing_new_is_just_the_prompt(gpt2):
    (made,) = gpt2.generate([SHORT], 0, SITE)
    assert made.text == ""
    assert len(made.tokens) == made.n_prompt == len(made.activations)
    with pytest.raises(UsageError, match="-1 tokens"):
        gpt2.generate([SHORT], -1, SITE)


def test_a_prompt_that_is_too_long_keeps_bos_and_its_end(gpt2):
    text = LONG * 20
    (made,) = gpt2.generate([text], 10, SITE, temperature=0)
    assert len(made.tokens) <= gpt2.context
    assert made.tokens[: made.n_prompt] == [
        gpt2.bos,
        *gpt2.prompt_tokens(text)[-(made.n_prompt - 1) :],
    ]


def test_more_new_tokens_than_the_context_holds_are_refused(gpt2):
    with pytest.raises(UsageError, match="context of 64"):
        gpt2.generate([SHORT], 64, SITE)
    (made,) = gpt2.generate([SHORT], 63, SITE, temperature=0)
    assert len(made.tokens) <= 64


def test_a_tokenizer_without_bos_reads_the_text_alone(subject_folder_without_bos):
    subject = Subject.load(subject_folder_without_bos, device="cpu", dtype="float32")
    assert subject.bos is None
    assert subject.prompt_tokens(SHORT) == subject.tokenizer.encode(SHORT)
    made = subject.generate([LONG, SHORT], 6, SITE, seeds=[1, 2])
    (alone,) = subject.generate([SHORT], 6, SITE, seeds=[2])
    assert made[1].tokens == alone.tokens
    assert made[1].tokens[: made[1].n_prompt] == subject.tokenizer.encode(SHORT)
    with pytest.raises(UsageError, match="no tokens"):
        subject.generate([""], 3, SITE)


# ---------------------------------------------------------------- output side


def test_logit_lens_is_the_final_norm_and_the_unembedding_by_hand(subject):
    directions = torch.randn(4, WIDTH, generator=torch.Generator().manual_seed(1))
    model, family = subject.model, subject.model.config.model_type
    norm = model.get_submodule(subject.family.final_norm)
    if family in ("gpt2", "gpt_neox"):  # LayerNorm; its bias is left out
        centred = directions - directions.mean(1, keepdim=True)
        normed = centred / (centred.square().mean(1, keepdim=True) + norm.eps).sqrt() * norm.weight
    else:  # RMSNorm
        normed = (
            directions
            / (directions.square().mean(1, keepdim=True) + norm.variance_epsilon).sqrt()
            * norm.weight
        )
    expected = normed @ model.get_output_embeddings().weight.T
    torch.testing.assert_close(subject.logit_lens(directions), expected, rtol=1e-4, atol=1e-5)
    assert subject.logit_lens(torch.zeros(1, WIDTH)).abs().max() == 0


def test_logit_lens_leaves_a_bfloat16_subject_as_it_is():
    subject = Subject(tiny_model("llama").to(torch.bfloat16), byte_level_tokenizer())
    assert subject.logit_lens(torch.ones(2, WIDTH)).dtype == torch.float32
    assert {p.dtype for p in subject.model.parameters()} == {torch.bfloat16}


def test_token_texts_cover_an_embedding_that_is_larger_than_the_vocabulary():
    """Pythia's has 50,304 rows for 50,277 tokens."""
    subject = Subject(tiny_model("gpt_neox", 384), byte_level_tokenizer())
    n_known = len(subject.tokenizer)
    texts = subject.token_texts()
    assert len(texts) == subject.n_vocabulary == 384 > n_known
    assert all(isinstance(text, str) for text in texts)
    assert texts[subject.tokenizer.encode(" the")[0]] == " the"


# ---------------------------------------------------------------- loading


@pytest.mark.parametrize("family", FAMILY_NAMES)
def test_a_folder_gives_back_the_model_and_the_tokenizer_that_were_saved(tmp_path, family):
    name = save_subject(tmp_path, family)
    subject = Subject.load(name, device="cpu", dtype="float32")
    assert subject.family == FAMILIES[family]
    context = (
        2048 if family == "bloom" else 64
    )  # Bloom has no learned positions and states no limit
    assert (subject.n_layers, subject.width, subject.context, subject.bos, subject.ends) == (
        N_LAYERS,
        WIDTH,
        context,
        0,
        {0},
    )
    text = " Snow näïve 🎉\n x"
    assert subject.prompt_tokens(text) == [0, *byte_level_tokenizer().encode(text)]
    assert subject.tokenizer.decode(subject.prompt_tokens(text)[1:]) == text
    saved = tiny_model(family).state_dict()
    for key, tensor in subject.model.state_dict().items():
        torch.testing.assert_close(tensor, saved[key])
    assert not any(p.requires_grad for p in subject.model.parameters())
    assert not subject.model.training


def test_random_weights_are_untrained_and_the_seed_decides_them(subject_folder):
    def load(**how):
        subject = Subject.load(subject_folder, device="cpu", dtype="float32", **how)
        return subject.model.state_dict()["transformer.h.0.mlp.c_fc.weight"]

    trained, a, b, other = (
        load(),
        load(weights="random"),
        load(weights="random"),
        load(weights="random", seed=1),
    )
    assert torch.equal(a, b)
    assert not torch.equal(a, other)
    assert not torch.allclose(a, trained, atol=0.1)


def test_the_type_asked_for_is_the_type_of_the_weights(subject_folder):
    for name, kind in (("float32", torch.float32), ("bfloat16", torch.bfloat16)):
        subject = Subject.load(subject_folder, device="cpu", dtype=name)
        assert subject.model.dtype == kind == subject.read(SITE, ROWS).dtype
        assert subject.losses(ROWS).dtype == torch.float32


def test_a_device_that_is_not_there_is_an_error():
    with pytest.raises(UsageError, match="no device"):
        pick_device("nonsense")


def test_a_name_that_is_no_subject_is_an_error_for_a_person(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises((UsageError, NotReady), match=str(tmp_path)):
        Subject.load(str(tmp_path), device="cpu")


def test_a_tokenizer_without_offsets_is_refused(gpt2):
    with pytest.raises(UsageError, match="character offsets"):
        Subject(gpt2.model, SimpleNamespace(is_fast=False))
