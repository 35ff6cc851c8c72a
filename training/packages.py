"""What a training needs of the extra `train`, looked for before anything is read."""

from __future__ import annotations

import importlib.util

from edged.errors import Conflict

#: Modules, by the distribution that has each.
_PACKAGES = {
    "accelerate": "accelerate", "datasets": "datasets", "jsonschema": "jsonschema", "matplotlib": "matplotlib",
    "optuna": "optuna", "peft": "peft", "pyarrow": "pyarrow", "rouge_score": "rouge-score", "sacrebleu": "sacrebleu",
    "safetensors": "safetensors", "sklearn": "scikit-learn", "tensorboard": "tensorboard", "torch": "torch",
    "transformers": "transformers", "trl": "trl",
}


def require_packages() -> None:
    """Raises Conflict with the command that installs them."""
    missing = [name for module, name in _PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise Conflict(f"training needs packages that are not installed here ({', '.join(missing)}): "
                       "pip install 'edged[train]'")
