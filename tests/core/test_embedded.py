"""What comes with the program: the corpus reads whole, the autoencoder fits the subject it names."""

import torch

from core.embedded import CORPORA, SAES, SUBJECTS, data_folder, find_embedded
from core.saes import SAE
from core.text.documents import read_corpus


def test_everything_that_has_a_name_is_there():
    places = [*SUBJECTS.values(), *CORPORA.values(), *SAES.values()]
    assert [place for place in places if not (data_folder() / place).exists()] == []


def test_the_corpus_of_prompts_reads_without_a_bad_record():
    corpus = read_corpus("prompts")
    texts = [document.text for document in corpus]
    assert len(texts) == len(set(texts)) == 1164
    assert not corpus.left_out.counts
    assert not any("\ufffd" in text[-1:] for text in texts)


def test_the_autoencoder_fires_k_features_and_says_what_it_reads():
    sae = SAE.load("smollm2-135m")
    assert (str(sae.site), sae.subject, sae.n_features) == ("resid_post.12", "smollm2", 4608)
    x = torch.randn(16, sae.d_in, generator=torch.Generator().manual_seed(0)) * 20
    assert (sae.encode(x) > 0).sum(1).tolist() == [32] * 16


def test_an_unknown_name_stays_a_path():
    assert find_embedded(SAES, "mine/sae") == "mine/sae"
