"""Rule labels against readable and unreadable baselines, in one harness: correlation with the
activation over all held-out tokens.

    python tests/benchmarks/labellers.py RUN [--features 400] [--refit]

    label        the printed label; with --refit fitted anew by the code as it stands, else the set `rules` of the run
    token set    the best set of as many lexemes as the label has terms, chosen on train by mean activation and count
    n-gram       after Neuron2Graph (Foote et al. 2023), from counts instead of forward passes: for each of 200 firings, half of them the largest, the
                 shortest suffix of at most three tokens on which the feature fires more often than
                 not; predicts the mean activation behind the longest match
    table        E[activation | token] on train: unreadable, a reference
    pair table   E[activation | token and previous token], where the pair stands at least three times; a reference
    null         another feature's label

All are fitted on train and scored on the tokens of the test split that are no copies. Lines: median
over the features, and by kind of label.
"""

import argparse
import pathlib
import sys
import time

import numpy as np
import pandas as pd

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from autointerp.rules import language as rules  # noqa: E402
from autointerp.rules.fit import fit_rules  # noqa: E402
from autointerp.scores.context import Context  # noqa: E402
from autointerp.scores.simulation_corpus import HeldOut  # noqa: E402
from autointerp.settings import ScoreSettings  # noqa: E402
from core.firings.postings import Postings  # noqa: E402
from core.run import Run  # noqa: E402
from core.text.tokens import Tokens  # noqa: E402
from core.workers import PROCESSES  # noqa: E402

SUFFIX, EXAMPLES, OFTEN = 3, 200, 0.5


def correlation(p, a):
    p, a = p - p.mean(), a - a.mean()
    size = np.sqrt((p @ p) * (a @ a))
    return float(p @ a / size) if size > 0 else 0.0


class Split:
    """Codes of the tokens of one split, with those before them; a row's first tokens have -1 there."""

    def __init__(self, corpus, ordinals):
        self.ordinals = ordinals
        self.codes = corpus.codes[ordinals].astype(np.int64)
        before = [corpus.back(ordinals, d) for d in (1, 2)]
        self.keys = [self.codes]  # of suffixes of one, two, three tokens
        size = len(corpus.lexemes) + 1
        for at in before:
            earlier = np.where(at >= 0, corpus.codes[np.maximum(at, 0)], size - 1).astype(np.int64)
            self.keys.append(self.keys[-1] * size + earlier)


def table(fit, held, a, level, least=1):
    """(mean activation of the suffix at each held-out token, whether it is known)."""
    keys, inverse, counts = fit.unique[level]
    means = np.bincount(inverse, a, len(keys)) / counts
    place = np.minimum(np.searchsorted(keys, held.keys[level]), len(keys) - 1)
    known = (keys[place] == held.keys[level]) & (counts[place] >= least)
    return np.where(known, means[place], 0.0), known


def token_set(fit, held, a, size, n_codes):
    """The best set of `size` lexemes: greedy by the correlation on train, over the lexemes of
    largest mean activation times the root of their count.
    """
    mass, count = (
        np.bincount(fit.codes, a, n_codes),
        np.bincount(fit.codes, minlength=n_codes).astype(float),
    )
    order = np.argsort(-mass / np.sqrt(np.maximum(count, 1)))[:60]
    chosen, n, total = [], len(a), a.sum()
    for _ in range(size):

        def worth(c, base=tuple(chosen)):
            members = [*base, c]
            m, k = mass[members].sum(), count[members].sum()
            return (n * m - k * total) / np.sqrt(max(n * k - k * k, 1e-9))

        chosen.append(max((c for c in order if c not in chosen), key=worth))
    return np.isin(held.codes, chosen).astype(float)


