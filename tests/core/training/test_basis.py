"""The subject's own neurons and heads as features: exact, signed, and each head's own."""

import pytest
import torch

from core.errors import UsageError
from core.records import Site
from core.training.basis import Basis, make_basis, read_projection
from tests.support.tiny import token_rows

pytestmark = pytest.mark.numeric
ROWS = token_rows(2, 12)


def test_what_sae_names_is_parsed():
    assert Basis.parse("neurons") == Basis("neurons", 32)
    assert Basis.parse("heads:0") == Basis("heads", 0)
    assert Basis.parse("neurons/of/mine") is None and Basis.parse("hf:a/b") is None
    assert Basis("heads", 4).sites("resid_post.7") == ("attn_z.7", "attn_out.7")
    with pytest.raises(UsageError, match="does not say a layer"):
        Basis("neurons", 4).sites("model.layers.3.mlp.output")


@pytest.mark.parametrize("kind", ["neurons", "heads"])
def test_all_of_them_give_the_layer_s_output(subject, kind):
    """In every family: the features' sum and the bias are what the subject computes."""
    site, site_out = (Site.parse(s) for s in Basis(kind, 0).sites("resid_post.1"))
    sae = make_basis(subject, Basis(kind, 0), site, site_out)
    x, y = (h.float() for h in subject.read_sites([site, site_out], ROWS))
    torch.testing.assert_close(sae.reconstruct(x), y, rtol=1e-4, atol=1e-5)
    f = sae.encode(x)
    assert ((f[..., 0::2] > 0) & (f[..., 1::2] > 0)).sum() == 0, "one sign of a pair fires"
    lengths = sae.W_dec.norm(dim=1)
    torch.testing.assert_close(lengths, torch.ones_like(lengths), rtol=1e-4, atol=1e-4)


def test_a_neuron_s_activation_is_the_length_of_what_it_writes(gpt2):
    site, site_out = Site("neurons", 1), Site("mlp_out", 1)
    sae = make_basis(gpt2, Basis("neurons", 3), site, site_out)
    x = gpt2.read(site, ROWS).float()
    rows = read_projection(gpt2, site)[0]
    written = x * rows.norm(dim=1)
    f = sae.encode(x)
    assert int((f > 0).sum(-1).max()) <= 3
    signed = f[..., 0::2] - f[..., 1::2]
    fires = signed != 0
    torch.testing.assert_close(signed[fires], written[fires])
    assert float(written.abs()[~fires].max()) > 0, "the smaller ones are silent"
    smallest = torch.where(fires, signed.abs(), torch.inf).amin(-1)
    largest_silent = torch.where(fires, 0.0, written.abs()).amax(-1)
    assert bool((smallest >= largest_silent - 1e-6).all())


def test_a_direction_of_a_head_is_read_from_that_head_alone(gpt2):
    sae = make_basis(gpt2, Basis("heads", 0), Site("attn_z", 1), Site("attn_out", 1))
    size = sae.d_in // 2  # the tiny subject has two heads
    first = (sae.W_enc[:size].abs().sum(0) > 1e-6, sae.W_enc[size:].abs().sum(0) > 1e-6)
    assert not bool((first[0] & first[1]).any())
    assert bool(first[0].any()) and bool(first[1].any())


def test_a_norm_behind_the_matrix_is_seen(subjects):
    gemma = subjects["gemma2"]
    with pytest.raises(UsageError, match="not what stands at mlp_out.1"):
        make_basis(gemma, Basis("neurons", 0), Site("neurons", 1), Site("mlp_out", 1))
    own = Site("output", module="model.layers.1.mlp.down_proj")
    sae = make_basis(gemma, Basis("neurons", 0), Site("neurons", 1), own)
    x, y = (h.float() for h in gemma.read_sites([Site("neurons", 1), own], ROWS))
    torch.testing.assert_close(sae.reconstruct(x), y, rtol=1e-4, atol=1e-5)
    with pytest.raises(UsageError, match="not the input of a matrix"):
        make_basis(gemma, Basis("neurons", 0), Site("resid_post", 1), own)
