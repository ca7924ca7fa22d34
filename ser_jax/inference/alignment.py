"""How a decoder's attention is spread over an utterance: sharp or flat, and over all of it or a part.

All functions take the weights of `Output.attention["alignment"]`, frames of the encoder and tokens padded, and give one
figure for each utterance: NaN where it has no frame or no token.
"""

import numpy as np
from jaxtyping import Float, Int

Weights = Float[np.ndarray, "batch tokens frames"]
Lengths = Int[np.ndarray, " batch"]
Figures = Float[np.ndarray, " batch"]


def alignment_entropy(weights: Weights, num_frames: Lengths, num_tokens: Lengths) -> Figures:
    """Mean over an utterance's tokens of the entropy of their weights, in nats.

    Zero where every token looks at a single frame, and log(num_frames) where every token looks at all frames alike.

    Args:
        weights: a distribution over the utterance's frames for each of its tokens.
        num_frames: real frames of the encoder (its stride divides those of the features, rounded up).
        num_tokens: real tokens, the emotion among them.
    """
    weights = _real(weights, num_frames, num_tokens)
    entropies = -np.sum(weights * np.log(np.where(weights > 0, weights, 1)), axis=-1)
    return _over_tokens(entropies.sum(-1), num_frames, num_tokens)


def normalized_alignment_entropy(weights: Weights, num_frames: Lengths, num_tokens: Lengths) -> Figures:
    """`alignment_entropy` by its largest value, log(num_frames): from 0 to 1 whatever the length.

    Zero for a single frame, where there is nothing to choose.
    """
    largest = np.log(np.maximum(num_frames, 2))
    return alignment_entropy(weights, num_frames, num_tokens) / largest


def coverage(weights: Weights, num_frames: Lengths, num_tokens: Lengths) -> Figures:
    """How much of an utterance its tokens have looked at together, from 1 / num_frames to 1.

    A frame's share is the sum of its weights over the tokens, relative to tokens / frames, which it would get if all
    frames got the same; a frame is covered up to min(1, share), and the coverage is the mean over the frames. One where
    the attention went over all frames evenly (each token at its own stretch, or all of them flat), 1 / num_frames where
    every token looked at the same single frame. The minimum is that of the coverage penalty of Wu et al. 2016
    (arXiv 1609.08144, eq. 14), with the even share in the place of one token for each source word.
    """
    weights = _real(weights, num_frames, num_tokens)
    even = num_tokens / np.maximum(num_frames, 1)
    shares = weights.sum(axis=1) / np.where(even > 0, even, 1)[:, None]
    covered = np.minimum(shares, 1).sum(-1) / np.maximum(num_frames, 1)
    return np.where((num_frames > 0) & (num_tokens > 0), covered, np.nan)


def _real(weights: Weights, num_frames: Lengths, num_tokens: Lengths) -> Weights:
    """The weights in float64, zero in the padding."""
    is_token = np.arange(weights.shape[1])[None] < num_tokens[:, None]
    is_frame = np.arange(weights.shape[2])[None] < num_frames[:, None]
    return np.where(is_token[:, :, None] & is_frame[:, None, :], weights, 0).astype(np.float64)


def _over_tokens(total: Figures, num_frames: Lengths, num_tokens: Lengths) -> Figures:
    return np.where((num_frames > 0) & (num_tokens > 0), total / np.maximum(num_tokens, 1), np.nan)
