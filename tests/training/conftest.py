import pytest


@pytest.fixture(scope="module", autouse=True)
def reports_without_figures(no_figures):
    """What is trained here is looked at itself."""
