"""Fidelity against hand calculation, cross-entropies against hooks placed by hand."""

import itertools

import numpy as np
import pytest
import torch

import core.training.evaluate
from core.activations.passes import TextRows
from core.activations.store import ActivationStore
from core.errors import UsageError
from core.files import write_array
from core.records import Site
from core.saes import SAE, SAEConfig
from core.settings import EvaluateSettings
from core.subject.load import load_subject
from core.text.tokens import Tokens
from core.training.evaluate import (
    MIN_DOCUMENTS,
    SUMS,
    document_sums,
    fidelity,
    fidelity_of,
    intervals,
    losses_of,
    measure_losses,
)
from core.training.losses import Measurement, replacements, split_by_length
from core.training.sample import draw_sample, draw_test_rows
from tests.support.stages import evaluate
from tests.support.tiny import WIDTH, sae_of, token_rows

pytestmark = pytest.mark.numeric

SITE = Site("resid_post", 1)


class Pretend:
    """An SAE that reconstructs as it is told; its activations are the vectors themselves."""

    def __init__(self, reconstruct, n_features=WIDTH):
        self.reconstruct, self.n_features = reconstruct, n_features
        self.d_in = self.d_out = n_features
        self.config = SAEConfig("pretend", "relu")

    def encode(self, x):
        return x

    def decode(self, f, x):
        return self.reconstruct(x)

    def to(self, device):
        return self


def vectors(n=300):
    """Far from zero compared with their spread, where one-pass variances lose digits."""
    return torch.randn(n, WIDTH, generator=torch.Generator().manual_seed(0)) * 0.5 + 100


# ---------------------------------------------------------------- fidelity


def test_predicting_the_mean_explains_nothing_and_a_copy_everything():
    x = vectors()
    mean = x.double().mean(0).float()
    assert fidelity(Pretend(lambda f: mean.expand_as(f)), [x])["fvu"] == pytest.approx(1, abs=1e-4)
    assert fidelity(Pretend(lambda f: f), [x])["fvu"] == 0


def test_a_constant_offset_is_seen():
    """A ratio of variances of x - x_hat and x would call this perfect."""
    x = vectors()
    spread = float((x - x.mean(0)).double().square().sum())
    found = fidelity(Pretend(lambda f: f + 2.0), [x])["fvu"]
    assert found == pytest.approx(4.0 * x.numel() / spread, rel=1e-4) and found > 10


def test_batches_change_nothing_and_the_mean_is_that_of_all():
    x = torch.cat([vectors(), vectors() + 50])
    whole, parts = (
        fidelity(Pretend(lambda f: f.round()), [x]),
        fidelity(Pretend(lambda f: f.round()), x.split(70)),
    )
    assert whole == pytest.approx(parts)
    assert whole["fvu"] == pytest.approx(
        float((x - x.round()).double().square().sum() / (x - x.double().mean(0)).square().sum()),
        rel=1e-6,
    )


def test_l0_and_dead_share_are_counted_by_hand():
    x = torch.tensor([[1.0, 0.0, -1.0, 0.0], [2.0, 3.0, 0.0, 0.0], [0.0, 0.5, -2.0, 0.0]])
    found = fidelity(Pretend(lambda f: f, 4), [x[:2], x[2:]])
    assert (found["tokens"], found["l0"], found["dead_share"]) == (3, pytest.approx(4 / 3), 0.5)


# ---------------------------------------------------------------- cross-entropy


def rows_of_many_lengths():
    """(Rows, their token ids (1, T) one by one)."""
    parts = [token_rows(1, length, seed) for length, seed in ((4, 1), (7, 2), (7, 3), (12, 4))]
    offsets = np.r_[0, np.cumsum([p.shape[1] - 1 for p in parts])]
    return TextRows(
        np.concatenate([p[0, 1:].numpy() for p in parts]), offsets, np.full(4, -1), 0
    ), parts


def losses(subject, sae, mean):
    rows, _ = rows_of_many_lengths()
    return losses_of(
        Measurement(subject, SITE, replacements(sae, mean.float()), at_once=2)(
            rows, np.arange(4), np.array([5, 5, 9, 9])
        ).sum(0)
    )


def loss_by_hand(subject, rows, replace=None):
    """Mean nats a token over all rows, `replace` applied behind layer 1 at every position but the
    first."""
    total = count = 0

    def patch(_module, _args, out):
        out = out.clone()
        out[:, 1:] = replace(out[:, 1:])
        return out

    handle = subject.model.transformer.h[1].register_forward_hook(patch) if replace else None
    for row in rows:
        with torch.inference_mode():
            total += float(subject.model(input_ids=row, labels=row).loss) * (row.shape[1] - 1)
        count += row.shape[1] - 1
    if handle:
        handle.remove()
    return total / count


