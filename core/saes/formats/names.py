"""Translate the names that other projects give to subjects and sites into ours."""

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
    "hook_in": "resid_pre",  # these five are TransformerLens 3's
    "hook_out": "resid_post",
    "attn.hook_out": "attn_out",
    "mlp.hook_out": "mlp_out",
    "mlp.hook_in": "mlp_in",
}
GEMMA = re.compile(r"gemma-[23]-")  # they normalise a module's output before adding it
AFTER_NORM = {"attn_out": "post_attention_layernorm", "mlp_out": "post_feedforward_layernorm"}
MODULES = {  # below a layer
    "": "resid_post",
    "mlp": "mlp_out",
    "attn": "attn_out",
    "attention": "attn_out",
    "self_attn": "attn_out",
}
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
    """Return `name` as the hub spells it, where TransformerLens has a shorter one."""
    for pattern, replacement in HUB_NAMES:
        if match := re.fullmatch(pattern, name):
            return match.expand(replacement)
    return name


def is_same_subject(one: str, other: str) -> bool:
    """Whether two names mean the same subject: equal but for the owner, the folder and the case."""

    def plain(name: str) -> str:
        return hub_name(name.rstrip("/")).rpartition("/")[2].casefold().replace("_", "-")

    return plain(one) == plain(other)


def site_of_hook(hook: str, subject: str = "") -> Site | None:
    """Return the site of a TransformerLens hook (`blocks.8.hook_resid_pre`) or of a module path.

    The path may end in its side (`.input`, `.output`). None when there is no such site. In Gemma 2
    and 3, TransformerLens reads attn_out and mlp_out after the norm that follows the module.
    """
    if match := re.fullmatch(r"blocks\.(\d+)\.(.+)", hook):
        kind, layer = HOOKS.get(match[2]), int(match[1])
        if kind in AFTER_NORM and GEMMA.search(subject):
            return Site("output", module=f"model.layers.{layer}.{AFTER_NORM[kind]}")
        return Site(kind, layer=layer) if kind else None
    if match := re.fullmatch(r"([A-Za-z_]\w*(?:\.\w+)+?)(?:\.(input|output))?", hook):
        return Site(match[2] or "output", module=match[1])
    return None


def site_of_module(path: str, subject: str = "") -> Site | None:
    """Return the site of a module path inside the base model: `layers.5` is resid_post.5.

    sparsify names its folders so. None when there is no such site.
    """
    match = re.fullmatch(r"(?:.*\.)?(?:layers|h)\.(\d+)(?:\.(\w+))?", path)
    kind = MODULES.get(match[2] or "") if match else None
    if match is None or kind is None:
        return None
    if kind in AFTER_NORM and GEMMA.search(subject):
        # the named site is after the norm there; the path means the module itself
        return Site("output", module=f"model.{path}")
    return Site(kind, layer=int(match[1]))
