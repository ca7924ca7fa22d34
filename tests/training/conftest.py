import collections

import pytest

from ser_jax.report import write


@pytest.fixture(scope="module", autouse=True)
def reports_without_figures():
    """Drawing them takes most of the time of a small study, and what is trained here does not look at them."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_draw", lambda sections, folder: collections.defaultdict(str))
        yield
