#!/bin/sh
# Makes .venv with ProtoSAM (editable), the browser page and the development tools in it,
# at the versions of constraints.txt. Does nothing where that was done before: the stamp in .venv
# holds the digest of everything that decides what is installed.
set -eu
cd "$(dirname "$0")/.."

stop() {
    echo "setup: $*" >&2
    exit 1
}

# A name on PATH is not enough: version managers leave launchers for versions they do not have.
usable() {
    "$1" -c 'import sys; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' >/dev/null 2>&1
}

find_python() {
    for candidate in ${PYTHON:-} python3.11 python3.12 python3; do
        if usable "$candidate"; then
            echo "$candidate"
            return
        fi
    done
    stop "no Python 3.11 or 3.12 was found, and constraints.txt pins versions for these; install one" \
        "(on Debian or Ubuntu: apt-get install python3) or name it with PYTHON=/path/to/python make ..."
}

# Debian and Ubuntu keep ensurepip, without which a new environment has no pip, in a package of its own.
need_ensurepip() {
    python=$1
    if "$python" -c 'import ensurepip, venv' >/dev/null 2>&1; then
        return
    fi
    version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
    package="python$version-venv"
    if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
        stop "$python cannot make environments with pip in them; install $package" \
            "(sudo apt-get install $package) and run this again."
    fi
    echo "setup: $python cannot make environments with pip in them; installing $package"
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "$package" ||
        apt-get install -y -qq --no-install-recommends python3-venv
    "$python" -c 'import ensurepip, venv' >/dev/null 2>&1 ||
        stop "$package is installed and $python still has no ensurepip; name another Python with" \
            "PYTHON=/path/to/python make ..."
}

digest() {
    { pwd; cat pyproject.toml constraints.txt scripts/setup_venv.sh; } | sha256sum | cut -d' ' -f1
}

stamp=.venv/protosam-setup.sha256
wanted=$(digest)
if [ -x .venv/bin/protosam ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then
    exit 0
fi

python=$(find_python)
need_ensurepip "$python"
free_kb=$(df -Pk . | awk 'NR == 2 { print $4 }')
[ "$free_kb" -ge 8000000 ] || echo "setup: only $((free_kb / 1000000)) GB are free here; about 8 are needed" >&2

# An environment that another Python made, or a half-made one, is not mended but made anew.
if [ ! -x .venv/bin/pip ] || ! usable .venv/bin/python; then
    echo "setup: making .venv with $("$python" --version)"
    "$python" -m venv --clear .venv
fi
rm -f "$stamp"
echo "setup: installing the libraries (PyTorch is large; this is done once)"
pip=".venv/bin/python -m pip --disable-pip-version-check --quiet"
$pip install --constraint constraints.txt hatchling editables
$pip install --constraint constraints.txt --no-build-isolation --editable ".[app,dicom,dev,ray]"
echo "$wanted" >"$stamp"
echo "setup: done; the command is .venv/bin/protosam"
