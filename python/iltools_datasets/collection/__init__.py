"""Expert roll-outs, recorded: what the student will see, what the expert did, and the file that others train from."""

from typing import TYPE_CHECKING

from iltools_datasets._base.lazy_names import names_on_first_use

if TYPE_CHECKING:
    from iltools_datasets.collection.collector import ExpertTrajectoryCollector
    from iltools_datasets.collection.rollout import collect
    from iltools_datasets.collection.student_obs import StudentObsBuilder

__all__ = ["ExpertTrajectoryCollector", "StudentObsBuilder", "collect"]

_HOMES = {"ExpertTrajectoryCollector": "collector", "StudentObsBuilder": "student_obs", "collect": "rollout"}
__getattr__, __dir__ = names_on_first_use(__name__, _HOMES)
