"""Motion tracking for many envs: references at every step, starts where the policy fails, a ledger of what was seen."""

from typing import TYPE_CHECKING

from iltools_datasets._base.lazy_names import names_on_first_use

if TYPE_CHECKING:
    from iltools_datasets.tracking.adaptive import Adaptive
    from iltools_datasets.tracking.coverage import Coverage, CoverageWarning
    from iltools_datasets.tracking.sampler import MotionSampler

_HOMES = {
    "Adaptive": "adaptive",
    "Coverage": "coverage",
    "CoverageWarning": "coverage",
    "MotionSampler": "sampler",
}

__all__ = ["Adaptive", "Coverage", "CoverageWarning", "MotionSampler"]

__getattr__, __dir__ = names_on_first_use(__name__, _HOMES)
