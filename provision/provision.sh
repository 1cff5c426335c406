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

echo '::phase prerequisites'
install_prerequisites
check_index

# uv has names of its own for what pip calls PIP_*. Like pip it takes the best of all indexes.
[ -z "${PIP_INDEX_URL:-}" ] || export UV_DEFAULT_INDEX="$PIP_INDEX_URL"
[ -z "${PIP_EXTRA_INDEX_URL:-}" ] || export UV_INDEX="$PIP_EXTRA_INDEX_URL" UV_INDEX_STRATEGY=unsafe-best-match
[ -z "${PIP_TRUSTED_HOST:-}" ] || export UV_INSECURE_HOST="$PIP_TRUSTED_HOST"
[ -n "${SSL_CERT_FILE:-}" ] || [ -z "${PIP_CERT:-}" ] || export SSL_CERT_FILE="$PIP_CERT"

mkdir -p "$BUILD_OUTPUT"
status=0
"$PYTHON" -I -B "$BUILD_INPUTS/provision/build-agent" "$BUILD_INPUTS/packager.yaml" "$TOOLS" </dev/null || status=$?
if [ "$status" -eq 69 ]; then
    # EX_UNAVAILABLE: the modules did not install. Is it they, or the index?
    INDEX_CHECKED=''
    check_index
    status=1
fi
exit "$status"
