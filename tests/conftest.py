"""What all tests share: eight CPU devices, strict shapes, and the real corpora where they are at hand."""

import collections
import gc
import importlib.metadata
import os
import signal
import sys
import tempfile
import types
from pathlib import Path
from unittest import mock

import pytest

# Nearly all of the tests' time goes into compiling small programs: with little optimisation, and once for all tests,
# processes and runs of the tests. Said in the environment, so that the processes that tests start hear it too.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "true")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(tempfile.gettempdir()) / f"ser_jax_tests_{os.getuid()}"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
# XLA's older way to compile fused loops on a CPU takes half the time, and small programs in one piece three quarters of
# what they take in many. The names are of this jaxlib; others may lack them.
if importlib.metadata.version("jaxlib").startswith("0.10."):
    os.environ.setdefault("XLA_FLAGS", "--xla_cpu_use_fusion_emitters=false --xla_cpu_parallel_codegen_split_count=1")

# What a shell starts in the background ignores Ctrl-C, and so would the processes that tests start and interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

import jax
import psutil
from jaxtyping import install_import_hook

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")

# The shapes that signatures promise are checked at run time, in the tests alone.
install_import_hook("ser_jax", "beartype.beartype")

pytest_plugins = ["tests.messages"]

MOST_MEMORY = 4e9  # bytes of a process of tests, beyond which what JAX keeps is let go


# Tracing makes so many small objects that the collector of garbage takes a part of the tests' time that can be felt.
gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="module", autouse=True)
def no_programs_of_other_files():
    """JAX keeps every program that it compiled: ten gigabytes, by the last test. Without them all is traced again."""
    yield
    if psutil.Process().memory_info().rss > MOST_MEMORY:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="module")
def no_figures():
    """Drawing them takes most of the time of a small study; for tests that look at other things."""
    from ser_jax.report import write

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "_draw", lambda sections, folder: collections.defaultdict(str))
        yield


@pytest.fixture(scope="session")
def librosa() -> types.ModuleType:
    """librosa without numba, which compiles for half a minute what no test calls: here that returns mocks."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "numba", mock.MagicMock())
        librosa = pytest.importorskip("librosa")
        for part in ("core", "effects", "feature"):  # which are imported when they are first asked for
            pytest.importorskip(f"librosa.{part}")
        yield librosa


@pytest.fixture(scope="session")
def real_corpora() -> Path:
    """The folder with the real corpora `emodb` and `ravdess`: SER_JAX_CORPORA, or ../shared/corpora."""
    folder = Path(os.environ.get("SER_JAX_CORPORA", Path(__file__).parents[1].parent / "shared" / "corpora"))
    if not folder.is_dir():
        pytest.skip(f"no real corpora in {folder}: set SER_JAX_CORPORA to the folder that holds emodb and ravdess")
    return folder
