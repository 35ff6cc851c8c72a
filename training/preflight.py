"""What would be found out after hours otherwise: looked at before the first stage."""

from __future__ import annotations

from edged.hardware.probe import probe
from training import opened
from training.deploy import stage as deploy
from training.estimate import require_machine
from training.models import base_key
from training.run import Run


def check(run: Run) -> None:
    """Raises ModelNotFound or RefusedFile of a base that is not there, ConfigError of a deployment that cannot be,
    DeviceUnavailable of what this machine cannot do."""
    facts = probe()
    for each in opened.members(run) or (run,):
        require_machine(each.recipe, facts)
        base_key(each)
    if run.recipe.deploy is not None:
        deploy.check(run)
