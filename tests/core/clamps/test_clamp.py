"""Clamps against hand numbers on both architectures; what must stay as it was; controls and doses."""

import pytest
import torch

from core.clamps.clamp import (
    Edits,
    Sampling,
    clamp_edit,
    directed_edit,
    generate_pairs,
    random_directions,
    resolve,
    target_values,
    where_to_clamp,
)
from core.errors import UsageError
from core.records import Clamp, Site
from core.saes import SAE, SAEConfig
from tests.support.tiny import WIDTH, sae_of, token_rows

pytestmark = pytest.mark.numeric

SITE, ROWS = Site("resid_post", 1), token_rows(3, 10)
F = 24
EDITABLE = torch.ones(3, 10, dtype=torch.bool)
EDITABLE[:, 0] = False


@pytest.fixture(
    params=[SAEConfig("topk", "topk", 6), SAEConfig("tied_l1", "relu")], ids=lambda form: form.name
)
def sae(request):
    """Random weights at the scale of the tiny subject's activations; feature 5 never fires."""
    sae = sae_of(request.param, WIDTH, F)
    sae.b_enc[5] = -1e6
    return sae


@pytest.fixture
def x(gpt2):
    return gpt2.read(SITE, ROWS).clone()


@pytest.fixture
def feature(sae, x):
    """One that fires on some tokens behind the first position and not on others."""
    share = (sae.encode(x)[:, 1:] > 0).float().mean((0, 1))
    return int((share - 0.5).abs().argmin())


def edited_by_hand(sae, x, feature, target):
    """x with the reconstruction's change from f to `target` (R, T) of one feature, everywhere but
    at the first position."""
    f = sae.encode(x)
    wanted = f.clone()
    wanted[..., feature] = target
    out = sae.decode(wanted) + (x - sae.decode(f))
    out[:, 0] = x[:, 0]
    return out


# ---------------------------------------------------------------- the edit


def test_a_clamp_to_its_own_value_changes_no_logit(gpt2, sae, x, feature):
    plain = gpt2.logits(ROWS)
    own = sae.encode(x)[..., feature, None]
    same = lambda hidden, editable: torch.where(
        editable[..., None], hidden + sae.edit(hidden, torch.tensor([feature]), own), hidden
    )
    for edit in (
        same,
        *(
            clamp_edit(sae, [Clamp(feature, mode, value)])
            for mode, value in (("add", 0.0), ("scale", 1.0), ("max", 0.0))
        ),
    ):
        torch.testing.assert_close(gpt2.logits(ROWS, SITE, edit), plain, rtol=0, atol=1e-5)
    torch.testing.assert_close(
        gpt2.logits(ROWS, SITE, clamp_edit(sae, [Clamp(5, "ablate", 0.0)])),
        plain,
        rtol=0,
        atol=1e-5,
    )
    assert (
        gpt2.logits(ROWS, SITE, clamp_edit(sae, [Clamp(feature, "set", 9.0)])) - plain
    ).abs().max() > 0.1


@pytest.mark.parametrize(
    ("mode", "value", "target"),
    [
        ("set", 3.5, lambda f: torch.full_like(f, 3.5)),
        ("ablate", 0.0, torch.zeros_like),
        ("max", 1.0, lambda f: torch.maximum(f, torch.ones(()))),
        ("add", 2.0, lambda f: f + 2.0),
        ("scale", -3.0, lambda f: f * -3.0),
    ],
)
def test_every_mode_is_its_formula(sae, x, feature, mode, value, target):
    f = sae.encode(x)[..., feature]
    assert (f[:, 1:] > 0).any() and (f[:, 1:] == 0).any()
    edited = clamp_edit(sae, [Clamp(feature, mode, value)])(x, EDITABLE)
    torch.testing.assert_close(
        edited, edited_by_hand(sae, x, feature, target(f)), rtol=1e-5, atol=1e-5
    )


