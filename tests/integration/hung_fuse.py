# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""A FUSE file system that answers until it is stopped: run as `python hung_fuse.py MOUNTPOINT`.

It speaks the kernel's protocol itself (linux/fuse.h), as much as a mount and statvfs need. It says "mounted" on its
output; SIGSTOP hangs whoever asks it, SIGCONT lets them go on, its end leaves a dead mount to be unmounted.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys

IN_HEADER = struct.Struct("<IIQQIIII")
OUT_HEADER = struct.Struct("<IiQ")
GETATTR, STATFS, INIT = 3, 17, 26
FORGETS = (2, 42)  # the kernel expects no answer to FORGET and BATCH_FORGET
ENOSYS = 38
BLOCKS, FREE, AVAILABLE, FILES, FILES_FREE, BLOCK_BYTES = 1000, 600, 500, 100, 90, 4096
PR_SET_PDEATHSIG, SIGKILL = 1, 9


def answer(opcode: int) -> bytes | None:
    if opcode == INIT:
        return struct.pack("<IIIIHHIIHHI28x", 7, 31, 65536, 0, 12, 9, 65536, 1, 0, 0, 0)
    if opcode == STATFS:
        return struct.pack(
            "<QQQQQIIII24x", BLOCKS, FREE, AVAILABLE, FILES, FILES_FREE, BLOCK_BYTES, 255, BLOCK_BYTES, 0
        )
    if opcode == GETATTR:
        return struct.pack("<QII6Q10I", 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0o40755, 2, 0, 0, 0, 4096, 0)
    return None


def main(mountpoint: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0)
    fuse = os.open("/dev/fuse", os.O_RDWR)
    options = f"fd={fuse},rootmode=40000,user_id=0,group_id=0,allow_other"
    if libc.mount(b"hung", mountpoint.encode(), b"fuse.esnodetest", 0, options.encode()):
        sys.exit(f"mount: {os.strerror(ctypes.get_errno())}")
    print("mounted", flush=True)
    while True:
        try:
            request = os.read(fuse, 1 << 17)
        except OSError:  # unmounted
            return
        _, opcode, unique, *_ = IN_HEADER.unpack_from(request)
        if opcode in FORGETS:
            continue
        content = answer(opcode)
        head = OUT_HEADER.pack(OUT_HEADER.size + len(content or b""), 0 if content is not None else -ENOSYS, unique)
        os.write(fuse, head + (content or b""))


if __name__ == "__main__":
    main(sys.argv[1])