def test_cross_entropies_are_those_of_hooks_placed_by_hand(gpt2):
    (_, rows), mean = rows_of_many_lengths(), torch.linspace(-1, 1, WIDTH).double()
    found = losses(gpt2, Pretend(lambda f: f.round()), mean)
    assert found["loss_tokens"] == 3 + 6 + 6 + 11
    assert found["ce_clean"] == pytest.approx(loss_by_hand(gpt2, rows), rel=1e-5)
    assert found["ce_zero"] == pytest.approx(loss_by_hand(gpt2, rows, torch.zeros_like), rel=1e-5)
    assert found["ce_mean"] == pytest.approx(
        loss_by_hand(gpt2, rows, lambda h: mean.float().expand_as(h)), rel=1e-5
    )
    assert found["ce_spliced"] == pytest.approx(loss_by_hand(gpt2, rows, torch.round), rel=1e-5)
    clean, spliced = found["ce_clean"], found["ce_spliced"]
    assert abs(spliced - clean) > 1e-3 and found["ce_increase"] == pytest.approx(spliced - clean)
    for kind in ("zero", "mean"):
        assert found[f"recovered_{kind}"] == pytest.approx(
            (found[f"ce_{kind}"] - spliced) / (found[f"ce_{kind}"] - clean)
        )


def test_a_perfect_sae_recovers_everything_and_the_mean_nothing(gpt2):
    mean = torch.linspace(-1, 1, WIDTH).double()
    perfect = losses(gpt2, Pretend(lambda f: f), mean)
    assert (perfect["recovered_zero"], perfect["recovered_mean"]) == pytest.approx((1, 1), abs=1e-6)
    assert (perfect["ce_increase"], perfect["kl"]) == pytest.approx((0, 0), abs=1e-6)
    poor = losses(gpt2, Pretend(lambda f: mean.float().expand_as(f)), mean)
    assert poor["recovered_mean"] == pytest.approx(0, abs=1e-6)


def test_the_divergence_is_that_of_the_two_distributions(gpt2):
    rows, parts = rows_of_many_lengths()
    sae, expected = Pretend(lambda f: f.round()), []
    edit = replacements(sae, torch.zeros(WIDTH))["spliced"]
    for part in parts:
        p, q = (
            gpt2.logits(part)[0, :-1].double().softmax(-1),
            gpt2.logits(part, SITE, edit)[0, :-1].double().softmax(-1),
        )
        expected += (p * (p / q).log()).sum(-1).tolist()
    assert losses(gpt2, sae, torch.zeros(WIDTH))["kl"] == pytest.approx(np.mean(expected), rel=1e-4)
    assert np.mean(expected) > 1e-4


def test_rows_of_one_length_go_together_and_logits_fit(monkeypatch):
    rows, _ = rows_of_many_lengths()
    monkeypatch.setattr("core.training.losses.LOGITS", 10 * 13)
    assert [g.tolist() for g in split_by_length(rows, np.array([3, 2, 0, 1]), 10)] == [
        [0],
        [2],
        [1],
        [3],
    ]
    monkeypatch.setattr("core.training.losses.LOGITS", 1e9)
    assert [g.tolist() for g in split_by_length(rows, np.array([3, 2, 0, 1]), 10)] == [
        [0],
        [2, 1],
        [3],
    ]


# ---------------------------------------------------------------- shrinkage, intervals


def test_a_shrunk_reconstruction_is_told_by_its_bias():
    x = vectors()
    for factor in (0.5, 0.9, 1.0):
        found = fidelity(Pretend(lambda f, factor=factor: f * factor), [x])
        assert (found["bias"], found["l2_ratio"]) == pytest.approx((factor, factor), rel=1e-5)
    assert np.isnan(fidelity(Pretend(torch.zeros_like), [x])["bias"])


def test_documents_are_summed_apart_and_in_any_order():
    x, sae = vectors(60), Pretend(lambda f: f.round())
    documents = np.array([7, 3, 7, 9] * 15)
    sums, _, mean, _ = document_sums(sae, x.split(13), documents)
    assert sums.shape == (3, len(SUMS)) and sums[:, 0].tolist() == [15, 30, 15]
    for row, number in enumerate((3, 7, 9)):
        own = x[torch.from_numpy(documents == number)].double()
        assert sums[row, SUMS.index("error")] == pytest.approx(
            float((own - own.float().round()).square().sum()), rel=1e-9
        )
        assert sums[row, SUMS.index("spread")] == pytest.approx(
            float((own - mean).square().sum()), rel=1e-6
        )
    assert fidelity_of(sums.sum(0)) == pytest.approx(
        fidelity_of(document_sums(sae, [x], None)[0].sum(0))
    )


