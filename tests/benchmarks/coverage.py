"""How often a 95 % interval over documents holds the truth, by the number of documents: of a
correlation, and of a balanced accuracy.

    python tests/benchmarks/coverage.py [--draws 2000]

Documents are made with their own rate of firing and their own quality of prediction, so that tokens
of one document are alike: that is what makes an interval over tokens wrong and one over documents
necessary. The truth is the correlation over 20,000 documents.
"""

import argparse
import pathlib
import sys

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[2]))

from autointerp.statistics import (
    balanced_interval,  # noqa: E402
    correlation,  # noqa: E402
    document_sums,  # noqa: E402
    interval,  # noqa: E402
)


def documents(rng, count):
    """Sums (count, 6) of documents of 32 to 160 tokens with random rates and qualities."""
    sums = np.empty((count, 6))
    for i in range(count):
        n = int(rng.integers(1, 6)) * 32
        rate, quality = rng.beta(0.6, 12), rng.beta(2, 2)
        a = rng.gamma(2.0, size=n) * (rng.random(n) < rate + 0.03)
        p = np.where(rng.random(n) < quality, a > 0, rng.random(n) < rate).astype(float)
        sums[i] = document_sums(p, a, np.zeros(n, dtype=int))[0]
    return sums


def percentile(sums, rng, draws=400):
    weights = rng.multinomial(len(sums), np.full(len(sums), 1 / len(sums)), draws)
    r = correlation(weights @ sums)
    return tuple(np.nanquantile(r, [0.025, 0.975])) if np.isfinite(r).any() else None


def panels(rng, d, level):
    """(truth, low, high) of a made panel: d documents on either side with one window each, in a
    third of them two, all with their own chance to be told right.
    """
    sides, truths = [], []
    for mean in (level, min(0.98, level + 0.1)):
        a, b = 4 * mean, 4 * (1 - mean)  # chances differ widely between documents
        chances = rng.beta(a, b, d)
        windows = 1 + (rng.random(d) < 1 / 3)
        sides.append((rng.binomial(windows, chances).sum() / windows.sum(), d))
        truths.append(mean)
    return np.mean(truths), *balanced_interval(*sides[0], *sides[1])


def accuracy_table(rng, draws):
    print(
        "\nbalanced accuracy; the chance that a firing window is told right is .5, .7, .9\n documents  coverage          median widths"
    )
    for d in (3, 5, 8, 10, 15, 20, 30, 100):
        cells = []
        for level in (0.5, 0.7, 0.9):
            made = np.array([panels(rng, d, level) for _ in range(draws)])
            cells.append(
                (
                    ((made[:, 1] <= made[:, 0]) & (made[:, 0] <= made[:, 2])).mean(),
                    np.median(made[:, 2] - made[:, 1]),
                )
            )
        print(
            f"{d:10}  "
            + " ".join(f"{c:.3f}" for c, _ in cells)
            + "   "
            + " ".join(f"{w:.2f}" for _, w in cells)
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--draws", type=int, default=2000)
    draws = parser.parse_args().draws
    rng = np.random.default_rng(0)
    population = documents(rng, 20_000)
    truth = float(correlation(population.sum(0)))
    print(f"true correlation {truth:.3f}\n documents  bootstrap  jackknife  median width of each")
    for d in (3, 5, 8, 10, 12, 15, 20, 30, 50, 100):
        hits, widths, defined = [0, 0], [[], []], 0
        for _ in range(draws):
            sample = population[rng.integers(0, len(population), d)]
            found = percentile(sample, rng), interval(sample)
            if None in found:
                continue
            defined += 1
            for k, (low, high) in enumerate(found):
                hits[k] += low <= truth <= high
                widths[k].append(high - low)
        print(
            f"{d:10}  {hits[0] / defined:9.3f}  {hits[1] / defined:9.3f}  {np.median(widths[0]):.2f} {np.median(widths[1]):.2f}  ({defined} defined)"
        )
    accuracy_table(rng, draws)


if __name__ == "__main__":
    main()
