import jax
import pytest


@pytest.fixture
def jit():
    """jax.jit that compiles fast rather than well."""
    return lambda f: jax.jit(f, compiler_options={"xla_backend_optimization_level": 0})
