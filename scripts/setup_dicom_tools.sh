#!/bin/sh
# Installs what the DICOM tests talk to: a PACS (orthanc with its DICOMweb plug-in) and a validator
# (dicom3tools). Does nothing where they are there. Where it may not install them it says so and
# goes on: those tests are then skipped, with the reason.
set -eu

packages="orthanc orthanc-dicomweb dicom3tools"

have_all() {
    command -v Orthanc >/dev/null 2>&1 && command -v dciodvfy >/dev/null 2>&1 &&
        ls /usr/share/orthanc/plugins/libOrthancDicomWeb.so* >/dev/null 2>&1
}

have_all && exit 0
if [ "$(id -u)" -ne 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "setup: the DICOM tools are missing; on Debian and Ubuntu: sudo apt-get install $packages" >&2
    exit 0
fi
echo "setup: the DICOM tools are missing; installing $packages"
# The package of orthanc starts a service on all interfaces. The tests start their own on loopback,
# so services are kept from starting while it is installed, and this one is not enabled.
policy=/usr/sbin/policy-rc.d
made_policy=
if [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod +x "$policy"
    made_policy=yes
fi
apt-get update -qq &&
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null ||
    echo "setup: $packages could not be installed" >&2
[ -z "$made_policy" ] || rm -f "$policy"
if command -v systemctl >/dev/null 2>&1; then
    systemctl disable orthanc >/dev/null 2>&1 || true
fi
