#!/bin/sh
# Builds a container image of a Dockerfile, inside a clean machine. The contract is in README.md.
#
# DOCKER_CONTEXT is the folder with the Dockerfile, in the inputs; DOCKER_NAME what the image is called.
# `docker load` reads the tar. Built by buildah: no daemon, and one time in all layers.
set -eu
umask 022

PREREQUISITES_DEFINE_ONLY=yes
# shellcheck source=provision/prerequisites.sh
. "$BUILD_INPUTS/provision/prerequisites.sh"
version=${VERSION:+_$VERSION${PRERELEASE:+-$PRERELEASE}${BUILD:+-b$BUILD}}

context=$BUILD_INPUTS/$DOCKER_CONTEXT
[ -e "$context/Dockerfile" ] || fail "docker-image: there is no Dockerfile in $DOCKER_CONTEXT"

echo '::phase prerequisites'
[ "$(id -u)" -eq 0 ] || fail "docker-image: run this as root"
find_family
ensure_packages buildah ca-certificates

echo '::phase image'
work=/var/tmp/build-orchestrator/docker-image
rm -rf "$work"
mkdir -p "$work"
buildah() {
    command buildah --root "$work/storage" --runroot "$work/run" --storage-driver vfs "$@" </dev/null
}
# Nothing inside is isolated from this machine but its files: the machine itself is what is thrown away.
buildah bud --isolation chroot --network host --timestamp "$SOURCE_DATE_EPOCH" --file "$context/Dockerfile" \
    --tag "$DOCKER_NAME" "$context" || fail "docker-image: the Dockerfile could not be built"

echo '::phase pack'
buildah push --quiet "$DOCKER_NAME" "docker-archive:$work/image.tar:$DOCKER_NAME" ||
    fail "docker-image: the image could not be written"
mv "$work/image.tar" "$BUILD_OUTPUT/$BUILD_DISTRO-docker-image$version.tar"
