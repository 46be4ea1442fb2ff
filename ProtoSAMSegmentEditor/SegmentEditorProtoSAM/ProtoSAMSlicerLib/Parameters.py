"""The effect's parameters on the segment editor node.

Rules
-----
* The node is where they stand; they are saved with the scene. The scene package says which there
  are and what their defaults are.
* Texts only, names only: no path, address or secret goes into a scene.
"""

from __future__ import annotations

import logging
from typing import Any

from ProtoSAMSlicerLib import Core


def setDefaults(scriptedEffect: Any) -> None:
    """Give the node the parameters that it lacks; Slicer may ask before there is any panel."""
    try:
        defaults = Core.load().scene.PARAMETERS
    except Core.CoreUnavailable as error:
        logging.warning(str(error))
        return
    for name, value in defaults.items():
        scriptedEffect.setParameterDefault(name, value)


def read(scriptedEffect: Any, name: str) -> str:
    """Return a parameter, or its default where the node lacks it (Slicer would log an error)."""
    if scriptedEffect.parameterDefined(name):
        return str(scriptedEffect.parameter(name))
    return str(Core.load().scene.PARAMETERS[name])


def choose(scriptedEffect: Any, controller: Any, name: str, value: str) -> None:
    """Set a parameter that the user has chosen.

    A window of the user's own starts from the one of the last answer, or else of the views.
    """
    if scriptedEffect.parameterSetNode() is None:
        return
    if name == "Window" and value == "values" and controller is not None:
        window = controller.status.window or controller.volume_window()
        if window is not None:
            scriptedEffect.setParameter("WindowLow", repr(float(window[0])))
            scriptedEffect.setParameter("WindowHigh", repr(float(window[1])))
    scriptedEffect.setParameter(name, value)