def test_hand_numbers():
    """One feature that reads and writes the first of two dimensions, centre 1: f = ReLU(x0 - 1), x0
    moves by the change of f."""
    weights = {
        "W_enc": torch.tensor([[1.0], [0.0]]),
        "b_enc": torch.zeros(1),
        "W_dec": torch.tensor([[1.0, 0.0]]),
        "b_dec": torch.ones(2),
    }
    for sae in (
        SAE(SAEConfig("tied_l1", "relu"), weights),
        SAE(SAEConfig("topk", "topk", 1), weights),
    ):
        x = torch.tensor([[[9.0, 7.0], [4.0, 7.0], [0.0, 7.0]]])  # f = 8, 3, 0
        editable = torch.tensor([[False, True, True]])
        moved = lambda mode, value, sae=sae, x=x, editable=editable: clamp_edit(
            sae, [Clamp(0, mode, value)]
        )(x, editable)[0].tolist()
        assert moved("set", 5.0) == [[9, 7], [6, 7], [5, 7]]
        assert moved("max", 2.0) == [[9, 7], [4, 7], [2, 7]]
        assert moved("add", 2.0) == [[9, 7], [6, 7], [2, 7]]
        assert moved("scale", 2.0) == [[9, 7], [7, 7], [0, 7]]
        assert moved("ablate", 0.0) == [[9, 7], [1, 7], [0, 7]]


def test_several_clamps_add_up(sae, x, feature):
    clamps = [Clamp(feature, "set", 2.0), Clamp(7, "add", 1.5), Clamp(11, "ablate", 0.0)]
    together = clamp_edit(sae, clamps)(x, EDITABLE) - x
    apart = sum(clamp_edit(sae, [c])(x, EDITABLE) - x for c in clamps)
    torch.testing.assert_close(together, apart, rtol=1e-4, atol=1e-5)
    f = sae.encode(x)
    expected = torch.stack(
        [torch.full_like(f[..., 0], 2.0), f[..., 7] + 1.5, torch.zeros_like(f[..., 0])], -1
    )
    torch.testing.assert_close(
        target_values(sae, clamps, torch.tensor([feature, 7, 11]), x), expected
    )


def test_the_error_of_the_sae_stays(sae, x, feature):
    """The edit adds a multiple of the feature's direction and nothing else, although the
    reconstruction is poor."""
    delta = (clamp_edit(sae, [Clamp(feature, "set", 4.0)])(x, EDITABLE) - x)[:, 1:].reshape(
        -1, WIDTH
    )
    direction = sae.W_dec[feature]
    torch.testing.assert_close(
        delta, (delta @ direction)[:, None] * direction, rtol=1e-4, atol=1e-5
    )
    assert (x - sae.decode(sae.encode(x))).norm() > 1


def test_the_first_position_and_what_is_before_a_clamp_are_untouched(gpt2, sae, x):
    edit = clamp_edit(sae, [Clamp(3, "set", 50.0)])
    assert torch.equal(edit(x, EDITABLE)[:, 0], x[:, 0])
    torch.testing.assert_close(
        gpt2.logits(ROWS, SITE, edit)[:, 0], gpt2.logits(ROWS)[:, 0], rtol=0, atol=1e-5
    )
    late = EDITABLE.clone()
    late[:, :6] = False
    assert torch.equal(edit(x, late)[:, :6], x[:, :6]) and (edit(x, late)[:, 6:] != x[:, 6:]).any()


def test_a_bfloat16_hidden_state_is_edited_in_float32(sae, x):
    edit = clamp_edit(sae, [Clamp(3, "set", 1.0)])
    edited = edit(x.to(torch.bfloat16), EDITABLE)
    assert edited.dtype == torch.float32
    torch.testing.assert_close(edited, edit(x.to(torch.bfloat16).float(), EDITABLE))


# ---------------------------------------------------------------- values


def test_a_relative_value_is_a_multiple_of_the_features_maximum():
    clamps = [
        Clamp.parse("set", "3=5x"),
        Clamp.parse("add", "4=-2"),
        Clamp.parse("ablate", "7"),
        Clamp.parse("max", "8=0.5x"),
    ]
    assert resolve(clamps, {3: 2.5, 8: 4.0}) == [
        Clamp(3, "set", 12.5),
        Clamp(4, "add", -2.0),
        Clamp(7, "ablate", 0.0),
        Clamp(8, "max", 2.0),
    ]
    assert [str(c) for c in clamps] == ["set 3=5x", "add 4=-2", "ablate 7", "max 8=0.5x"]


