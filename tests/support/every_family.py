"""What works with every causal LM of the installed transformers, tried on a tiny model of each.

python -m tests.support.every_family [NAME ...]    print a row of each, as JSON
python -m tests.support.every_family --write       print them, and write docs/families.md
python -m tests.support.every_family --write NAME  write these rows anew, and keep the others
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from core.records import NAMED_SITES, Site
from core.subject.families import FAMILIES
from core.subject.subject import Subject
from tests.support.tiny import byte_level_tokenizer
from tests.support.tiny_families import N_LAYERS, VOCABULARY, family_names, make_tiny

COLUMNS = ("architecture", "reads", "sites", "logit lens", "generates", "why not")
TABLE = Path(__file__).parents[2] / "docs/families.md"
TOKENS = torch.tensor([[5, 9, 11, 3, 17, 8]])
N_NEW = 8
N_ALL = len(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES)
UNTRIED = "-"
PROMPTS = ("a b c", "the cat sat on the mat and ran")
Row = dict[str, str]


def try_family(model_type: str) -> Row:
    """How a tiny model of this type does, one entry for each of COLUMNS.

    `reads` says whether what enters and leaves layers is what the model calls its hidden states.
    `generates` says whether greedy text is that of the library's own `generate`, alone, beside a
    longer row, and where two tokens end it: with a key-value cache, or "anew", without one.
    """
    row = dict.fromkeys(COLUMNS, "no") | {"architecture": model_type, "why not": ""}
    try:
        subject = Subject(make_tiny(model_type), byte_level_tokenizer())
        subject.n_vocabulary = VOCABULARY
        if why := sees_later_tokens(subject):
            return row | {"why not": why}
        unread = why_not_read(subject)
        row["reads"] = "no" if unread else "yes"
    except Exception as error:  # noqa: BLE001 - whatever a library raises is the reason
        return row | {"why not": reason(error)}
    row["sites"], why = named_sites(subject)
    row["logit lens"] = "yes" if subject.final_norm else "no"
    try:
        row["generates"] = how_it_generates(subject)
    except Exception as error:  # noqa: BLE001
        why = why or reason(error)
    if row["generates"] == "no":
        why = why or "its text is not that of the library"
    return row | {"why not": unread or why}


def reason(error: BaseException) -> str:
    """The first sentence of an error, on one line of a table."""
    text = " ".join(str(error).split()).replace("|", "/")
    return text.split(". ")[0][:120].rstrip(".") or type(error).__name__


@torch.inference_mode()
def sees_later_tokens(subject: Subject) -> str:
    """Why the logits of a token are not those of a causal model; empty where they are."""
    other = TOKENS.clone()
    other[0, -1] = 2
    a, b = (subject.model(input_ids=ids, use_cache=False).logits for ids in (TOKENS, other))
    if a.shape[1] != TOKENS.shape[1]:
        return "it has no logits at every token"
    if not torch.isfinite(a).all():
        return "its tiny model computes no numbers"
    if not torch.allclose(a[:, :-1], b[:, :-1], atol=1e-3 * float(a.abs().max())):
        return "a token sees the tokens after it"
    return ""


def why_not_read(subject: Subject) -> str:
    """Why what enters and leaves the layers is not what the model calls its hidden states.

    Empty where it is: its hidden states begin with the input of the first layer or, in the Mamba
    family, with its output.
    """
    sites = [Site("resid_pre", layer=n) for n in range(N_LAYERS)]
    with torch.inference_mode():
        states = subject.model(
            input_ids=TOKENS, use_cache=False, output_hidden_states=True
        ).hidden_states
    read = subject.read_sites([*sites, Site("resid_post", layer=N_LAYERS - 1)], TOKENS)
    if any(s.shape != read[0].shape for s in states[:N_LAYERS]):
        return "its layers pass on more than one stream"
    for ours in (read[:-1], read[1:]):
        if all(torch.allclose(r, s, atol=1e-4) for r, s in zip(ours, states, strict=False)):
            return ""
    return "its layers pass on something else than its hidden states"


def named_sites(subject: Subject) -> tuple[str, str]:
    """(the sites that every layer has, why others are missing)."""
    had, why = [], ""
    for kind in NAMED_SITES:
        try:
            for layer in range(N_LAYERS):
                subject.read(Site(kind, layer=layer), TOKENS)
            had.append(kind)
        except Exception as error:  # noqa: BLE001
            why = why or reason(error)
    return ("all" if len(had) == len(NAMED_SITES) else ", ".join(had) or "none"), why


def how_it_generates(subject: Subject) -> str:
    """ "with a cache" or "anew" where greedy text is the library's, else "no"."""
    site = Site("resid_pre", layer=0)
    ours = [g.tokens for g in subject.generate(list(PROMPTS), N_NEW, site, temperature=0.0)]
    theirs = [own_text(subject, prompt) for prompt in PROMPTS]
    if ours != theirs:
        return "no"
    new = theirs[0][-N_NEW:]
    subject.model.generation_config.eos_token_id = [new[5], new[2]]
    again = Subject(subject.model, subject.tokenizer)
    stopped = again.generate(list(PROMPTS[:1]), N_NEW, site, temperature=0.0)[0].tokens
    if stopped != own_text(subject, PROMPTS[0]):
        return "no"
    return "with a cache" if subject._keeps_cache else "anew"


