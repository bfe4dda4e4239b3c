# Copyright: the esnode authors
# SPDX-License-Identifier: GPL-3.0-or-later
"""Which file systems this machine has: /proc/<pid>/mountinfo, without what is pseudo or there twice."""

from __future__ import annotations

from dataclasses import dataclass

_PSEUDO = frozenset(
    """
    aufs autofs bdev binder binfmt_misc bpf cgroup cgroup2 configfs cpuset cramfs debugfs devfs devpts devtmpfs
    efivarfs erofs fusectl hugetlbfs iso9660 mqueue nfsd nsfs nullfs overlay pipefs proc pstore ramfs resctrl rootfs
    rpc_pipefs securityfs selinuxfs shiftfs smackfs sockfs squashfs sysfs tmpfs tracefs
    fuse.fuse-overlayfs fuse.gvfsd-fuse fuse.lxcfs fuse.portal fuse.snapfuse
    """.split()  # noqa: SIM905 - fifty quoted names read worse
)
# Where container runtimes and the service manager mount things that belong to no one else.
_PLUMBING = (
    "/dev",
    "/proc",
    "/run/containerd",
    "/run/credentials",
    "/run/docker",
    "/run/k3s/containerd",
    "/run/netns",
    "/snap",
    "/sys",
    "/var/lib/containerd",
    "/var/lib/containers/storage",
    "/var/lib/docker",
    "/var/lib/kubelet/pods",
    "/var/snap",
)
_LOCAL_WITHOUT_DEVICE = frozenset({"btrfs", "zfs", "bcachefs"})
_REMOTE_WITH_DEVICE = frozenset({"fuseblk", "gfs2", "ocfs2"})


@dataclass(frozen=True, slots=True)
class Mount:
    """One mounted file system; `number` is the major:minor of its superblock."""

    id: int
    number: str
    inner: str
    """Which directory of the file system is mounted: "/" unless it is a bind mount or a subvolume."""
    mountpoint: str
    device: str
    fstype: str
    readonly: bool

    @property
    def on_block_device(self) -> bool:
        """Whether stat(2) of its mount point must give `number`."""
        return not self.number.startswith("0:")

    @property
    def may_hang(self) -> bool:
        """Whether a server or a user's process answers for it."""
        if self.on_block_device:
            return self.fstype in _REMOTE_WITH_DEVICE
        return self.fstype not in _LOCAL_WITHOUT_DEVICE


def parse(content: bytes, strip: str = "") -> list[Mount]:
    """The mounts in a mountinfo file; with `strip` those below that directory, as seen from there.

    A line that is torn or odd is left out.
    """
    mounts: list[Mount] = []
    for line in content.splitlines():
        left, _unused, right = line.partition(b" - ")
        head, tail = left.split(b" "), right.split(b" ")
        if len(head) < 6 or len(tail) < 3 or not head[0].isdigit():
            continue
        mountpoint = unescape(head[4])
        if strip:
            if mountpoint != strip and not mountpoint.startswith(strip + "/"):
                continue
            mountpoint = mountpoint[len(strip) :] or "/"
        options = head[5].split(b",") + tail[2].split(b",")
        number, inner = head[2].decode("ascii", "replace"), unescape(head[3])
        fstype, device = unescape(tail[0]), unescape(tail[1])
        mounts.append(Mount(int(head[0]), number, inner, mountpoint, device, fstype, b"ro" in options))
    return mounts


def real(mounts: list[Mount]) -> list[Mount]:
    """The real file systems, each once: at its whole mount rather than a bind mount, at the shortest mount point."""
    visible = {mount.mountpoint: mount for mount in mounts}  # of two on one mount point the later one is seen
    best: dict[str, Mount] = {}
    for mount in visible.values():
        if mount.fstype in _PSEUDO or _is_plumbing(mount.mountpoint):
            continue
        other = best.get(mount.number)
        if other is None or _rank(mount) < _rank(other):
            best[mount.number] = mount
    return list(best.values())


def _rank(mount: Mount) -> tuple[bool, int, str]:
    return mount.inner != "/", len(mount.mountpoint), mount.mountpoint


def _is_plumbing(mountpoint: str) -> bool:
    return any(mountpoint == place or mountpoint.startswith(place + "/") for place in _PLUMBING)


def unescape(field: bytes) -> str:
    r"""Undo the kernel's octal escapes (`\040` is a blank)."""
    if b"\\" not in field:
        return field.decode("utf-8", "replace")
    head, *parts = field.split(b"\\")
    out = [head]
    for part in parts:
        digits = part[:3]
        if len(digits) == 3 and all(48 <= d <= 55 for d in digits) and int(digits, 8) < 256:
            out += [bytes([int(digits, 8)]), part[3:]]
        else:
            out += [b"\\", part]
    return b"".join(out).decode("utf-8", "replace")
