"""Raw motion files of many formats, each read by one small class, all written to one Zarr archive."""

from iltools_datasets.sources.export import ExportFailure, ExportReport, export
from iltools_datasets.sources.protocol import Recording, Source, SourceFile
from iltools_datasets.sources.registry import open_source, open_sources, recognise, source_class, source_formats

__all__ = [
    "ExportFailure",
    "ExportReport",
    "Recording",
    "Source",
    "SourceFile",
    "export",
    "open_source",
    "open_sources",
    "recognise",
    "source_class",
    "source_formats",
]
