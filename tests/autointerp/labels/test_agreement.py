"""What two sets of labels have in common, against correlations worked out from the text."""

import json
from collections import Counter

import numpy as np
import pandas as pd
import pytest

from autointerp.labels.agreement import agreement
from autointerp.labels.notes import add_note
from core.errors import NotReady
from core.run import Run
from core.text.tokens import Tokens


def test_agreement_is_the_correlation_of_what_both_predict(job_copy, call):
    run = Run.open(str(job_copy))
    tokens = Tokens(run.folder("capture"))
    held_out = np.flatnonzero(tokens.in_split("test"))
    words = np.array([tokens.vocabulary[i].strip() for i in np.asarray(tokens.ids)[held_out]])
    (one, _), (two, _), (three, _) = Counter(w for w in words.tolist() if w.isalpha()).most_common(
        3
    )
    labelled = pd.read_parquet(run.folder("label/rules") / "labels.parquet")
    first, second, third = (int(f) for f in labelled["feature"][:3])
    quoted = [json.dumps(w) for w in (one, two, three)]
    add_note(job_copy, first, f"{quoted[0]} or {quoted[1]}")
    add_note(job_copy, second, "unclear")
    assert call("label", job_copy, "--labels", "hand")[0] == 0
    labelled.loc[labelled["feature"].isin([first, second]), "text"] = f"{quoted[1]} or {quoted[2]}"
    labelled.to_parquet(run.folder("label/rules") / "labels.parquet")

    found = agreement(run, "hand", "rules").set_index("feature")
    by_hand = np.corrcoef((words == one) | (words == two), (words == two) | (words == three))[0, 1]
    assert found["correlation"][first] == pytest.approx(by_hand, abs=1e-6) and np.isnan(
        found["correlation"][second]
    )
    assert third not in found.index  # nothing was noted of it


def test_a_label_in_free_words_predicts_nothing_by_itself(job_copy, call):
    for feature in range(5):
        add_note(job_copy, feature, "something about weather")
    assert call("label", job_copy, "--labels", "hand")[0] == 0
    with pytest.raises(NotReady, match="free words"):
        agreement(Run.open(str(job_copy)), "hand", "rules")
