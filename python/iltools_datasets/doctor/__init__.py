"""What ruins training on motion data, found in an archive before it is trained on."""

from iltools_datasets.doctor.examine import Diagnosis, examine
from iltools_datasets.doctor.finding import Finding

__all__ = ["Diagnosis", "Finding", "examine"]
