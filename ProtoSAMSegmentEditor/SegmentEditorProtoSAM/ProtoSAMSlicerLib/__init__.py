"""What the ProtoSAM effect needs inside Slicer, beside the effect file itself.

Rules
-----
* Imported absolutely. Slicer loads the effect file by its path as a module that is no package, so
  nothing may be imported relative to it; that is why this package has a name of its own.
* May import slicer, qt and vtk; of the core only what `Core` hands out.
* Nothing starts at import.
"""