def n_gram(fit, held, a, rng):
    fires = np.flatnonzero(a)
    top = fires[np.argsort(-a[fires])[: EXAMPLES // 2]]
    examples = np.unique(
        np.r_[top, rng.choice(fires, min(EXAMPLES // 2, len(fires)), replace=False)]
    )
    out, left = np.zeros(len(held.codes)), examples
    for level in range(SUFFIX):
        keys, inverse, counts = fit.unique[level]
        often = np.bincount(inverse, a > 0, len(keys)) / counts
        taken = left if level == SUFFIX - 1 else left[often[inverse[left]] > OFTEN]
        nodes = np.unique(inverse[taken])
        if len(nodes):
            means = np.bincount(inverse, a, len(keys)) / counts
            place = np.minimum(np.searchsorted(keys[nodes], held.keys[level]), len(nodes) - 1)
            match = keys[nodes][place] == held.keys[level]
            out = np.where(match, means[nodes][place], out)
        left = np.setdiff1d(left, taken)
    return out


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run")
    parser.add_argument("--features", type=int, default=400)
    parser.add_argument("--refit", action="store_true")
    arguments = parser.parse_args()
    run = Run.open(arguments.run)
    tokens, postings = (
        Tokens(run.folder("capture")),
        Postings(run.folder("index"), run.folder("capture")),
    )
    labels = (
        pd.read_parquet(run.folder("label/rules") / "labels.parquet")
        .set_index("feature")
        .sort_index()
    )
    chosen = np.sort(
        np.random.default_rng(0).choice(
            labels.index, min(arguments.features, len(labels)), replace=False
        )
    )
    context = Context(run, ScoreSettings(), labels["text"], labels["kind"], postings, tokens)
    texts, kinds = labels["text"], labels["kind"]
    if arguments.refit:
        began = time.perf_counter()
        fitted = {
            f.feature: f
            for f in fit_rules(postings, tokens, context.annotations, chosen, engine=PROCESSES)
        }
        print(f"fitted {len(fitted)} labels in {time.perf_counter() - began:.0f} s")
        chosen = np.array(sorted(fitted))
        texts, kinds = (
            {f: getattr(r, name) for f, r in fitted.items()} for name in ("text", "kind")
        )
    held_out, corpus = HeldOut.build(context), context.annotations
    fit, held = (
        Split(corpus, o)
        for o in (np.flatnonzero(tokens.in_split("train")), np.flatnonzero(held_out.scored))
    )
    fit.unique = [np.unique(k, return_inverse=True, return_counts=True) for k in fit.keys]
    rows, rng = [], np.random.default_rng(1)
    for i, f in enumerate(chosen):
        dense, firings = np.zeros(len(corpus)), postings.firings(int(f))
        dense[firings[0]] = firings[1]
        a, target = dense[fit.ordinals], dense[held.ordinals]
        if not a.any() or not target.any():
            continue
        rule = rules.read_rule(texts[f])
        size = max(
            1,
            sum(len(t) for p in rule.predicates for _, t in rules.slots(p))
            + sum(len(p.contexts) for p in rule.predicates),
        )
        at = lambda text: rules.predict(rules.read_rule(text), corpus, held.ordinals).astype(float)
        single, _ = table(fit, held, a, 0)
        pairs, known = table(fit, held, a, 1, 3)
        rows.append({
            "kind": kinds[f], "label": correlation(at(texts[f]), target), "token set": correlation(token_set(fit, held, a, size, len(corpus.lexemes)), target),
            "n-gram": correlation(n_gram(fit, held, a, rng), target), "table": correlation(single, target),
            "pair table": correlation(np.where(known, pairs, single), target), "null": correlation(at(texts[chosen[i - 1]]), target), "terms": size,
        })  # fmt: skip
    frame = pd.DataFrame(rows)
    shown = frame.groupby("kind").median(numeric_only=True).assign(n=frame["kind"].value_counts())
    print(
        pd.concat([frame.median(numeric_only=True).to_frame("all").T.assign(n=len(frame)), shown])
        .round(3)
        .to_string()
    )
    print(
        "share of features on which the label is the better: "
        + ", ".join(
            f"{b} {(frame['label'] > frame[b]).mean():.2f}"
            for b in ("token set", "n-gram", "table", "null")
        )
    )


if __name__ == "__main__":
    main()
