#!/bin/sh
# Installs what is not Python: OpenGL without a screen for the page's views, and with the argument
# `chromium` the browser for its tests. Does nothing where they are there. Where it may not install
# them it says so and goes on: the page then says what is missing, and its tests are skipped.
set -eu
cd "$(dirname "$0")/.."

python=.venv/bin/python

can_render() {
    # Without OpenGL, VTK ends the process that tries to render.
    VTK_DEFAULT_OPENGL_WINDOW=vtkEGLRenderWindow "$python" -c '
import vtkmodules.vtkRenderingOpenGL2
from vtkmodules.vtkRenderingCore import vtkRenderWindow
window = vtkRenderWindow()
window.SetOffScreenRendering(1)
window.SetSize(16, 16)
window.Render()' >/dev/null 2>&1
}

install() {
    what=$1
    shift
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        echo "setup: $what is missing; on Debian and Ubuntu: sudo apt-get install $*" >&2
        return
    fi
    echo "setup: $what is missing; installing $*"
    apt-get update -qq &&
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null ||
        echo "setup: $* could not be installed" >&2
}

if [ "${1:-}" = chromium ]; then
    [ -x /usr/bin/chromium ] || install "the browser for the tests of the page" chromium
    exit 0
fi

stamp=.venv/protosam-rendering
[ -e "$stamp" ] && exit 0
if [ "$(uname -s)" = Linux ] && ! can_render; then
    install "OpenGL" libegl1 libgl1-mesa-dri
fi
if [ "$(uname -s)" != Linux ] || can_render; then
    touch "$stamp"
fi