def test_intervals_cover_the_truth_as_often_as_they_say():
    """400 draws of 40 documents whose vectors share an error of their own; of 1,000 draws 93 % held
    the true L0."""
    rng, hits = np.random.default_rng(1), 0
    for seed in range(400):
        firings = rng.normal(10, 3, 40)[:, None] + rng.normal(0, 1, (40, 5))
        sums = np.zeros((40, len(SUMS)))
        sums[:, 0], sums[:, SUMS.index("firings")], sums[:, SUMS.index("spread")] = (
            5,
            firings.sum(1),
            1,
        )
        low, high = intervals(sums, fidelity_of, seed)["l0"]
        hits += low < 10 < high
    assert 360 <= hits <= 392


def test_few_documents_have_no_interval():
    assert intervals(np.ones((MIN_DOCUMENTS - 1, len(SUMS))), fidelity_of, 0) == {}


# ---------------------------------------------------------------- the stage


def test_the_stage_measures_the_score_split_alone(run_copy):
    summary = evaluate(run_copy, EvaluateSettings(tokens=0, loss_tokens=10**9)).summary
    folder = run_copy.folder("capture")
    tokens, store, sae, subject = (
        Tokens(folder),
        ActivationStore(folder),
        SAE.load(run_copy.folder("train")),
        load_subject(run_copy),
    )
    x = store.read(np.flatnonzero(tokens.in_split("test"))).double()
    with torch.inference_mode():
        f = sae.encode(x.float())
        error = x - sae.decode(f)
    assert summary["tokens"] == len(x)
    assert summary["fvu"] == pytest.approx(
        float(error.square().sum() / (x - x.mean(0)).square().sum()), rel=1e-5
    )
    assert summary["l0"] == pytest.approx(float((f > 0).sum() / len(x)))
    rows = []
    for row in np.flatnonzero(tokens.split[tokens.row_document] == 2):
        ids = tokens.ids[tokens.row_offsets[row] : tokens.row_offsets[row + 1]].tolist()
        rows.append(torch.tensor([[subject.bos, *ids]]))
    assert summary["loss_tokens"] == sum(r.shape[1] - 1 for r in rows)
    assert summary["ce_clean"] == pytest.approx(loss_by_hand(subject, rows), rel=1e-4)
    assert summary["ce_spliced"] == pytest.approx(
        loss_by_hand(subject, rows, lambda h: sae.decode(sae.encode(h))), rel=1e-4
    )
    assert summary["ce_mean"] == pytest.approx(
        loss_by_hand(subject, rows, lambda h: x.mean(0).float().expand_as(h)), rel=1e-4
    )


def test_samples_are_of_the_size_asked_for(run_copy):
    summary = evaluate(run_copy, EvaluateSettings(tokens=200, loss_tokens=100)).summary
    assert 200 <= summary["tokens"] < 200 + 32 and 100 <= summary["loss_tokens"] < 100 + 32


@pytest.fixture
def in_small_rounds(monkeypatch):
    """Rounds of 100 tokens, and an interval that five documents may have."""
    for name, value in (("ROUND", 100), ("LEAST_TOKENS", 1), ("MIN_DOCUMENTS", 5)):
        monkeypatch.setattr(core.training.evaluate, name, value)
    monkeypatch.setattr(core.training.losses, "LOGITS", 1)


def measured(run, clock=float):
    sample = draw_sample(run, 0, 0)
    edits = replacements(SAE.load(run.folder("train")), torch.zeros(WIDTH))
    sums, ended = measure_losses(sample.subject, sample, edits, clock)
    return losses_of(sums.sum(0)), ended, sums, sample


@pytest.mark.usefixtures("in_small_rounds")
def test_cross_entropies_end_when_their_increase_is_known(tiny_run, monkeypatch):
    monkeypatch.setattr(core.training.evaluate, "PRECISION", 1e-12)
    whole, ended, sums, sample = measured(tiny_run)
    assert ended == "tokens" and whole["loss_tokens"] == len(sample.ordinals)
    low, high = intervals(sums, losses_of, sample.seed)["ce_increase"]
    monkeypatch.setattr(core.training.evaluate, "PRECISION", (high - low))
    found, ended, sums, _ = measured(tiny_run)
    assert ended == "precision" and found["loss_tokens"] < whole["loss_tokens"]
    low, high = intervals(sums, losses_of, sample.seed)["ce_increase"]
    assert high - low <= 2 * core.training.evaluate.PRECISION