@pytest.mark.parametrize("maxima", [{}, {3: 0.0}])
def test_a_multiple_of_a_maximum_that_is_not_there_is_an_error(maxima):
    with pytest.raises(UsageError, match="Feature 3 never fired") as caught:
        resolve([Clamp.parse("set", "3=5x")], maxima)
    assert "--set 3=" in caught.value.next_step
    assert resolve([Clamp(3, "set", 5.0)], maxima) == [Clamp(3, "set", 5.0)]


def test_one_feature_clamped_twice_is_an_error():
    with pytest.raises(UsageError, match="twice"):
        resolve([Clamp(3, "set", 1.0), Clamp(3, "add", 1.0)], {})


@pytest.mark.parametrize(
    ("mode", "text"),
    [
        ("set", "3"),
        ("ablate", "3=1"),
        ("set", "x=1"),
        ("set", "-3=1"),
        ("set", "3=1xx"),
        ("twist", "3=1"),
        ("set", ""),
    ],
)
def test_a_clamp_that_cannot_be_read_is_an_error(mode, text):
    with pytest.raises(UsageError, match="is not a clamp"):
        Clamp.parse(mode, text)


# ---------------------------------------------------------------- controls, texts, doses


def test_a_control_is_as_long_as_the_clamp_and_points_its_own_way_in_each_row(sae, x, feature):
    edit, directions = clamp_edit(sae, [Clamp(feature, "set", 4.0)]), random_directions(3, WIDTH, 1)
    clamp, control = (e(x, EDITABLE) - x for e in (edit, directed_edit(edit, directions)))
    torch.testing.assert_close(control.norm(dim=-1), clamp.norm(dim=-1), rtol=1e-4, atol=1e-5)
    assert control[:, 0].abs().max() == 0 and clamp[:, 1:].norm(dim=-1).max() > 1
    for row in range(3):
        torch.testing.assert_close(
            control[row],
            control[row].norm(dim=-1, keepdim=True) * directions[row],
            rtol=1e-4,
            atol=1e-5,
        )
    assert torch.equal(directions, random_directions(3, WIDTH, 1)) and not torch.allclose(
        directions, random_directions(3, WIDTH, 2), atol=0.1
    )


def test_pairs_differ_by_the_clamp_alone(gpt2, sae):
    prompts, seeds = ["the cat", "snow falls in winter"], [4, 9]
    writing = Sampling(prompts, 8, 1.0, tuple(seeds))
    same = generate_pairs(gpt2, SITE, Edits(clamp_edit(sae, [Clamp(3, "scale", 1.0)])), writing)
    assert [(p.prompt, p.seed) for p in same] == [(p, s) for p in prompts for s in seeds]
    assert all(p.baseline == p.clamped for p in same)
    assert len({p.baseline for p in same}) == 4
    edit = clamp_edit(sae, [Clamp(3, "set", 40.0)])
    pairs = generate_pairs(gpt2, SITE, Edits(edit), writing)
    assert [p.baseline for p in pairs] == [p.baseline for p in same]
    assert all(p.clamped != p.baseline for p in pairs)
    for pair in pairs:
        (alone,) = gpt2.generate([pair.prompt], 8, SITE, seeds=[pair.seed], edit=edit)
        assert alone.text == pair.clamped


