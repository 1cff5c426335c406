#!/bin/sh
# Makes a Vagrant box of the tree ($1) that customize.sh made a build machine of: it starts from its
# own disk, asks for an address, and lets Vagrant in. Runs on the host, as root of the tree.
set -eu
root=$1

# No seed disk brings an identity here: the machine makes its own at its first start. That is also
# the time to take the room of a disk larger than the box's.
rm -rf "$root/etc/systemd/system/take-identity.service" "$root/usr/local/sbin/take-identity" \
  "$root/etc/systemd/system/ssh.service.requires" "$root/etc/systemd/network/10-build.network"
cat >"$root/usr/local/sbin/first-start" <<'EOF'
#!/bin/sh
# Gives this machine host keys of its own, and its file system the whole disk.
set -eu
for kind in ed25519 ecdsa; do # An RSA key takes an emulated machine ten seconds more.
  ssh-keygen -q -t "$kind" -N '' -f "/etc/ssh/ssh_host_${kind}_key"
done
part=$(findmnt -no SOURCE /)
disk=/dev/$(lsblk -no PKNAME "$part")
echo ', +' | sfdisk --no-reread --force -q -N 1 "$disk" || exit 0
partx --update "$disk"
resize2fs "$part"
EOF
chmod 0755 "$root/usr/local/sbin/first-start"
cat >"$root/etc/systemd/system/first-start.service" <<'EOF'
[Unit]
Description=Make this machine its own
ConditionPathExists=!/etc/ssh/ssh_host_ed25519_key
Before=ssh.service
[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/usr/local/sbin/first-start
[Install]
RequiredBy=ssh.service
EOF

# Which network it is the provider decides: DHCP on the first interface, without waiting for it.
chroot "$root" systemctl --quiet disable systemd-networkd.service systemd-networkd.socket
chroot "$root" systemctl --quiet enable first-start.service
mkdir -p "$root/etc/network/interfaces.d"
cat >"$root/etc/network/interfaces" <<'EOF'
source /etc/network/interfaces.d/*
auto lo
iface lo inet loopback
allow-hotplug eth0
iface eth0 inet dhcp
EOF
: >"$root/etc/resolv.conf"
echo 'LABEL=root / ext4 defaults,noatime 0 1' >"$root/etc/fstab"
echo vagrant >"$root/etc/hostname"
printf '127.0.0.1 localhost\n127.0.1.1 vagrant\n' >"$root/etc/hosts"

# Vagrant logs in with a key that everybody knows, and replaces it at once (insert_key stays on).
# The second is the one that Vagrant 2.4 and later try first.
chroot "$root" useradd --create-home --shell /bin/bash --password '*' vagrant
mkdir -m 0700 "$root/home/vagrant/.ssh"
cat >"$root/home/vagrant/.ssh/authorized_keys" <<'EOF'
ssh-rsa AAAAB3NzaC1yc2EAAAABIwAAAQEA6NF8iallvQVp22WDkTkyrtvp9eWW6A8YVr+kz4TjGYe7gHzIw+niNltGEFHzD8+v1I2YJ6oXevct1YeS0o9HZyN1Q9qgCgzUFtdOKLv6IedplqoPkcmF0aYet2PkEDo3MlTBckFXPITAMzF8dJSIFo9D8HfdOV0IAdx4O7PtixWKn5y2hMNG0zQPyUecp4pzC6kivAIhyfHilFR61RGL+GPXQ2MWZWFYbAGjyiYJnAmCP3NOTd0jMZEnDkbUvxhMmBYSdETk1rRgm+R4LOzFUGaHqHDLKLX+FIPKcF96hrucXzcWyLbIbEgE98OHlnVYCzRdK8jlqm8tehUc9c9WhQ== vagrant insecure public key
ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIN1YdxBpNlzxDqfJyw/QKow1F+wvG9hXGoqiysfJOn5Y vagrant insecure public key
EOF
chmod 0600 "$root/home/vagrant/.ssh/authorized_keys"
chroot "$root" sh -c 'chown -R vagrant: ~vagrant/.ssh'
echo 'vagrant ALL=(ALL) NOPASSWD: ALL' >"$root/etc/sudoers.d/vagrant"
chmod 0440 "$root/etc/sudoers.d/vagrant"

# GRUB for a BIOS. The kernel is found by links that Debian keeps up to date; the disk has another
# name with each provider, so it is found by its label.
for kernel in "$root"/boot/vmlinuz-*; do # There is one.
  release=${kernel##*/vmlinuz-}
  ln -sf "boot/vmlinuz-$release" "$root/vmlinuz"
  ln -sf "boot/initrd.img-$release" "$root/initrd.img"
done
mkdir -p "$root/boot/grub"
cat >"$root/boot/grub/grub.cfg" <<'EOF'
set timeout=0
linux /vmlinuz root=LABEL=root rw net.ifnames=0 console=tty0 console=ttyS0 quiet
initrd /initrd.img
boot
EOF
cp "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/boot.img"
chroot "$root" grub-mkimage --format=i386-pc --prefix='(hd0,msdos1)/boot/grub' \
  --output=/boot/grub/core.img biosdisk part_msdos ext2 linux normal boot echo test
