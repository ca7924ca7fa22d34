"""Packages that only some uses need: where one is missing, one line says which, and the command that installs it."""

import importlib
import importlib.util
from types import ModuleType

from ser_jax.errors import UserError

# What `pip install ser_jax[EXTRA]` adds, as in pyproject.toml.
EXTRAS = {
    "tfds": ("tensorflow-cpu", "tensorflow-datasets", "importlib_resources"),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "mlflow": ("mlflow-skinny", "sqlalchemy", "alembic"),
    "baselines": ("opensmile",),
    "encoders": ("huggingface_hub",),
    "export": ("tensorflow-cpu", "ai-edge-litert", "tf2onnx", "onnxruntime"),
    "demo": ("gradio",),
    "slurm": ("submitit",),
}


def require(extra: str, what: str, *modules: str) -> None:
    """Raises `UserError` where one of the modules of an extra is not installed; imports none of them.

    `what` is what needs them, as the user named it.
    """
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise UserError(f"{what}: needs {module}, which is not installed; expected {installation(extra)}")


def load(extra: str, what: str, module: str) -> ModuleType:
    """Returns a module of an extra; raises `UserError` where it is not installed."""
    require(extra, what, module)
    return importlib.import_module(module)


def installation(extra: str) -> str:
    """Returns the command that installs an extra's packages."""
    return f"`pip install {' '.join(EXTRAS[extra])}`"
