"""The subject's own units as features: MLP neurons, and directions that attention heads write.

    neurons   feature 2i is neuron i of the MLP where it is above 0, 2i + 1 where it is below
    heads     features 2j and 2j + 1 are both signs of direction j: for each head, the singular
              vectors of its block of the output projection (Millidge and Black 2022, "The singular
              value decompositions of transformer weight matrices are highly interpretable")

A feature's decoder row has length 1, and its activation is the length of what it writes to the
residual stream. Both bases are transcoders from the input of an output projection to its output,
which they reconstruct but for rounding where every feature may fire. With k, the k largest of a
token fire, as for a TopK SAE: every neuron of a gated MLP is nearly always above or below 0.

`--sae neurons` (k = 32), `--sae neurons:128`, `--sae heads:0` (every feature).
"""

from __future__ import annotations

import copy
import re
from dataclasses import dataclass

import torch
from torch import Tensor

from core.errors import UsageError
from core.records import Site
from core.saes import SAE, SAEConfig
from core.subject.subject import Subject

SITES = {"neurons": ("neurons", "mlp_out"), "heads": ("attn_z", "attn_out")}
DEFAULT_K = 32
TRIED = (5, 9, 11, 3, 17, 8, 2, 13)  # tokens on which the reconstruction is tried
TOLERANCE = 0.02  # of the output's length; bfloat16 rounds by less


@dataclass(frozen=True)
class Basis:
    """What `--sae` names where it names units of the subject."""

    kind: str  # neurons or heads
    k: int  # features that fire on a token; 0: all that are above 0

    @classmethod
    def parse(cls, spec: str) -> Basis | None:
        """Return the basis that `spec` names, or None where it names an SAE."""
        match = re.fullmatch(rf"({'|'.join(SITES)})(?::(\d+))?", spec)
        return cls(match[1], DEFAULT_K if match[2] is None else int(match[2])) if match else None

    def sites(self, site: str) -> tuple[str, str]:
        """Return the sites that it reads and writes in the layer of `site`, a named site.

        Raises UsageError for a site without a layer.
        """
        layer = Site.parse(site).layer
        if layer is None:
            raise UsageError(
                f"{site} does not say a layer.", f"Name one: --site {SITES[self.kind][1]}.3"
            )
        read, write = SITES[self.kind]
        return f"{read}.{layer}", f"{write}.{layer}"


def make_basis(subject: Subject, basis: Basis, site: Site, site_out: Site) -> SAE:
    """Return the basis as a transcoder from `site` to `site_out`.

    Raises UsageError where `site` is no input of a matrix, where its heads are not known, and where
    what the matrix gives back is not what stands at `site_out` (a norm behind it, as in Gemma 2).
    """
    rows, bias = read_projection(subject, site)
    if basis.kind == "heads":
        encoder, directions = take_heads_apart(rows, count_heads(subject, len(rows)))
    else:
        lengths = rows.norm(dim=1).clamp(min=1e-12)
        encoder, directions = torch.diag(lengths), rows / lengths[:, None]
    both = torch.stack([encoder, -encoder], 2).flatten(1)  # (d_in, F)
    tensors = {
        "W_enc": both,
        "b_enc": torch.zeros(both.shape[1]),
        "W_dec": torch.stack([directions, -directions], 1).flatten(0, 1),
        "b_dec": bias,
    }
    kind, k = ("topk", min(basis.k, both.shape[1])) if basis.k else ("relu", 0)
    form = SAEConfig(basis.kind, kind, k, subtract_b_dec=False, transcoder=True)
    whole = SAE(SAEConfig(basis.kind, "relu", subtract_b_dec=False, transcoder=True), tensors)
    check_reconstruction(subject, whole, site, site_out)
    return SAE(form, tensors, site, "", 0, f"the subject's own {basis.kind}", site_out)


@torch.inference_mode()
def read_projection(subject: Subject, site: Site) -> tuple[Tensor, Tensor]:
    """Return (rows (d_in, D), bias (D,)) of the matrix whose input is `site`, on the CPU.

    Raises UsageError for another module than a matrix.
    """
    module, side = subject.module(site)
    weight = getattr(module, "weight", None)
    if side != "input" or weight is None or weight.ndim != 2:
        raise UsageError(
            f"{site} is not the input of a matrix.", "Use neurons.3 or attn_z.3 as --site."
        )
    projection = copy.deepcopy(module).float()
    transposed = type(module).__name__ == "Conv1D"
    width = weight.shape[0] if transposed else weight.shape[1]
    zero = projection(torch.zeros(1, width, device=subject.device))
    rows = projection(torch.eye(width, device=subject.device)) - zero
    return rows.cpu().clone(), zero[0].cpu().clone()


def count_heads(subject: Subject, width: int) -> int:
    """Return the number of attention heads; raises UsageError where they do not divide `width`."""
    config = subject.model.config.get_text_config()
    n = int(getattr(config, "num_attention_heads", 0) or getattr(config, "n_head", 0))
    if not n or width % n:
        raise UsageError(
            f"The {n} attention heads do not divide the {width} numbers that they give back.",
            "Use --sae neurons.",
        )
    return n


def take_heads_apart(rows: Tensor, n_heads: int) -> tuple[Tensor, Tensor]:
    """Return (encoder (d_in, m), directions (m, D)) of the output projection's rows (d_in, D).

    The columns of a head's part of the encoder are its left singular vectors times the singular
    values; the directions are the right ones.
    """
    blocks = rows.double().view(n_heads, -1, rows.shape[1])
    left, values, right = torch.linalg.svd(blocks, full_matrices=False)
    encoder = torch.block_diag(*(left * values[:, None]))
    return encoder.float(), right.flatten(0, 1).float()


@torch.inference_mode()
def check_reconstruction(subject: Subject, sae: SAE, site: Site, site_out: Site) -> None:
    """Raise UsageError where `sae` does not give what the subject computes at `site_out`."""
    tokens = torch.tensor([TRIED]) % subject.n_vocabulary
    x, y = (h[0].float().cpu() for h in subject.read_sites([site, site_out], tokens))
    if float((sae.reconstruct(x) - y).norm()) > TOLERANCE * float(y.norm()):
        raise UsageError(
            f"What the matrix behind {site} gives back is not what stands at {site_out}.",
            "Name its own output: --site-out model.layers.3.mlp.down_proj.output, for one.",
        )
