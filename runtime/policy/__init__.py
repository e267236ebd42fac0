"""When a stream's state is forgotten, and how that is noticed."""

from streamseg.runtime.policy.cuts import CutDetector
from streamseg.runtime.policy.gaps import GapDetector
from streamseg.runtime.policy.settings import StatePolicy

__all__ = ["CutDetector", "GapDetector", "StatePolicy"]
