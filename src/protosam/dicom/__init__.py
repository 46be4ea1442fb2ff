"""DICOM series in, DICOM SEG out; the only package that speaks DICOM and its LPS frame."""
