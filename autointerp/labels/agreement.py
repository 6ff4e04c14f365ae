"""Agreement of two label sets: the correlation of what their rules predict."""

from __future__ import annotations

import numpy as np
import pandas as pd

from autointerp.labels.unit import read_texts
from autointerp.rules import language as rules
from autointerp.rules.annotations import Annotations
from core.errors import NotReady
from core.records import SPLITS
from core.run import Run
from core.text.tokens import Tokens

COLUMNS = ["feature", "first", "second", "correlation"]


def agreement(run: Run, first: str, second: str) -> pd.DataFrame:
    """Return COLUMNS for every feature that both label sets `first` and `second` label.

    The columns `first` and `second` hold the two texts. The correlation (Pearson's r) is over all
    tokens of the test split; it is NaN where either label predicts the same everywhere, as
    "unclear" does. Raises NotReady when a set does not exist or a label is in free words.
    """
    firsts, seconds = read_texts(run, first), read_texts(run, second)
    tokens = Tokens(run.folder("capture"))
    annotations = Annotations.from_tokens(tokens)
    ordinals = np.flatnonzero(tokens.in_split(SPLITS[-1]))
    rows = []
    for feature in firsts.index.intersection(seconds.index):
        texts = firsts[feature], seconds[feature]
        a, b = (predict(text, annotations, ordinals) for text in texts)
        varies = a.std() > 0 and b.std() > 0
        correlation = float(np.corrcoef(a, b)[0, 1]) if varies else np.nan
        rows.append((int(feature), *texts, correlation))
    return pd.DataFrame(rows, columns=COLUMNS)


def predict(text: str, annotations: Annotations, ordinals: np.ndarray) -> np.ndarray:
    """Return what a label predicts (n,) on the tokens at `ordinals` (n,), 0 to 1.

    Raises NotReady when the label is in free words.
    """
    rule = rules.read_rule(text)
    if rule is None:
        raise NotReady(
            f"{text!r} is in free words and predicts nothing by itself.",
            "Compare sets whose labels are in the language of rules.",
        )
    return rules.predict(rule, annotations, ordinals)
