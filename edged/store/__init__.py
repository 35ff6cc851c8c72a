"""What is installed on this machine, and how it gets there."""

from edged.store.entries import Collected, Damage, JobProgress, Manifest
from edged.store.store import Lease, Store

__all__ = ["Collected", "Damage", "JobProgress", "Lease", "Manifest", "Store"]