def test_a_clamp_holds_at_every_generated_token(gpt2, sae):
    """The activations that generation gives back are read behind the edit."""
    (made,) = gpt2.generate(
        ["the cat sat"], 10, SITE, edit=clamp_edit(sae, [Clamp(3, "add", 30.0)]), seeds=[0]
    )
    (plain,) = gpt2.generate(["the cat sat"], 0, SITE)
    n = made.n_prompt
    assert len(made.tokens) > n + 1
    fresh = gpt2.read(SITE, torch.tensor([made.tokens]))[0]
    moved = 30 * sae.W_dec[3].expand(len(fresh) - 1, -1)
    torch.testing.assert_close(made.activations[0], plain.activations[0])
    torch.testing.assert_close(
        (made.activations[:n] - plain.activations)[1:], moved[: n - 1], rtol=1e-4, atol=1e-3
    )
    torch.testing.assert_close((made.activations - fresh)[1:], moved, rtol=1e-4, atol=1e-3)


# ---------------------------------------------------------------- where


def moved(gpt2, sae, where, n_new=6):
    """bool (T,): the clamp changed the activation at each position of a greedy continuation, read
    anew without it."""
    (made,) = gpt2.generate(
        ["the cat sat on"],
        n_new,
        SITE,
        temperature=0,
        edit=clamp_edit(sae, [Clamp(3, "add", 30.0)]),
        where=where,
    )
    fresh = gpt2.read(SITE, torch.tensor([made.tokens[: len(made.activations)]]))[0]
    return (made.activations - fresh).norm(dim=-1) > 1, made


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_positions_say_where_a_clamp_holds(gpt2, sae, positions):
    found, made = moved(gpt2, sae, where_to_clamp(gpt2, positions))
    place = torch.arange(len(found))
    expected = {
        "all": place > 0,
        "prompt": (place > 0) & (place < made.n_prompt),
        "generated": place >= made.n_prompt,
    }[positions]
    assert torch.equal(
        found[: len(made.tokens) - 1], expected[: len(made.tokens) - 1]
    )  # behind the last token nothing was computed


def test_a_pattern_clamps_the_tokens_that_it_matches(gpt2, sae):
    texts = gpt2.token_texts()
    found, made = moved(gpt2, sae, where_to_clamp(gpt2, "all", "[aeiou]"))
    expected = torch.tensor(
        [i > 0 and any(c in "aeiou" for c in texts[t]) for i, t in enumerate(made.tokens)]
    )
    n = len(made.tokens) - 1
    assert torch.equal(found[:n], expected[:n]) and expected[1:n].any() and not expected[1:n].all()
    in_prompt, _ = moved(gpt2, sae, where_to_clamp(gpt2, "prompt", "[aeiou]"))
    assert (
        torch.equal(in_prompt[: made.n_prompt], expected[: made.n_prompt])
        and not in_prompt[made.n_prompt : n].any()
    )


@pytest.mark.parametrize(
    ("positions", "pattern", "said"),
    [
        ("here", "", "no positions"),
        ("all", "(", "not a regular expression"),
        ("all", "qqqqq", "No token"),
    ],
)
def test_places_that_cannot_be_are_errors(gpt2, positions, pattern, said):
    with pytest.raises(UsageError, match=said):
        where_to_clamp(gpt2, positions, pattern)


def test_clamps_at_two_sites_act_together(gpt2, sae):
    """Both edits show in the activations that come out at the later site."""
    early = Site("resid_post", 0)
    first, second = (
        clamp_edit(sae, [Clamp(3, "add", 30.0)]),
        clamp_edit(sae, [Clamp(7, "add", 20.0)]),
    )
    (both,) = gpt2.generate(["the cat"], 0, SITE, edit=second, also=[(early, first)])
    (late,) = gpt2.generate(["the cat"], 0, SITE, edit=second)
    ids = torch.tensor([late.tokens])
    held = torch.ones_like(ids, dtype=torch.bool)
    held[:, 0] = False
    with gpt2.edit_site(early, first, lambda: held):
        by_hand = second(gpt2.read(SITE, ids).float(), held)[0]
    torch.testing.assert_close(both.activations, by_hand, rtol=1e-4, atol=1e-3)
    assert (both.activations - late.activations)[1:].norm(dim=-1).min() > 1


def test_work_that_takes_too_long_ends(gpt2, sae):
    with pytest.raises(UsageError, match="longer than 0 seconds"):
        generate_pairs(gpt2, SITE, Edits(None), Sampling(["the cat"], 4), seconds=0.0)
