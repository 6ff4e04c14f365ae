"""Names that other projects give to a subject and to a place in it, as a hub name and a `Site`."""

from __future__ import annotations

import re

from core.records import Site

HOOKS = {  # TransformerLens, below `blocks.L.`
    "hook_resid_pre": "resid_pre",
    "hook_resid_mid": "resid_mid",
    "hook_resid_post": "resid_post",
    "hook_attn_out": "attn_out",
    "hook_mlp_out": "mlp_out",
    "attn.hook_z": "attn_z",
}
GEMMA = re.compile(r"gemma-[23]-")  # normalise what a module gives before they add it
AFTER_NORM = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
MODULES = {
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn": "attn_out",
}  # below a layer
HUB_NAMES = (  # TransformerLens' name -> the hub's
    (r"gpt2-small", "gpt2"),
    (r"(pythia-.*)", r"EleutherAI/\1"),
    (r"(gpt-neo-.*|gpt-j-6B)", r"EleutherAI/\1"),
    (r"(gemma-.*)", r"google/\1"),
    (r"mistral-7b", "mistralai/Mistral-7B-v0.1"),
    (r"(opt-.*)", r"facebook/\1"),
    (r"tiny-stories-(\d+M)", r"roneneldan/TinyStories-\1"),
)


def hub_name(name: str) -> str:
    """`name` as the hub spells it, where TransformerLens has a shorter one."""
    for pattern, replacement in HUB_NAMES:
        if found := re.fullmatch(pattern, name):
            return found.expand(replacement)
    return name


def site_of_hook(hook: str, subject: str = "") -> Site | None:
    """The site of a TransformerLens hook (`blocks.8.hook_resid_pre`) or of a module path, with or without its side; None when there is none.

    In Gemma 2 and 3, TransformerLens' attn_out and mlp_out are read after the norm that follows the module.
    """
    if found := re.fullmatch(r"blocks\.(\d+)\.(.+)", hook):
        kind, layer = HOOKS.get(found[2]), int(found[1])
        if kind in AFTER_NORM and GEMMA.search(subject):
            return Site("output", module=f"model.layers.{layer}.{AFTER_NORM[kind]}")
        return Site(kind, layer=layer) if kind else None
    if found := re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)+?)(?:\.(input|output))?", hook):
        return Site(found[2] or "output", module=found[1])
    return None


def site_of_module(path: str, subject: str = "") -> Site | None:
    """The site of a module path inside the base model, as sparsify names its folders: `layers.5` is resid_post.5."""
    found = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(\w+))?", path)
    kind = found and MODULES.get(found[2] or "")
    if kind in AFTER_NORM and GEMMA.search(
        subject
    ):  # there the named site is behind the norm, and this is the module itself
        return Site("output", module=f"model.{path}")
    return Site(kind, layer=int(found[1])) if kind else None
