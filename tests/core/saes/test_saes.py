"""Each form against numpy by hand, its file against what was saved."""

import json
import pickle
from dataclasses import asdict

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig
from core.saes.architectures.tied import TiedL1
from core.saes.architectures.topk import TopK
from core.saes.checkpoint import load_own
from tests.support.tiny import sae_of

pytestmark = pytest.mark.numeric

D, F, K = 6, 10, 3
ARCHITECTURES = ("topk", "tied_l1")


def random_sae(architecture, seed=0):
    """Weights that no initialisation gives: nothing is zero, the encoder is not the decoder's
    transpose."""
    generator = torch.Generator().manual_seed(seed)
    sae = TopK(D, F, K) if architecture == "topk" else TiedL1(D, F)
    with torch.no_grad():
        for tensor in sae.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator))
        if architecture == "topk":
            sae.after_step()
    return sae


@pytest.fixture(params=ARCHITECTURES)
def trainable(request):
    return random_sae(request.param)


@pytest.fixture
def sae(trainable):
    return trainable.finish(1.0)


def vectors(n=40, seed=5):
    return torch.randn(n, D, generator=torch.Generator().manual_seed(seed))


def numpy_encode(sae, x):
    """The formulas of the papers, one vector at a time, in float64."""
    w = {name: tensor.double().numpy() for name, tensor in sae.state_dict().items()}
    out = np.zeros((len(x), sae.n_features))
    for row, vector in enumerate(x.double().numpy()):
        if sae.architecture == "topk":
            pre = (vector - w["b_dec"]) @ w["W_enc"] + w["b_enc"]
            for feature in np.argsort(-pre)[:K]:
                out[row, feature] = max(pre[feature], 0)
        else:
            for feature in range(F):
                out[row, feature] = max(
                    (vector - w["b_dec"]) @ w["W_dec"][feature] + w["b_enc"][feature], 0
                )
    return out


def numpy_decode(sae, f):
    w = {name: tensor.double().numpy() for name, tensor in sae.state_dict().items()}
    return f @ w["W_dec"] + w["b_dec"]


# ---------------------------------------------------------------- forward


