"""Whether the subject of an SAE is the subject of a run."""

import pytest

from core.saes.formats.names import is_same_subject


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("gpt2-small", "openai-community/gpt2", True),
        ("/models/pythia-70m/", "EleutherAI/pythia-70m", True),
        ("google/Gemma-2-2b", "google/gemma-2-2b", True),
        ("google/gemma-2-2b", "google/gemma-2-2b-it", False),
        ("meta-llama/Meta-Llama-3-8B", "meta-llama/Llama-3.1-8B", False),
        ("EleutherAI/pythia-70m-deduped", "EleutherAI/pythia-70m", False),
    ],
)
def test_names_of_one_subject(one, other, same):
    assert is_same_subject(one, other) is same
    assert is_same_subject(other, one) is same
