"""Options of `protosam batch`, each explained once."""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Annotated

import typer


class FormName(str, Enum):
    """Values of ``--form``."""

    seg = "seg"
    labelmap = "labelmap"
    rtstruct = "rtstruct"
    seg_nrrd = "seg.nrrd"


SourceArgument = Annotated[
    str,
    typer.Argument(help="Folder, zip, DICOMDIR, list or file; or a study UID with --dicomweb."),
]
OutOption = Annotated[Path, typer.Option("-o", "--out", help="Folder for the results.")]
ExampleOption = Annotated[
    list[Path] | None, typer.Option(help="Example to learn from; may be repeated.")
]
AutosOption = Annotated[
    list[str] | None,
    typer.Option(help="File of train-auto, or STRUCTURE=FILE; may be repeated."),
]
PromptsOption = Annotated[
    Path | None, typer.Option(help="CSV: series,structure,kind,r,a,s,r2,a2,s2 in RAS mm.")
]
FromSegOption = Annotated[
    bool, typer.Option("--from-seg", help="Start from the SEG or RTSTRUCT of the study.")
]
StructuresOption = Annotated[str, typer.Option(help="Only these, parted by commas.")]
MethodOption = Annotated[str, typer.Option(help="How objects of examples are looked for.")]
FormOption = Annotated[
    list[FormName] | None, typer.Option(help="Of DICOM results; may be repeated.")
]
StraightenOption = Annotated[
    bool, typer.Option("--straighten", help="Resample tilted series instead of refusing them.")
]
DicomwebOption = Annotated[str, typer.Option(help="PACS, as https://host/dicom-web.")]
StoreOption = Annotated[bool, typer.Option("--store", help="Store results in the PACS.")]
WorkersOption = Annotated[int, typer.Option(min=1, help="Processes, or actors on Ray.")]
TimeoutOption = Annotated[float, typer.Option(help="Longest time for a series, in seconds.")]
MemoryOption = Annotated[
    float, typer.Option(help="Most memory for a process, in GiB; 0 = no limit.")
]
RayOption = Annotated[str, typer.Option(help="Ray cluster: local, auto or ray://HOST:PORT.")]
GpusOption = Annotated[float, typer.Option(help="GPUs of each worker on Ray.")]
RetryOption = Annotated[bool, typer.Option("--retry-failed", help="Try again what failed before.")]
ShowPatientOption = Annotated[
    bool,
    typer.Option("--show-patient", help="Show ids, dates and file names in the report."),
]
