"""Files that come with ser_jax beside its code: configurations and models.

In the sources they lie beside the package. A wheel has them in the package's folder `shipped_files`.
"""

from pathlib import Path

_PACKAGE = Path(__file__).parent
# The folder that holds configs/ and pretrained/.
ROOT = _PACKAGE / "shipped_files" if (_PACKAGE / "shipped_files").is_dir() else _PACKAGE.parent
CONFIGURATIONS = ROOT / "configs"
PRETRAINED = ROOT / "pretrained"
