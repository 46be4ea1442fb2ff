"""What the module ProtoSAM Batch needs inside Slicer, beside the module file itself.

Rules
-----
* Imported absolutely, as `ProtoSAMSlicerLib`, from which it takes the core and the Pythons.
* What a batch is, and what becomes of its results, is the core's `BatchDesk`, without Qt; here are
  widgets, Slicer's database and the Segment Editor.
* Names of patients are shown where Slicer shows them anyway, and go nowhere else.
"""
