"""Errors that say which optional extra to install."""

from iltools_datasets.errors import MissingExtraError


def missing_extra(extra: str, feature: str) -> MissingExtraError:
    """Return the error to raise when `feature` needs the packages of an extra that is not installed."""
    return MissingExtraError(f"{feature} needs an optional extra: pip install 'iltools-datasets[{extra}]'")
