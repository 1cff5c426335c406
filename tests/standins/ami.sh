#!/bin/sh
# Makes of a freshly installed tree ($1) what Debian's image for AWS is: a system without an identity,
# to which cloud-init gives one at its first start. Runs on the host, as root of the tree.
set -eu
root=$1

rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
echo localhost >"$root/etc/hostname"
echo '/dev/vda / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
echo 'nameserver 169.254.169.3' >"$root/etc/resolv.conf"

# The settings of Debian's own images, and two that spare an emulated machine half a minute: no
# locale is compiled, and one host key is made.
cat >"$root/etc/cloud/cloud.cfg.d/90_ami.cfg" <<'EOF'
manage_etc_hosts: true
system_info:
  default_user:
    name: admin
    gecos: Debian
    groups: [adm]
    sudo: ["ALL=(ALL) NOPASSWD:ALL"]
    shell: /bin/bash
locale: false
ssh_genkeytypes: [ed25519]
EOF

chroot "$root" systemctl --quiet enable systemd-networkd.service ssh.service
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer systemd-timesyncd.service getty@tty1.service ssh.socket; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
