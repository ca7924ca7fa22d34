"""The header of a model's card says what the hub can search, and of licences what all of them allow."""

import pytest
import yaml

from ser_jax.report.card_header import header, licences


@pytest.mark.parametrize(
    ("names", "found"),
    [
        (["CC BY 4.0"], {"license": "cc-by-4.0"}),
        (["Apache-2.0 (generated)"], {"license": "apache-2.0"}),
        (["CC BY 4.0 and CC BY-NC-SA 4.0"], {"license": "cc-by-nc-sa-4.0"}),
        (["CC BY-NC-SA 4.0", "CC BY 4.0"], {"license": "cc-by-nc-sa-4.0"}),
        # No one of them has the terms of both; where the hub has no name, or none is known, nothing is claimed.
        (["CC BY-NC 4.0", "CC BY-SA 4.0"], {"license": "other", "license_name": "CC BY-NC 4.0, CC BY-SA 4.0"}),
        (
            ["CC BY 4.0", "Open Database License"],
            {"license": "other", "license_name": "CC BY 4.0, Open Database License"},
        ),
        ([""], {"license": "other", "license_name": "not known"}),
    ],
)
def test_a_model_has_a_licence_that_has_the_terms_of_all_its_corpora(names, found):
    assert licences(names) == found


def test_a_hub_s_own_reader_finds_the_results():
    hub = pytest.importorskip("huggingface_hub")
    tests = [
        ("emodb", "emodb, unseen speakers (inductive)", {"ua": ("UA", 78.24), "other": ("other", 1.0)}),
        ("ravdess", "ravdess, all of it (inductive)", {"wa": ("WA", 37.9)}),
    ]
    text = header("small", "ser_jax", "cnn", [{"licence": "CC BY 4.0", "language": "de, en"}], tests)
    card = hub.ModelCard(f"{text}\n\n# small\n")
    assert card.data.library_name == "ser_jax" and card.data.language == ["de", "en"]
    assert card.data.metrics == ["recall", "accuracy"]
    found = [(one.dataset_type, one.metric_type, one.metric_name, one.metric_value) for one in card.data.eval_results]
    assert found == [("emodb", "recall", "UA", 78.2), ("ravdess", "accuracy", "WA", 37.9)]
    assert yaml.safe_load(text.strip("-"))["model-index"][0]["name"] == "small"
