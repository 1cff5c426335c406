#!/usr/bin/env bash
# The bare commands that do what `build up` does: boot or restore, copy in, run, copy out, kill.
#
#   bare.sh PORT BACKING SIZE STATE QEMU...
#
# PORT leads to the machine's port 22; the disk starts as BACKING and is SIZE large ("" keeps its
# size); STATE is the saved RAM to restore ("" boots from power-on); QEMU... is the command line of
# build_orchestrator/machine/qemu/launch.py, without a monitor.
#
# It runs in a folder that holds inputs/, script.sh, seed/ and an ssh_config with a multiplexed
# connection, all made beforehand. The key that logs in is made beforehand, too: a user of the bare
# commands has one, and a restored machine keeps the snapshot's.
set -eu -o pipefail

port=$1 backing=$2 size=$3 state=$4
shift 4
machine=(ssh -F ssh_config machine)
log=$PWD/bare.log

qemu=
end() {
    [ -z "$qemu" ] || { kill -KILL "$qemu"; wait "$qemu"; } 2>/dev/null || true
    ssh -F ssh_config -O exit machine 2>/dev/null || true
    rm -f overlay.qcow2 answers
}
trap end EXIT

knock() {
    local greeting
    IFS= read -r -t 2 greeting <"/dev/tcp/127.0.0.1/$port" && [[ $greeting == SSH-* ]] && : >answers
}

qemu-img create -q -f qcow2 -F qcow2 -b "$backing" overlay.qcow2 ${size:+"$size"}
if [ -n "$state" ]; then
    "$@" 3<"$state" 2>qemu.log &
else
    "$@" 2>qemu.log &
fi
qemu=$!

# Each knock that comes too early is lost in QEMU's network, so there is a new one every 0.1 s. Later
# ones come slower: for each the machine starts an sshd, and a slow one would do nothing else.
pauses=(0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1)
until [ -e answers ]; do
    kill -0 "$qemu"
    knock 2>/dev/null &
    sleep "${pauses[0]:-1}"
    pauses=("${pauses[@]:1}")
done

# A restored machine has the clock of its snapshot, and no certificate is valid then.
tar -C inputs -cf - . | "${machine[@]}" "date -u -s @$(date +%s.%N) >/dev/null
    mkdir -p /var/lib/build-orchestrator/inputs && tar -C /var/lib/build-orchestrator/inputs -xf -"
"${machine[@]}" sh -s <script.sh >"$log" 2>&1
mkdir -p output
"${machine[@]}" tar -C /var/lib/build-orchestrator/output -cf - . | tar -C output -xf -
