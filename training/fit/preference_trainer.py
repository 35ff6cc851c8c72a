"""trl's DPO trainer over pairs that are tokens already, in the order of `training.fit.order`."""

from __future__ import annotations

from typing import Any

from trl import DPOTrainer

from training.fit.trainer import InOrder


class PreferenceTrainer(InOrder, DPOTrainer):  # type: ignore[misc]
    def _prepare_dataset(self, dataset: Any, *ignored: Any) -> Any:
        """trl would render the chat template by its own rules."""
        return dataset
