#!/bin/sh
# What happens inside a machine while an image is made of it. Packer runs it there:
#
#   inside.sh install SCRIPT    runs SCRIPT as a build would, and says how it ended: "::exit STATUS",
#                               and what it left of room and memory: "::left KIND COUNT PLACE"
#   inside.sh packages          lists the packages that are installed, a line each: NAME VERSION
#   inside.sh seal              takes out what belongs to this one machine, and to who made it
#
# What the host needs to reach packages arrives as variables; those that are empty mean nothing. They are
# never arguments, which sudo writes down: an address may hold a password.
set -eu

HERE=/tmp/build-orchestrator
TRUST='http_proxy https_proxy no_proxy HTTP_PROXY HTTPS_PROXY NO_PROXY
    PIP_INDEX_URL PIP_EXTRA_INDEX_URL PIP_TRUSTED_HOST'

install() { # SCRIPT
    for name in $TRUST BAKE_PACKAGES; do
        eval "value=\${$name:-}"
        [ -n "$value" ] || unset "$name"
    done
    bundle=$HERE/ca.pem
    if [ -s "$bundle" ]; then
        export SSL_CERT_FILE="$bundle" PIP_CERT="$bundle" REQUESTS_CA_BUNDLE="$bundle" CURL_CA_BUNDLE="$bundle"
    fi
    export HOME=/root LANG=C.UTF-8 PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
    status=0
    sh "$1" </dev/null || status=$?
    left
    echo "::exit $status"
    exit "$status"
}

# What a build's machine is asked after a failure (machine/shortage.py). Nobody can ask one of Packer's, so
# it is said at once, for whatever fails from here on.
left() {
    {
        df -kP / /tmp | awk 'NR > 1 { print "free_kib", $4, $6 }'
        df -iP / | awk 'NR > 1 && $2 > 0 { print "free_inodes", $4, $6 }'
        awk '$1 == "oom_kill" { print "oom_kills", $2 }' /proc/vmstat
    } 2>/dev/null | sed 's/^/::left /'
}

packages() {
    if command -v dpkg-query >/dev/null; then
        # shellcheck disable=SC2016  # dpkg-query's own words
        dpkg-query --show --showformat '${Package} ${Version}\n'
    else
        rpm --query --all --queryformat '%{NAME} %{VERSION}-%{RELEASE}\n' | sort
    fi
}

seal() {
    rm -rf "$HERE"
    if command -v apt-get >/dev/null; then
        apt-get clean
        rm -rf /var/lib/apt/lists/*
    fi
    rm -rf /root/.cache /var/lib/systemd/random-seed /var/cache/ldconfig/aux-cache
    : >/etc/machine-id
    [ -L /var/lib/dbus/machine-id ] || rm -f /var/lib/dbus/machine-id
    # Host keys go only where something makes new ones before sshd starts.
    if [ -e /usr/local/sbin/take-identity ] || [ -e /usr/local/sbin/first-start ] ||
        command -v cloud-init >/dev/null; then
        rm -f /etc/ssh/ssh_host_*
    fi
    if [ -e /usr/local/sbin/take-identity ] || [ -e /usr/local/sbin/first-start ]; then
        rm -rf /root/.ssh # the key that let Packer in
    fi
    case ${PACKER_BUILD_NAME:-} in # machines that are given their key when they first start
    qemu-* | aws-*)
        for user in root "${SUDO_USER:-root}"; do
            rm -f "$(getent passwd "$user" | cut -d: -f6)/.ssh/authorized_keys"
        done
        ;;
    esac
    if command -v cloud-init >/dev/null; then
        cloud-init clean --logs
    fi
    for name in $TRUST; do
        eval "value=\${$name:-}"
        case $name in no_proxy | NO_PROXY | PIP_TRUSTED_HOST) continue ;; esac
        [ -n "$value" ] || continue
        if found=$(grep -rlsF -e "$value" /etc /root /home /opt/build-orchestrator /var/lib/cloud /var/log); then
            echo "error: $name of the host stands in the image: $found" >&2
            echo '::exit 1'
            exit 1
        fi
    done
    sync
    # What was deleted is no part of the image. Not every disk can be told so.
    fstrim / || :
}

verb=$1
shift
"$verb" "$@"
