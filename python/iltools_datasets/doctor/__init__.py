"""What ruins training on motion data, found in an archive before it is trained on."""

from iltools_datasets.doctor.examine import Diagnosis, examine
from iltools_datasets.doctor.finding import Finding
from iltools_datasets.doctor.fix import Change, Mended, fix_archive
from iltools_datasets.doctor.stores import examine_store

# `doctor.lerobot.examine_lerobot` looks at a LeRobot set; it is found there, as it needs the extra `data`.

__all__ = ["Change", "Diagnosis", "Finding", "Mended", "examine", "examine_store", "fix_archive"]
