"""This project's own report: rows of its tables, and the sentences that depend on what came out."""

from __future__ import annotations

from autointerp.clusters.unit import read_proof
from figures.markdown import code
from figures.report.cluster_text import compare_to_null, list_named
from figures.report.gallery import useful_measure
from figures.results.numbers import Hand, Numbers, TestedClamp
from figures.text import describe_useful, to_line

SHORT = 110  # characters of a text in a table
SETS = {"hand": "by hand", "rules": "automatic"}
KINDS = ("simulation", "simulation-corpus", "detection")
USES = {
    "train": "training, labelling",
    "val": "early stopping, calibration of scores",
    "test": "every figure that is quoted",
}


def format_number(value: float | None, form: str = ".2f") -> str:
    return "-" if value is None else format(value, form)


def shorten(text: str) -> str:
    """`text` as code, cut to SHORT characters."""
    return code(text if len(text) <= SHORT else text[: SHORT - 1] + "…")


def site_rows(n: Numbers) -> list[list[str]]:
    return [
        [
            r["name"],
            f"`{r['site']}`",
            f"{r['fvu']:.1%}",
            f"{r['ce_increase']:+.2f}",
            f"{r['recovered_mean']:.0%}",
            *(format_number(r[key]) for key in ("simulation", "detection", "effect", "rise")),
            f"{r['token']:.0%}",
            f"{r['unclear']:.0%}",
        ]
        for r in n.site_rows
    ]


def split_rows(n: Numbers) -> list[list[str]]:
    splits = n.main["capture"]["splits"].items()
    return [[name, f"{v['documents']:,}", f"{v['tokens']:,}", USES[name]] for name, v in splits]


def size_rows(n: Numbers) -> list[list[str]]:
    return [
        [
            r["series"],
            r["name"],
            f"{r['l0']:.0f}",
            f"{r['fvu']:.1%}",
            f"{r['recovered_mean']:.0%}",
            f"{r['dead_share']:.1%}",
        ]
        for r in n.sizes
    ]


def label_rows(h: Hand) -> list[list[str]]:
    """The label of each set of one feature that was read by hand, with its scores."""
    return [
        [SETS[name], shorten(text), *(format_number(h["scores"][name].get(k)) for k in KINDS)]
        for name, text in h["texts"].items()
        if name in SETS
    ]


def list_promoted(h: Hand) -> str:
    return " ".join(code(t["token"]) for t in h["card"].promoted[:8])


def score_rows(n: Numbers) -> list[list[str]]:
    """This subject, the untrained one and random directions, by simulation and detection."""
    rows = []
    for name, units in (
        ("this subject", n.main),
        ("untrained subject", n.control),
        ("random directions", n.random),
    ):
        s, d = (units[f"score/rules/{kind}"] for kind in ("simulation", "detection"))
        rows.append(
            [
                name,
                f"{s['median']:.2f} [{s['low']:.2f}, {s['high']:.2f}]",
                format_number(s["null_median"]),
                f"{s['share_above_null']:.0%}",
                format_number(d["median"]),
                format_number(d["null_median"]),
                f"{s['alive']:,}",
            ]
        )
    return rows


def named_rows(n: Numbers) -> list[list]:
    """Level, title and size of every cluster whose name says something."""
    rows = list_named(n.features)
    return [[level, title, size] for level, _, title, size in rows if not title.startswith("mixed")]


def describe_ami_null(n: Numbers) -> str:
    proof = read_proof(n.features.run) or {}
    return compare_to_null(proof["firing"]["graph"]["ami"], ".3f")[1]


def describe_agreement(n: Numbers) -> str:
    """Say how far the hand labels and the automatic ones predict the same."""
    known = [f"{h['same']:.2f} ({h['feature']})" for h in n.hand if h["same"] is not None]
    missing = [str(h["feature"]) for h in n.hand if h["same"] is None]
    text = f"the correlation of what they predict over all held-out tokens is {', '.join(known)}."
    if missing:
        why = 'since a label that says "unclear" predicts nothing'
        text += f" For {' and '.join(missing)} there is none, {why}."
    return text


# ---------------------------------------------------------------- clamps


def text_rows(record: TestedClamp) -> list[list[str]]:
    texts = zip(record.prompts, record.baseline, record.clamped, strict=True)
    return [[shorten(text) for text in row] for row in texts]


def dose_rows(record: TestedClamp) -> list[list[str]]:
    columns = (
        ("own", ".2f"),
        ("random_own", ".2f"),
        ("kl", ".2f"),
        ("random_kl", ".2f"),
        ("perplexity", ".1f"),
        ("found", ".3f"),
        ("random_found", ".3f"),
    )
    return [
        [f"{row['dose']:g}x", *(format_number(row[key], form) for key, form in columns)]
        for row in record.doses or ()
    ]


def describe_both(record: TestedClamp) -> str:
    """Say the useful dose by what is written and by what is found again, each on other prompts."""
    assert record.useful and record.useful_found  # measured with the doses
    written = describe_useful(record.useful, "own", "of the tokens written are its own")
    found = describe_useful(record.useful_found, "found", "of its maximum is found again")
    return " ".join(f"{text[0].upper()}{text[1:]}." for text in (written, found))


def describe_tests(record: TestedClamp) -> str:
    """Say what the two tests found of a clamp."""
    writes, found = "it writes its own tokens", "it is found again"
    if record.works and record.found_again:
        return f"{writes}, and is found again"
    if record.works:
        return writes
    return found if record.found_again else "the clamp fails"


def describe_failed(n: Numbers, names: dict[int, str]) -> str:
    """Say which clamps fail both tests."""
    failed = [r.features[0] for r in n.by_hand if not (r.works or r.found_again)]
    named = ", ".join(f"{f} ({names[f] or 'not interpretable'})" for f in failed)
    return f"By both tests these fail: {named}." if failed else "None fails both tests."


def gallery_rows(n: Numbers) -> list[list]:
    rows = []
    for record in n.gallery:
        feature = record.features[0]
        label = to_line(record.label(feature) or "no label")
        dose = f"{useful_measure(record)[0]['dose']:g}x"
        texts = shorten(record.baseline[0]), shorten(record.clamped[0])
        rows.append([feature, shorten(label), dose, *texts])
    return rows