def test_the_forward_pass_is_the_papers_formula(sae):
    x = vectors()
    f = sae.encode(x)
    np.testing.assert_allclose(f.numpy(), numpy_encode(sae, x), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        sae.decode(f).numpy(), numpy_decode(sae, numpy_encode(sae, x)), rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(
        sae.decode(torch.zeros(1, F)).numpy(), numpy_decode(sae, np.zeros((1, F))), rtol=1e-6
    )


def test_leading_dimensions_are_kept(sae):
    x = vectors(12)
    f = sae.encode(x.reshape(3, 4, D))
    assert f.shape == (3, 4, F)
    torch.testing.assert_close(f.reshape(12, F), sae.encode(x))
    assert sae.decode(f).shape == (3, 4, D)


def test_topk_lets_fewer_than_k_fire_where_preactivations_are_negative():
    sae = random_sae("topk").finish(1.0)
    sae.b_enc -= 2.5
    counts = (sae.encode(vectors()) > 0).sum(1)
    assert counts.max() <= K and counts.min() < K and counts.max() > 0
    assert (sae.encode(vectors()) >= 0).all()


def test_the_sparse_form_of_topk_is_the_dense_one():
    sae = random_sae("topk").finish(1.0)
    values, features = sae.encode_sparse(vectors())
    dense = torch.zeros(40, F).scatter(1, features, values)
    assert torch.equal(dense, sae.encode(vectors()))


def test_directions_are_unit_rows(sae):
    assert sae.W_dec.shape == (F, D)
    torch.testing.assert_close(sae.W_dec.norm(dim=1), torch.ones(F))


# ---------------------------------------------------------------- edits


def test_an_edit_is_encode_set_decode_and_the_error_put_back(sae):
    x, features = vectors(30), torch.tensor([7, 2])
    values = torch.randn(30, 2, generator=torch.Generator().manual_seed(9)) * 3
    f = sae.encode(x)
    error = x - sae.decode(f)
    wanted = f.clone()
    wanted[:, features] = values
    torch.testing.assert_close(
        x + sae.edit(x, features, values), sae.decode(wanted) + error, rtol=1e-5, atol=1e-5
    )
    constant = torch.tensor([4.0, 0.0])
    wanted[:, features] = constant
    torch.testing.assert_close(
        x + sae.edit(x, features, constant), sae.decode(wanted) + error, rtol=1e-5, atol=1e-5
    )


def test_an_edit_to_its_own_value_is_exactly_nothing(sae):
    x = vectors(50).reshape(5, 10, D)
    f = sae.encode(x)
    for features in (torch.tensor([0]), torch.tensor([3, 9]), torch.arange(F)):
        assert sae.edit(x, features, f[..., features]).abs().max() <= (
            0 if sae.architecture == "topk" else 1e-6
        )


def test_an_edit_of_bfloat16_vectors_is_computed_in_float32(sae):
    x = vectors().to(torch.bfloat16)
    delta = sae.edit(x, torch.tensor([1]), torch.tensor([2.0]))
    assert delta.dtype == torch.float32
    torch.testing.assert_close(delta, sae.edit(x.float(), torch.tensor([1]), torch.tensor([2.0])))


# ---------------------------------------------------------------- forms


FORMS = [
    SAEConfig("standard", "relu"),
    SAEConfig("uncentred", "relu", subtract_b_dec=False),
    SAEConfig("topk", "topk", 3),
    SAEConfig("signed", "topk_signed", 3),
    SAEConfig("groupmax", "groupmax", 5),
    SAEConfig("jumprelu", "jumprelu"),
    SAEConfig("gated", "gated"),
    SAEConfig("layer norm", "topk", 3, norm="layer_norm"),
    SAEConfig("constant norm", "jumprelu", norm="constant_norm"),
    SAEConfig("centred", "relu", centred=True),
]


def transcribed(sae, x):
    """(f, x_hat) of one vector x (D,) by the formulas in words, in float64 and without torch."""
    form, w = (
        sae.config,
        {name: tensor.double().numpy() for name, tensor in sae.state_dict().items()},
    )
    mean = x.mean() if form.centred or form.norm == "layer_norm" else 0.0
    u = x - mean
    if form.norm == "layer_norm":
        scale = np.sqrt((u**2).sum() / (D - 1))
        z = u / (scale + 1e-5)
    elif form.norm == "constant_norm":
        scale = np.sqrt((u**2).sum()) / np.sqrt(D)
        z = u / scale
    else:
        scale, z = 1.0, u
    product = (z - w["b_dec"] * form.subtract_b_dec) @ w["W_enc"]
    pre, f = product + w["b_enc"], np.zeros(F)
    for i in range(F):
        larger = sum(pre[j] > pre[i] for j in range(F))
        group = range(
            i - i % (F // max(form.k, 1)), i - i % (F // max(form.k, 1)) + F // max(form.k, 1)
        )
        f[i] = {
            "relu": max(pre[i], 0.0),
            "topk": max(pre[i], 0.0) * (larger < form.k),
            "topk_signed": pre[i] * (sum(abs(pre[j]) > abs(pre[i]) for j in range(F)) < form.k),
            "groupmax": max(pre[i], 0.0) * (form.activation == "groupmax" and all(pre[j] <= pre[i] for j in group)),
            "jumprelu": max(pre[i], 0.0) * (form.activation == "jumprelu" and pre[i] > w["threshold"][i]),
            "gated": (form.activation == "gated" and pre[i] > 0) and max(product[i] * w["gate_scale"][i] + w["gate_bias"][i], 0.0),
        }[form.activation]  # fmt: skip
    return f, (f @ w["W_dec"] + w["b_dec"]) * scale + mean


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_a_form_is_its_formula(form):
    sae, x = sae_of(form, D, F), vectors() * 3 + 1
    f = sae.encode(x)
    by_hand = [transcribed(sae, row) for row in x.double().numpy()]
    np.testing.assert_allclose(f.numpy(), np.stack([b[0] for b in by_hand]), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        sae.decode(f, x).numpy(), np.stack([b[1] for b in by_hand]), rtol=1e-4, atol=1e-4
    )
    assert (f != 0).any(1).float().mean() > 0.5


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_an_edit_of_any_form_keeps_the_error_and_reaches_the_value(form):
    sae, x, features = sae_of(form, D, F), vectors(30), torch.tensor([7, 2])
    f = sae.encode(x)
    wanted = f.clone()
    wanted[:, features] = torch.tensor([1.5, 0.0])
    torch.testing.assert_close(
        sae.edit(x, features, torch.tensor([1.5, 0.0])),
        sae.decode(wanted, x) - sae.decode(f, x),
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize(
    "form", [f for f in FORMS if f.norm != "none" or f.centred], ids=lambda f: f.name
)
def test_a_scale_of_the_token_is_never_forgotten(form):
    sae = sae_of(form, D, F)
    with pytest.raises(ValueError, match="decode needs the encoded"):
        sae.decode(torch.zeros(2, F))


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_any_form_is_saved_and_loaded(form, tmp_path):
    sae = sae_of(form, D, F)
    sae.save(tmp_path)
    loaded = SAE.load(tmp_path)
    assert loaded.config == form and torch.equal(
        loaded.reconstruct(vectors()), sae.reconstruct(vectors())
    )


@pytest.mark.parametrize(
    "form",
    [SAEConfig("x", "topk", 0), SAEConfig("x", "topk", F + 1), SAEConfig("x", "groupmax", 3)],
    ids=["none", "too many", "uneven groups"],
)
def test_a_k_that_does_not_fit_is_an_error(form):
    with pytest.raises(UsageError, match="k is"):
        sae_of(form, D, F)


# ---------------------------------------------------------------- files


def test_what_is_saved_is_loaded(sae, tmp_path):
    sae.save(tmp_path)
    loaded = SAE.load(tmp_path)
    assert loaded.config == sae.config and loaded.n_features == F and loaded.d_in == D
    for name, tensor in sae.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor)
    assert torch.equal(loaded.encode(vectors()), sae.encode(vectors()))
    assert not any(t.requires_grad for t in loaded.state_dict().values())
    assert [p.name for p in tmp_path.iterdir()] == ["sae.safetensors"]


def test_the_same_sae_makes_the_same_bytes(sae, tmp_path):
    """Manifests hash files, and safetensors writes several header entries in an order that changes
    from call to call."""
    contents = set()
    for _ in range(12):
        sae.save(tmp_path)
        contents.add((tmp_path / "sae.safetensors").read_bytes())
    assert len(contents) == 1


class Bomb:
    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


def header(sae, **changes):
    return {"sae": json.dumps(asdict(sae.config) | changes)}


@pytest.mark.parametrize(
    ("write", "told"),
    [
        (lambda path, sae: None, "cannot be read"),
        (lambda path, sae: path.write_bytes(pickle.dumps(Bomb())), "cannot be read"),
        (lambda path, sae: path.write_bytes(b""), "cannot be read"),
        (lambda path, sae: save_file(sae.state_dict(), path), "header that is not ours"),
        (
            lambda path, sae: save_file(sae.state_dict(), path, header(sae, activation="softmax")),
            "'softmax'",
        ),
        (
            lambda path, sae: save_file(sae.state_dict(), path, header(sae, activation="gated")),
            "gate_bias",
        ),
        (
            lambda path, sae: save_file(sae.state_dict(), path, header(sae, colour="red")),
            "header that is not ours",
        ),
        (
            lambda path, sae: save_file(
                sae.state_dict() | {"b_enc": torch.ones(3)}, path, header(sae)
            ),
            "b_enc has shape",
        ),
        (
            lambda path, sae: save_file({"other": torch.ones(1)}, path, header(sae)),
            "does not fit its header",
        ),
    ],
    ids=[
        "missing",
        "pickle",
        "empty",
        "no header",
        "unknown",
        "another's tensors",
        "unknown key",
        "wrong shape",
        "wrong tensors",
    ],
)
def test_a_file_that_is_not_ours_is_an_error(sae, tmp_path, write, told):
    write(tmp_path / "sae.safetensors", sae)
    with pytest.raises(UsageError, match=told):
        load_own(tmp_path)


def test_a_full_disk_is_the_error_that_it_is_everywhere(tmp_path, monkeypatch):
    import errno

    import safetensors.torch
    from safetensors import SafetensorError

    from core.files import write_tensors

    def full(*_, **__):
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(safetensors.torch, "save_file", full)
    with pytest.raises(OSError) as raised:
        write_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(2)}, {})
    assert raised.value.errno == errno.ENOSPC and list(tmp_path.iterdir()) == []


