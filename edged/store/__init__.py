"""What is installed on this machine, and how it gets there."""

from edged.store.entries import Collected, Damage, Manifest, PullProgress
from edged.store.store import Lease, Store

__all__ = ["Collected", "Damage", "Lease", "Manifest", "PullProgress", "Store"]
