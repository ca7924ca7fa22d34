"""Tiny encoders with random weights, as transformers makes and stores them."""

import json

import pytest

torch = pytest.importorskip("torch", reason="parity of encoders needs torch (requirements-references.txt)")
transformers = pytest.importorskip(
    "transformers", reason="parity of encoders needs transformers (requirements-references.txt)"
)

_WAV2VEC2 = {
    "hidden_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "conv_dim": [24] * 4,
    "conv_kernel": [10, 3, 3, 2],
    "conv_stride": [5, 2, 2, 2],
    "num_feat_extract_layers": 4,
    "num_conv_pos_embedding_groups": 4,
}
_GROUP = {"feat_extract_norm": "group", "conv_bias": False, "do_stable_layer_norm": False}
_LAYER = {"feat_extract_norm": "layer", "conv_bias": True, "do_stable_layer_norm": True}

FAMILIES = {
    "wav2vec2-group": ("Wav2Vec2", _WAV2VEC2 | _GROUP | {"num_conv_pos_embeddings": 16}),
    "wav2vec2-layer": ("Wav2Vec2", _WAV2VEC2 | _LAYER | {"num_conv_pos_embeddings": 15}),
    "hubert-group": ("Hubert", _WAV2VEC2 | _GROUP | {"num_conv_pos_embeddings": 16, "feat_proj_layer_norm": False}),
    "hubert-layer": ("Hubert", _WAV2VEC2 | _LAYER | {"num_conv_pos_embeddings": 16}),
    "wavlm-group": ("WavLM", _WAV2VEC2 | _GROUP | {"num_conv_pos_embeddings": 16, "num_buckets": 16}),
    "wavlm-layer": (
        "WavLM",
        _WAV2VEC2 | _LAYER | {"conv_bias": False, "num_conv_pos_embeddings": 16, "max_bucket_distance": 100},
    ),
    "data2vec": ("Data2VecAudio", _WAV2VEC2 | {"num_conv_pos_embeddings": 3, "conv_pos_kernel_size": 5}),
    "whisper": (
        "Whisper",
        {
            "d_model": 32,
            "encoder_layers": 3,
            "encoder_attention_heads": 4,
            "encoder_ffn_dim": 48,
            "num_mel_bins": 80,
            "max_source_positions": 40,
            "decoder_layers": 1,
            "decoder_attention_heads": 4,
            "decoder_ffn_dim": 16,
            "vocab_size": 60,
            "pad_token_id": 0,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "decoder_start_token_id": 3,
        },
    ),
}
NAMES = tuple(FAMILIES)


def make_reference(name, dtype=None, **changes):
    """A transformers model of the family with random weights, every parameter away from its initial 0 or 1."""
    family, switches = FAMILIES[name]
    torch.manual_seed(sum(map(ord, name)))
    model = getattr(transformers, f"{family}Model")(
        getattr(transformers, f"{family}Config")(**switches | changes)
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.to(dtype or torch.float64)


def save(model, folder, *, normalize=True):
    """Writes a checkpoint folder as transformers does, float64 as it is."""
    model.save_pretrained(folder)
    whisper = model.config.model_type == "whisper"
    preprocessor = {"sampling_rate": 16_000, "do_normalize": normalize and not whisper}
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))
    return folder


def reference_states(model, waveform):
    """What transformers makes of one utterance by itself: every layer's output, and the final one."""
    inputs = []
    encoder = model.encoder
    hooks = [
        encoder.layers[0].register_forward_pre_hook(lambda _, args, kwargs: inputs.append(args[0]), with_kwargs=True)
    ]
    hooks += [
        layer.register_forward_hook(
            lambda _, __, output: inputs.append(output[0] if isinstance(output, tuple) else output)
        )
        for layer in encoder.layers
    ]
    try:
        final = (encoder if model.config.model_type == "whisper" else model)(waveform).last_hidden_state
    finally:
        for hook in hooks:
            hook.remove()
    return torch.stack(inputs), final
