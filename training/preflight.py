"""What would be found out after hours otherwise: looked at before the first stage."""

from __future__ import annotations

from training import opened
from training.deploy import stage as deploy
from training.models import base_key
from training.run import Run


def check(run: Run) -> None:
    """Raises ModelNotFound or RefusedFile of a base that is not there, ConfigError of a deployment that cannot be."""
    for each in opened.members(run) or (run,):
        base_key(each)
    if run.recipe.deploy is not None:
        deploy.check(run)
