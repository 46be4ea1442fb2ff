"""The browser door: Slicer's own views in a web page, and the same clicks as in Slicer.

It imports `protosam.scene`, `protosam.wire` and what reads and writes files; never the models. The
worker is a process of its own. One process holds one scene for one user on this machine.
"""