def own_text(subject: Subject, prompt: str) -> list[int]:
    """The tokens of a prompt and of what the library's own `generate` appends to it."""
    ids = torch.tensor([subject.prompt_tokens(prompt)])
    made: Any = subject.model.generate(
        ids, max_new_tokens=N_NEW, do_sample=False, attention_mask=torch.ones_like(ids)
    )
    return [int(i) for i in made[0]]


# ---------------------------------------------------------------- the table


HEAD = """# Architectures

What works with each of the {n} architectures that transformers {version} loads as a causal language model, tried on a tiny untrained model
of each. `python -m tests.support.every_family --write` writes this table, and a test compares it with the installed library.

- *reads*: resid_pre of every layer and resid_post are the model's own hidden states, number for number.
- *sites*: the named sites that every layer has; all are {sites}. Where some are missing, a module path names any place.
- *logit lens*: the norm in front of the unembedding is known.
- *generates*: greedy text is that of the library's `generate`, alone, beside a longer row, and where several tokens end a text. *anew*: the
  architecture has no key-value cache that could be used, so each token reads the whole text again, which is slower.
- A dash stands where an architecture has not been tried with the present checks: `--write NAME` tries it.
- Names in bold have their sites written down in `core/subject/families.py`; those of others are found by running the model once.

{works} of the {tried} that were tried read, {generate} generate, {all_sites} have all named sites.

"""


def render(rows: list[Row]) -> str:
    """docs/families.md with a line for each row."""
    head = HEAD.format(
        n=len(rows),
        version=transformers.__version__,
        sites=", ".join(NAMED_SITES),
        tried=sum(row["reads"] != UNTRIED for row in rows),
        works=sum(row["reads"] == "yes" for row in rows),
        generate=sum(row["generates"] not in ("no", UNTRIED) for row in rows),
        all_sites=sum(row["sites"] == "all" for row in rows),
    )
    lines = ["| " + " | ".join(COLUMNS) + " |", "|" + "---|" * len(COLUMNS)]
    for row in rows:
        name = row["architecture"]
        cells = [f"**{name}**" if name in FAMILIES else name, *(row[c] for c in COLUMNS[1:])]
        lines.append("| " + " | ".join(cells) + " |")
    return head + "\n".join(lines) + "\n"


def read_table() -> list[Row]:
    """The rows of docs/families.md, as `try_family` gave them."""
    lines = [x for x in TABLE.read_text(encoding="utf-8").splitlines() if x.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return [dict(zip(COLUMNS, [c[0].strip("*"), *c[1:]], strict=True)) for c in cells]


def main() -> None:
    names = [name for name in sys.argv[1:] if name != "--write"] or family_names()
    assert set(names) <= set(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES), "not a causal LM of transformers"
    rows: list[Row] = []
    for name in names:
        rows.append(try_family(name))
        print(json.dumps(rows[-1]), flush=True)
    if "--write" in sys.argv:
        known = {row["architecture"]: row for row in read_table()} if len(names) < N_ALL else {}
        known |= {row["architecture"]: row for row in rows}
        TABLE.write_text(render([known[name] for name in sorted(known)]), encoding="utf-8")


if __name__ == "__main__":
    main()
