#!/bin/sh
# Builds the agent that packager.yaml describes, inside a clean machine. The contract is in README.md.
set -eu
umask 022

# Vagrant runs a copy of this file from a folder of its own, with the project at /vagrant.
here=$(cd "$(dirname "$0")" && pwd)
[ -e "$here/prerequisites.sh" ] || here=/vagrant/provision
export BUILD_INPUTS="${BUILD_INPUTS:-${here%/*}}"
export BUILD_OUTPUT="${BUILD_OUTPUT:-$BUILD_INPUTS/dist/$(uname -n)}"
export SOURCE_DATE_EPOCH="${SOURCE_DATE_EPOCH:-1704067200}"
export LANG=C.UTF-8

PREREQUISITES_DEFINE_ONLY=yes
# shellcheck source=provision/prerequisites.sh
. "$BUILD_INPUTS/provision/prerequisites.sh"

# A folder of wheels in the inputs stands in for every package index.
wheelhouse=$BUILD_INPUTS/wheelhouse

echo '::phase prerequisites'
install_prerequisites
[ -d "$wheelhouse" ] || check_index

# The packager is one file where an orchestrator brought it, else its source in the project.
packager=$BUILD_INPUTS/provision/cfy-ap.pyz
if [ ! -e "$packager" ]; then
    packager=$BUILD_INPUTS/build_orchestrator/agent
    export PYTHONPATH="$TOOLS" # what the file has inside
fi
[ -e "$packager" ] || fail "provision: neither provision/cfy-ap.pyz nor build_orchestrator/agent is in $BUILD_INPUTS"

set -- --config "$BUILD_INPUTS/packager.yaml" --output "$BUILD_OUTPUT" --force --phases
[ ! -e "$BUILD_INPUTS/agent.lock" ] || set -- "$@" --locked "$BUILD_INPUTS/agent.lock"
[ ! -d "$wheelhouse" ] || set -- "$@" --offline --wheelhouse "$wheelhouse"

# Always the same folder, so that no path in a compiled module depends on the build. Not /tmp: that is
# often small, or mounted noexec.
work=/var/tmp/build-orchestrator
mkdir -p "$work" "$BUILD_OUTPUT"
cd "$work"
export PATH="$TOOLS/bin:$PATH" UV_CACHE_DIR="$work/cache"
status=0
"$PYTHON" -B "$packager" "$@" </dev/null || status=$?
rm -rf "$UV_CACHE_DIR"
case $status in
3 | 6 | 13)
    # Something could not be fetched or installed. Is it that, or the index?
    INDEX_CHECKED=''
    [ -d "$wheelhouse" ] || check_index
    ;;
esac
[ "$status" -eq 0 ] || exit 1
