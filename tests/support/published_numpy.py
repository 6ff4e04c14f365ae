"""What published SAEs compute, written in numpy from the descriptions of their layouts: one vector
at a time, float64, nothing folded.
"""

import numpy as np


def relu(values):
    return np.maximum(values, 0)


def gemma_scope(weights, x):
    """JumpReLU: an activation passes where its pre-activation exceeds the feature's own threshold."""
    pre = x @ weights["W_enc"] + weights["b_enc"]
    f = np.where(pre > weights["threshold"], relu(pre), 0)
    return f, f @ weights["W_dec"] + weights["b_dec"]


def gemma_scope_embedding(weights, x):
    """The subject multiplies rows of its embedding by sqrt(D); the SAE knows the rows."""
    root = np.sqrt(x.shape[1])
    f, rows = gemma_scope(weights, x / root)
    return f, rows * root


def keep_largest(pre, k):
    f = np.zeros_like(pre)
    for row, values in enumerate(pre):
        for feature in sorted(range(len(values)), key=lambda i: -values[i])[:k]:
            f[row, feature] = max(values[feature], 0)
    return f


def openai(weights, x, k):
    """Layer norm with the unbiased deviation and 1e-5 beside it going in; deviation alone and mean
    coming out. k = 0 is the ReLU kind.
    """
    mean, deviation = np.zeros((len(x), 1)), np.ones((len(x), 1))
    u = x
    if k:
        mean, deviation = x.mean(1, keepdims=True), x.std(1, ddof=1, keepdims=True)
        u = (x - mean) / (deviation + 1e-5)
    pre = (u - weights["pre_bias"]) @ weights["encoder.weight"].T + weights["latent_bias"]
    f = keep_largest(pre, k) if k else relu(pre)
    return f, (f @ weights["decoder.weight"].T + weights["pre_bias"]) * deviation + mean


def learned_dict(fields, x, tied):
    """Centre, encode, decode, put the centre back, in the four steps that predict() takes."""
    decoder = fields["encoder"] if tied else fields["decoder"]
    directions = decoder / np.linalg.norm(decoder, axis=1, keepdims=True)
    encoder = directions if tied and fields["norm_encoder"] else fields["encoder"]
    centred = (
        np.einsum("cu,bu->bc", fields["center_rot"], x - fields["center_trans"])
        * fields["center_scale"]
        if "center_rot" in fields
        else x
    )
    f = relu(centred @ encoder.T + fields["encoder_bias"])
    out = f @ directions
    if "center_rot" in fields:
        out = (
            np.einsum("cu,bc->bu", fields["center_rot"], out / fields["center_scale"])
            + fields["center_trans"]
        )
    return f, out


def llama_scope(weights, x, threshold, norm):
    """Input scaled to mean norm sqrt(D), output scaled back; the threshold is compared in raw
    units.
    """
    scale = np.sqrt(x.shape[1]) / norm
    pre = (x * scale) @ weights["encoder.weight"].T + weights["encoder.bias"]
    f = np.where(pre / scale > threshold, relu(pre), 0)
    return f, (f @ weights["decoder.weight"].T + weights["decoder.bias"]) / scale


def signed_topk(weights, x, k):
    """The k largest by absolute value, with their signs."""
    pre = (x - weights["b_dec"]) @ weights["encoder.weight"].T + weights["encoder.bias"]
    f = np.zeros_like(pre)
    for row, values in enumerate(pre):
        for feature in sorted(range(len(values)), key=lambda i: -abs(values[i]))[:k]:
            f[row, feature] = values[feature]
    return f, f @ weights["W_dec"] + weights["b_dec"]


def standard(weights, x, subtract=True, centred=False):
    mean = x.mean(1, keepdims=True) if centred else 0
    u = x - mean
    f = relu((u - weights["b_dec"] if subtract else u) @ weights["W_enc"] + weights["b_enc"])
    return f, f @ weights["W_dec"] + weights["b_dec"] + mean
