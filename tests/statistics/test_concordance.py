import numpy as np
import pandas as pd
import pytest

from ser_jax.statistics.concordance import summarise_tracks


def table_of(speakers=4, seeds=2, frames=50, noise=0.3):
    rng = np.random.default_rng(0)
    parts = []
    for seed in range(seeds):
        for speaker in range(speakers):
            true = rng.normal(size=frames) + speaker
            columns = {"variant": "v", "fold": str(speaker), "seed": seed, "utterance": f"u{speaker}"}
            columns |= {"speaker": f"s{speaker}", "seconds": np.arange(frames) / 100, "true_arousal": true}
            parts.append(pd.DataFrame(columns | {"predicted_arousal": 0.8 * true + noise * rng.normal(size=frames)}))
    return pd.concat(parts, ignore_index=True)


def slow_concordance(x, y):
    x, y = x.to_numpy(), y.to_numpy()  # whose variance, unlike pandas', is divided by the number of frames
    covariance = np.mean((x - x.mean()) * (y - y.mean()))
    return 2 * covariance / (x.var() + y.var() + (x.mean() - y.mean()) ** 2)


def test_the_coefficient_is_lins_over_all_frames_of_a_seed_averaged_over_seeds():
    table = table_of()
    expected = np.mean(
        [slow_concordance(own["true_arousal"], own["predicted_arousal"]) for _, own in table.groupby("seed")]
    )
    found = summarise_tracks(table, replicates=500)["arousal"]
    assert found["ccc"] == pytest.approx(expected, abs=1e-9)
    assert found["ci95"][0] < expected < found["ci95"][1]


def test_one_speaker_has_no_interval_and_a_constant_prediction_agrees_with_nothing():
    table = table_of(speakers=1).assign(predicted_arousal=1.0)
    assert summarise_tracks(table, replicates=10) == {"arousal": {"ccc": pytest.approx(0.0, abs=1e-9), "ci95": None}}
