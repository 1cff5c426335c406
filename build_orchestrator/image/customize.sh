#!/bin/sh
# Makes a build machine of a freshly installed tree ($1). Runs on the host, as root of the tree.
set -eu
root=$1

# No identity may be in an image: each machine gets its own at its first start.
rm -f "$root"/etc/ssh/ssh_host_* "$root/etc/machine-id" "$root/var/lib/dbus/machine-id"
: >"$root/etc/machine-id"
echo image >"$root/etc/hostname"

# The identity comes on a small disk labelled CIDATA, before sshd starts.
cat >"$root/usr/local/sbin/take-identity" <<'EOF'
#!/bin/sh
# Reads this machine's identity from its seed disk, once, at power-on.
set -eu
mkdir -p /run/seed
mount -o ro /dev/disk/by-label/CIDATA /run/seed
status=0
sh /run/seed/identity.sh || status=$?
umount /run/seed
exit "$status"
EOF
chmod 0755 "$root/usr/local/sbin/take-identity"
cat >"$root/etc/systemd/system/take-identity.service" <<'EOF'
[Unit]
Description=Take this machine's identity from the seed disk
DefaultDependencies=no
Requires=dev-disk-by\x2dlabel-CIDATA.device
After=dev-disk-by\x2dlabel-CIDATA.device local-fs.target
Before=ssh.service network-pre.target sysinit.target
Wants=network-pre.target
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/take-identity
StandardOutput=journal+console
[Install]
RequiredBy=ssh.service
EOF

# A static address in QEMU's user network: no DHCP to wait for.
cat >"$root/etc/systemd/network/10-build.network" <<'EOF'
[Match]
Name=eth0
[Network]
Address=10.0.2.15/24
Gateway=10.0.2.2
DNS=10.0.2.3
LinkLocalAddressing=no
IPv6AcceptRA=no
EOF
rm -f "$root/etc/resolv.conf"
echo 'nameserver 10.0.2.3' >"$root/etc/resolv.conf"
echo '/dev/vda / ext4 defaults,noatime 0 1' >"$root/etc/fstab"

# Root logs in with the machine's own key and with nothing else.
passwd_file=$root/etc/shadow
sed -i 's/^root:[^:]*:/root:*:/' "$passwd_file"
mkdir -p "$root/etc/ssh/sshd_config.d"
cat >"$root/etc/ssh/sshd_config.d/build.conf" <<'EOF'
PermitRootLogin prohibit-password
PasswordAuthentication no
UseDNS no
MaxStartups 100
EOF
# Newer ones shut out who connects without logging in, as a wait for a slow machine may.
if grep -q PerSourcePenalties "$root/usr/sbin/sshd"; then
  echo 'PerSourcePenalties no' >>"$root/etc/ssh/sshd_config.d/build.conf"
fi

# The machine lives for one build: what only helps long-lived hosts costs start-up time.
for unit in systemd-networkd.service ssh.service take-identity.service; do
  systemctl --root="$root" enable "$unit" >/dev/null 2>&1 ||
    chroot "$root" systemctl enable "$unit"
done
for unit in apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer \
  e2scrub_reap.service fstrim.timer logrotate.timer man-db.timer systemd-timesyncd.service \
  systemd-networkd-wait-online.service systemd-resolved.service getty@tty1.service \
  systemd-pstore.service systemd-random-seed.service sshd-keygen.service ssh.socket; do
  ln -sf /dev/null "$root/etc/systemd/system/$unit"
done
mkdir -p "$root/etc/systemd/journald.conf.d"
printf '[Journal]\nStorage=volatile\n' >"$root/etc/systemd/journald.conf.d/build.conf"

# Packages installed during a build are thrown away with the machine.
cat >"$root/etc/dpkg/dpkg.cfg.d/build" <<'EOF'
force-unsafe-io
path-exclude=/usr/share/doc/*
path-exclude=/usr/share/man/*
path-exclude=/usr/share/locale/*
EOF
cat >"$root/etc/apt/apt.conf.d/90build" <<'EOF'
Acquire::Languages "none";
APT::Install-Recommends "false";
EOF