# ---------------------------------------------------------------- clamps


@pytest.mark.parametrize("form", FORMS, ids=lambda f: f.name)
def test_a_clamp_sets_features_where_it_may_and_nothing_elsewhere(form):
    """The edit adds what `edit` says, on editable positions alone."""
    sae, hidden = sae_of(form, D, F), vectors().reshape(2, -1, D)
    editable = torch.zeros(hidden.shape[:2], dtype=torch.bool)
    editable[:, 2:] = True
    clamped = sae.clamp({3: 1.5, 7: 0.0})(hidden, editable)
    delta = sae.edit(hidden[:, 2:], torch.tensor([3, 7]), torch.tensor([1.5, 0.0]))
    assert delta.abs().max() > 0.1
    torch.testing.assert_close(clamped[:, 2:], hidden[:, 2:] + delta)
    assert torch.equal(clamped[:, :2], hidden[:, :2])


def test_a_clamp_knows_the_site_of_its_sae():
    site = Site("resid_post", layer=3)
    sae = sae_of(FORMS[0], D, F).with_origin(site, "gpt2", 128)
    assert sae.clamp({3: 1.0}).site == site


@pytest.mark.parametrize("feature", [-1, F])
def test_a_clamp_of_a_feature_that_does_not_exist_is_an_error(feature):
    with pytest.raises(UsageError, match=f"no feature {feature}"):
        sae_of(FORMS[0], D, F).clamp({feature: 1.0})
