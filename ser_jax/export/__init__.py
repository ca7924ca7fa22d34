"""Trained models as files that run without ser_jax: a waveform in, probabilities out."""
