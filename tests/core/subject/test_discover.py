"""Architectures that `families` does not list: their sites are found by running the model once."""

import pytest

from core.errors import UsageError
from core.subject.decoding import check_cache
from core.subject.families import FAMILIES
from tests.support.every_family import try_family

SITES = "resid_pre, resid_mid, resid_post, attn_out, attn_z, mlp_in, mlp_out"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sites"),
    [
        ("qwen3_moe", SITES),
        ("olmo2", SITES.replace("mlp_in, ", "")),  # norms follow the halves
        ("cohere", SITES.replace("resid_mid, ", "")),  # the halves run in parallel
    ],
)
def test_sites_are_found_and_text_is_that_of_the_library(name, sites):
    assert name not in FAMILIES
    row = try_family(name)
    assert (row["reads"], row["sites"], row["generates"]) == ("yes", sites, "yes"), row
    assert row["final norm"] == "model.norm"


class Recurrent:
    def forward(self, input_ids, state=None):
        """As Mamba and RWKV: a state of its own."""


def test_a_model_without_a_key_value_cache_says_so():
    with pytest.raises(UsageError, match="key-value cache") as raised:
        check_cache(Recurrent(), "mamba")
    assert str(raised.value).count("\n") == 1