@pytest.mark.usefixtures("in_small_rounds")
def test_cross_entropies_end_after_two_minutes(tiny_run, monkeypatch):
    """50 seconds a batch, which is a row here: the third ends it, in the middle of a round."""
    monkeypatch.setattr(core.training.evaluate, "PRECISION", 1e-12)
    found, ended, _, sample = measured(tiny_run, itertools.count(0, 50).__next__)
    assert ended == "time"
    lengths = np.diff(sample.tokens.row_offsets)[sample.loss_rows]
    rows = sample.loss_rows[: int(np.searchsorted(np.cumsum(lengths), found["loss_tokens"])) + 1]
    assert len(rows) == 3 and lengths[:3].sum() == found["loss_tokens"], "the first rows, whole"


def test_a_number_of_tokens_is_measured_whole(run_copy, monkeypatch):
    monkeypatch.setattr(core.training.evaluate, "SECONDS", 0.0)
    summary = evaluate(run_copy, EvaluateSettings(tokens=0, loss_tokens=600)).summary
    assert summary["loss_ended_by"] == "tokens" and summary["loss_tokens"] >= 600


def test_rows_without_bos_have_their_own_first_token_in_front(run_copy, gpt2):
    tokens = Tokens(run_copy.folder("capture"))
    first = np.arange(len(tokens.row_document)) + 100
    rows = TextRows(tokens.ids, tokens.row_offsets, first, gpt2.bos)
    chosen = draw_test_rows(tokens, 0, np.random.default_rng(0))
    assert all(
        int(rows.tokens(chosen[i : i + 1])[0, 0]) == first[row]
        for i, row in enumerate(chosen.tolist())
    )


def test_no_score_document_is_an_error(run_copy):
    write_array(
        run_copy.path / "capture" / "split.npy",
        np.zeros_like(np.load(run_copy.path / "capture" / "split.npy")),
    )
    with pytest.raises(UsageError, match="test split"):
        evaluate(run_copy, EvaluateSettings())


def test_vectors_of_outlying_norm_decide_no_figure_and_are_counted():
    """The figures are those of the ordinary vectors alone; with the others, the FVU is told apart."""
    generator = torch.Generator().manual_seed(5)
    sae = sae_of(SAEConfig("topk", "topk", 3), 12, 30)
    x = torch.randn(400, 12, generator=generator)
    far = torch.zeros(400, dtype=torch.bool)
    far[[7, 90, 300]] = True
    x[far] *= 100
    found = fidelity(sae, x.split(64))
    alone = fidelity(sae, [x[~far]])
    assert found["norm_outliers"] == 3 and alone["norm_outliers"] == 0
    for name in ("tokens", "fvu", "l0", "bias", "l2_ratio"):
        assert found[name] == pytest.approx(alone[name], rel=1e-6), name
    y, y_hat = x.double(), sae.reconstruct(x).double()
    by_hand = (y - y_hat).square().sum() / (y - y.mean(0)).square().sum()
    assert found["fvu_with_outliers"] == pytest.approx(float(by_hand), rel=1e-4)
    assert abs(found["fvu_with_outliers"] - found["fvu"]) > 0.05


def test_outlying_norms_of_what_a_transcoder_reads_decide_no_figure():
    generator = torch.Generator().manual_seed(5)
    sae = sae_of(SAEConfig("topk", "topk", 3), 12, 30)
    x, y = torch.randn(2, 400, 12, generator=generator)
    far = torch.zeros(400, dtype=torch.bool)
    far[[7, 90, 300]] = True
    x[[7, 90]] *= 100  # read
    y[300] *= 100  # predicted
    found = outliers_of(sae, x, y, 64)
    alone = outliers_of(sae, x[~far], y[~far], 397)
    assert found[1]["norm_outliers"] == 3 and alone[1]["norm_outliers"] == 0
    assert found[0]["fvu"] == pytest.approx(alone[0]["fvu"], rel=1e-6)


def outliers_of(sae, x, y, size):
    sums, _, _, outliers = document_sums(sae, x.split(size), None, y.split(size))
    return fidelity_of(sums.sum(0)), outliers


def test_where_most_vectors_are_zero_none_outlies():
    sae = sae_of(SAEConfig("topk", "topk", 3), 12, 30)
    x = torch.randn(100, 12, generator=torch.Generator().manual_seed(5))
    x[:60] = 0
    assert fidelity(sae, [x])["norm_outliers"] == 0
    assert fidelity(sae, [x])["tokens"] == 100
