"""Whose image a volume is, as far as DICOM tells.

Rules
-----
* What is found goes to the scene package, which has it hashed; it is neither shown nor logged.
* Nothing is guessed: a volume that came from no DICOM file has no key.
"""

from __future__ import annotations

from typing import Any

import slicer

ATTRIBUTE, LEVEL = "DICOM.PatientID", "Patient"
"""Where the subject hierarchy has it."""

INSTANCES = "DICOM.instanceUIDs"
"""Attribute of a volume node with the UIDs of its files, parted by blanks."""

PATIENT_ID = "0010,0020"


def patientOf(volumeNode: Any) -> str:
    """Return DICOM's PatientID of a volume; empty = not known."""
    return _inHierarchy(volumeNode) or _inDatabase(volumeNode)


def _inHierarchy(volumeNode: Any) -> str:
    tree = slicer.vtkMRMLSubjectHierarchyNode.GetSubjectHierarchyNode(slicer.mrmlScene)
    item = 0 if tree is None else tree.GetItemByDataNode(volumeNode)
    if not item:
        return ""
    return str(tree.GetAttributeFromItemAncestor(item, ATTRIBUTE, LEVEL) or "").strip()


def _inDatabase(volumeNode: Any) -> str:
    database = getattr(slicer, "dicomDatabase", None)  # Slicer sets it once it has started
    uids = str(volumeNode.GetAttribute(INSTANCES) or "").split()
    if database is None or not database.isOpen or not uids:
        return ""
    path = str(database.fileForInstance(uids[0]) or "")
    return str(database.fileValue(path, PATIENT_ID) or "").strip() if path else ""
