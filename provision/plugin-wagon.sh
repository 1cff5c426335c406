#!/bin/sh
# Packs a plugin with every wheel that it needs, inside a clean machine. The contract is in README.md.
#
# PLUGIN_SOURCE is what to pack: a folder or archive of the inputs, an address, or NAME==VERSION.
set -eu
umask 022

PREREQUISITES_DEFINE_ONLY=yes
# shellcheck source=provision/prerequisites.sh
. "$BUILD_INPUTS/provision/prerequisites.sh"
version=${VERSION:+_$VERSION${PRERELEASE:+-$PRERELEASE}${BUILD:+-b$BUILD}}

echo '::phase prerequisites'
install_prerequisites
check_index

# The wagon commands are in the packager's one file.
PYTHONPATH=$BUILD_INPUTS/provision/cfy-ap.pyz:$(pip_wheels)
export PYTHONPATH

echo '::phase wagon'
work=/var/tmp/build-orchestrator
mkdir -p "$work"
cd "$BUILD_INPUTS"
status=0
TMPDIR=$work "$PYTHON" -B -m build_orchestrator.agent.wagon create "$PLUGIN_SOURCE" --validate \
    --output-directory "$work/wagon" </dev/null || status=$?
if [ "$status" -ne 0 ]; then
    # Is it the plugin, or the index?
    INDEX_CHECKED=''
    check_index
    exit 1
fi
# An output's name is known beforehand; what the wagon is really called stands in it.
mv "$work"/wagon/*.wgn "$BUILD_OUTPUT/$BUILD_DISTRO-plugin$version.wgn"
