# SPDX-License-Identifier: GPL-3.0-or-later
# Copyright: the esnode authors
"""Trees of the kernel's files as machines have them: a two-socket Xeon, an EPYC, and one with any number of CPUs."""

from __future__ import annotations

from pathlib import Path

from esnode.collect import Roots, Settings
from esnode.config import App, Collectors, Config

Files = dict[str, str]


def lay(base: Path, files: Files, links: Files | None = None) -> Roots:
    """Write a tree; keys are paths below `base`, links are as for ln -s."""
    for place in ("proc", "sys", "root", "dev"):
        (base / place).mkdir(parents=True, exist_ok=True)
    for path, content in files.items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).write_text(content, encoding="utf-8", errors="surrogateescape")
    for path, target in (links or {}).items():
        (base / path).parent.mkdir(parents=True, exist_ok=True)
        (base / path).symlink_to(target)
    return Roots(base / "proc", base / "sys", base / "root", base / "dev")


def settings(roots: Roots, envelope_w: float | None = None, url: str = "http://127.0.0.1:9/metrics") -> Settings:
    """The default configuration over a tree."""
    collectors = Collectors(node_power_envelope_watts=envelope_w)
    return Settings(Config(collectors=collectors, app=App(enable_app=True, app_metrics_url=url)), roots)


# --- a Xeon with two sockets, two cores each, two threads each; the second threads are CPUs 4 to 7

XEON_STAT = """\
cpu  80360 880 20450 7975100 1203 0 412 0 1000 8
cpu0 10045 110 2556 996887 150 0 51 0 500 4
cpu1 10046 111 2557 996888 151 0 52 0 500 4
cpu2 10047 112 2558 996889 152 0 53 0 0 0
cpu3 10048 113 2559 996890 153 0 54 0 0 0
cpu4 10049 114 2560 996891 154 1 55 2 0 0
cpu5 10050 115 2561 996892 155 0 56 0 0 0
cpu6 10051 116 2562 996893 156 0 57 0 0 0
cpu7 10052 117 2563 996894 157 0 58 0 0 0
intr 123456789 0 9 0 0 5 0 0 0 1
ctxt 987654321
btime 1769904000
processes 54321
procs_running 3
procs_blocked 1
softirq 5555 1 2 3 4 5 6 7 8 9 10
"""

# One second later: CPU 0 was busy for 25 of 100 ticks, CPU 1 waited for I/O, CPU 2's idle and iowait stepped back.
XEON_STAT_LATER = (
    XEON_STAT.replace("cpu0 10045 110 2556 996887 150", "cpu0 10065 110 2561 996962 150")
    .replace("cpu1 10046 111 2557 996888 151", "cpu1 10046 111 2557 996938 201")
    .replace("cpu2 10047 112 2558 996889 152", "cpu2 10097 112 2558 996887 150")
)

MEMINFO = """\
MemTotal:       1056586804 kB
MemFree:        812345678 kB
MemAvailable:   956586804 kB
Buffers:          1234567 kB
Cached:         123456789 kB
SwapCached:            12 kB
SwapTotal:        8388604 kB
SwapFree:         8188604 kB
HugePages_Total:       0
Hugepagesize:       2048 kB
"""

VMSTAT = """\
nr_free_pages 203086419
pswpin 100
pswpout 2000
pgfault 999999
pgmajfault 777
oom_kill 3
pswpin_other 5
"""

DISKSTATS = """\
   7       0 loop0 55 0 2100 31 0 0 0 0 0 40 31 0 0 0 0 0 0
   1       0 ram0 0 0 0 0 0 0 0 0 0 0 0
   8       0 sda 1000 10 80000 2500 2000 20 160000 5500 3 4321 8000 0 0 0 0 10 20
   8       1 sda1 900 10 70000 2400 1900 20 150000 5400 0 4000 7800 0 0 0 0 0 0
 259       0 nvme0n1 5000000 0 4000000000 123456 6000000 0 8000000000 654321 17 777777 777777 0 0 0 0 0 0
 259       1 nvme0n1p1 100 0 800 1 0 0 0 0 0 1 1 0 0 0 0 0 0
 253       0 dm-0 1010 0 80000 2600 2020 0 160000 5600 0 4400 8200 0 0 0 0 0 0
   9     127 md127 70 0 560 0 80 0 640 0 0 0 0
 104       0 cciss/c0d0 1 0 8 1 1 0 8 1 0 2 2
 104       1 cciss/c0d0p1 1 0 8 1 1 0 8 1 0 2 2
"""

NET_DEV = """\
Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo: 1000000   10000    0    0    0     0          0         0  1000000   10000    0    0    0     0       0          0
  eno1: 5000000000 4000000    1    2    0     0          0       123 6000000000 5000000    3    4    0     0       0          0
eno1:1:    7       1    0    0    0     0          0         0        8       1    0    0    0     0       0          0
   ib0:18446744073709551615 9 0 0 0 0 0 0 7 6 0 0 0 0 0 0
"""  # noqa: E501

NET_SNMP = """\
Ip: Forwarding DefaultTTL InReceives
Ip: 1 64 12345
Tcp: RtoAlgorithm RtoMin RtoMax MaxConn ActiveOpens InSegs OutSegs RetransSegs InErrs
Tcp: 1 200 120000 -1 100 5000 6000 4242 1
TcpExt: SyncookiesSent
TcpExt: 0
"""

POWER_METER = "sys/devices/LNXSYSTM:00/LNXSYBUS:00/ACPI000D:00"

MOUNTINFO = r"""22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw,errors=remount-ro
23 22 0:21 / /proc rw,nosuid shared:12 - proc proc rw
24 22 0:22 / /sys rw,nosuid shared:2 - sysfs sysfs rw
25 22 0:6 / /dev rw,nosuid shared:8 - devtmpfs udev rw,size=1k
26 22 0:24 / /run rw,nosuid shared:5 - tmpfs tmpfs rw
30 22 259:1 / /data/my\040disk rw,noatime shared:30 - xfs /dev/nvme0n1p1 rw,attr2
31 22 259:1 /sub /b ro,noatime shared:30 - xfs /dev/nvme0n1p1 rw,attr2
32 22 0:50 / /home rw,relatime shared:40 master:3 - nfs4 filer:/export/home rw,vers=4.2
33 22 0:51 /@ /pool rw shared:41 - btrfs /dev/sdb rw,subvol=/@
34 22 0:51 /@home /pool/home rw shared:42 - btrfs /dev/sdb rw,subvol=/@home
35 22 7:3 / /snap/core/1 ro shared:43 - squashfs /dev/loop3 ro
36 22 0:60 / /var/lib/docker/overlay2/abc/merged rw - overlay overlay rw,lowerdir=/a:/b
37 22 8:1 /etc/hosts /var/lib/kubelet/pods/x/etc-hosts rw - ext4 /dev/sda1 rw
38 22 8:17 / /backup rw shared:44 - ext4 /dev/sdb1 ro
39 22 0:61 / /mnt/lustre rw - lustre 10.0.0.1@o2ib:/scratch rw
40 22 0:62 / /run/user/1000/doc rw - fuse.portal portal rw
41 22 0:63 / /mnt/s3 rw - fuse.s3fs s3fs rw
42 22 0:64 / /mnt/auto rw - autofs systemd-1 rw
"""


def _cpu_directories(cpus: int, threads: int, sockets: int) -> Files:
    """CPU numbers as Linux deals them: all first threads, socket by socket, then the second threads."""
    cores = cpus // threads
    files: Files = {}
    for cpu in range(cpus):
        core, base = cpu % cores, f"sys/devices/system/cpu/cpu{cpu}"
        per_socket = cores // sockets
        files[f"{base}/topology/physical_package_id"] = f"{core // per_socket}\n"
        files[f"{base}/topology/core_id"] = f"{core % per_socket}\n"
        files[f"{base}/cpufreq/scaling_cur_freq"] = f"{2000000 + 1000 * cpu}\n"
        files[f"{base}/thermal_throttle/core_throttle_count"] = f"{core}\n"
        files[f"{base}/thermal_throttle/package_throttle_count"] = f"{10 * (core // per_socket)}\n"
    return files


def _coretemp(sockets: int, cores: int) -> tuple[Files, Files]:
    files: Files = {}
    links: Files = {}
    for socket in range(sockets):
        # hwmon numbers are in no order with the sockets, as on real machines.
        hwmon = f"sys/class/hwmon/hwmon{5 - socket}"
        files[f"{hwmon}/name"] = "coretemp\n"
        files[f"{hwmon}/temp1_label"] = f"Package id {socket}\n"
        files[f"{hwmon}/temp1_input"] = f"{50000 + 1000 * socket}\n"
        files[f"{hwmon}/temp1_max"] = "98000\n"
        for core in range(cores):
            files[f"{hwmon}/temp{core + 2}_label"] = f"Core {core}\n"
            files[f"{hwmon}/temp{core + 2}_input"] = f"{48000 + 500 * core}\n"
        device = f"sys/devices/platform/coretemp.{socket}"
        files[f"{device}/uevent"] = "DRIVER=coretemp\n"
        links[f"{hwmon}/device"] = f"../../../../{device}"
    return files, links


def _rapl(base: str, name: str, energy_uj: int, range_uj: int = 262143328850) -> Files:
    directory = f"sys/class/powercap/{base}"
    return {
        f"{directory}/name": f"{name}\n",
        f"{directory}/energy_uj": f"{energy_uj}\n",
        f"{directory}/max_energy_range_uj": f"{range_uj}\n",
    }


def _numa(nodes: int) -> Files:
    files: Files = {"sys/devices/system/node/possible": "0-1\n"}
    for node in range(nodes):
        total, free = 528293402, 400000000 + node
        files[f"sys/devices/system/node/node{node}/meminfo"] = (
            f"Node {node} MemTotal:       {total} kB\nNode {node} MemFree:        {free} kB\n"
            f"Node {node} MemUsed:        {total - free} kB\nNode {node} HugePages_Total:     0\n"
        )
    return files


def _ib_port(device: str, port: int, state: str, counters: dict[str, str]) -> Files:
    directory = f"sys/class/infiniband/{device}/ports/{port}"
    return {f"{directory}/state": f"{state}\n", **{f"{directory}/counters/{k}": f"{v}\n" for k, v in counters.items()}}


def _pressure() -> Files:
    files: Files = {}
    for number, resource in enumerate(("cpu", "memory", "io"), start=1):
        files[f"proc/pressure/{resource}"] = (
            f"some avg10=0.00 avg60=0.12 avg300=0.05 total={number}000500\n"
            f"full avg10=0.00 avg60=0.00 avg300=0.00 total={number}00250\n"
        )
    return files


def xeon(base: Path) -> Roots:
    """Two sockets, two NUMA nodes, RAPL, EDAC, coretemp, an ACPI power meter, two InfiniBand adapters."""
    sensors, links = _coretemp(2, 2)
    links["sys/class/hwmon/hwmon1/device"] = f"../../../../{POWER_METER}"
    files: Files = {
        "proc/stat": XEON_STAT,
        "proc/loadavg": "1.25 0.50 0.10 3/1234 56789\n",
        "proc/meminfo": MEMINFO,
        "proc/vmstat": VMSTAT,
        "proc/diskstats": DISKSTATS,
        "proc/1/net/dev": NET_DEV,
        "proc/1/net/snmp": NET_SNMP,
        "proc/net/dev": NET_DEV.replace("5000000000", "1"),  # the container's own, not to be read
        "proc/net/snmp": NET_SNMP.replace("4242", "1"),
        "proc/1/mountinfo": MOUNTINFO,
        **_pressure(),
        **_cpu_directories(8, 2, 2),
        **sensors,
        "sys/class/hwmon/hwmon0/name": "nvme\n",
        "sys/class/hwmon/hwmon0/temp1_input": "35850\n",
        f"{POWER_METER}/name": "power_meter\n",
        f"{POWER_METER}/power1_average": "812000000\n",
        f"{POWER_METER}/power1_is_battery": "0\n",
        "sys/class/hwmon/hwmon1/uevent": "\n",
        **_numa(2),
        **_rapl("intel-rapl:0", "package-0", 123456789012),
        **_rapl("intel-rapl:0:0", "dram", 23456789012, 65712999613),
        **_rapl("intel-rapl:0:1", "core", 1),
        **_rapl("intel-rapl:1", "package-1", 223456789012),
        **_rapl("intel-rapl:1:0", "dram", 33456789012, 65712999613),
        **_rapl("intel-rapl:2", "psys", 999),
        **_rapl("intel-rapl-mmio:0", "package-0", 77),
        "sys/class/powercap/intel-rapl/enabled": "1\n",
        **_ib_port(
            "mlx5_0",
            1,
            "4: ACTIVE",
            {"port_rcv_data": "1000", "port_xmit_data": "2000", "link_downed": "2", "symbol_error": "5"},
        ),
        **_ib_port(
            "mlx5_1",
            1,
            "1: DOWN",
            {"port_rcv_data": "N/A (no PMA)", "port_xmit_data": "0", "link_downed": "0", "symbol_error": "0"},
        ),
    }
    for controller, (corrected, uncorrected) in enumerate(((7, 0), (0, 1))):
        files[f"sys/devices/system/edac/mc/mc{controller}/ce_count"] = f"{corrected}\n"
        files[f"sys/devices/system/edac/mc/mc{controller}/ue_count"] = f"{uncorrected}\n"
    files["sys/devices/system/edac/mc/power/control"] = "auto\n"
    for name, state, speed in (("lo", "unknown", ""), ("eno1", "up", "25000"), ("ib0", "down", "-1")):
        files[f"sys/class/net/{name}/operstate"] = f"{state}\n"
        if speed:
            files[f"sys/class/net/{name}/speed"] = f"{speed}\n"
    files["sys/class/net/bonding_masters"] = "\n"
    for device in ("loop0", "ram0", "sda", "nvme0n1", "nvme0c0n1", "dm-0", "md127", "cciss!c0d0"):
        files[f"sys/block/{device}/size"] = "1\n"
    return lay(base, files, links)


def epyc(base: Path) -> Roots:
    """One socket of AMD without cpufreq, PSI, EDAC and swap accounting; RAPL has no DRAM, the BMC has its device."""
    stat = "cpu  8 0 8 80 0 0 0 0\n" + "".join(f"cpu{n} 2 0 2 20 0 0 0 0 0 0\n" for n in (0, 1, 3))
    cpuinfo = "".join(
        f"processor\t: {n}\nmodel name\t: AMD EPYC 9654 96-Core Processor\ncpu MHz\t\t: {2400 + n}.125\n\n"
        for n in (0, 1, 3)
    )
    files: Files = {
        "proc/stat": stat + "intr 10\nctxt 20\nbtime 1769904001\nprocs_running 1\nprocs_blocked 0\n",
        "proc/loadavg": "0.00 0.01 0.05 1/99 1000\n",
        "proc/cpuinfo": cpuinfo,
        "proc/meminfo": "MemTotal: 100 kB\nMemFree: 40 kB\nBuffers: 1 kB\nCached: 2 kB\n",  # before MemAvailable
        "proc/vmstat": "pgmajfault 5\n",
        "proc/diskstats": "",
        "proc/net/dev": NET_DEV,
        "proc/net/snmp": NET_SNMP,
        "proc/self/mountinfo": MOUNTINFO,
        "dev/ipmi0": "",
        "sys/class/hwmon/hwmon2/name": "k10temp\n",
        "sys/class/hwmon/hwmon2/temp1_input": "61125\n",
        "sys/class/hwmon/hwmon2/temp1_label": "Tctl\n",
        "sys/class/hwmon/hwmon2/temp3_input": "55000\n",
        "sys/class/hwmon/hwmon2/temp3_label": "Tccd1\n",
        "sys/class/hwmon/hwmon2/temp4_input": "56000\n",
        "sys/class/hwmon/hwmon2/temp4_label": "Tccd1\n",
        "sys/devices/pci0000:00/0000:00:18.3/uevent": "DRIVER=k10temp\n",
        **_rapl("intel-rapl:0", "package-0", 65532610987, 65532610987),
        **_rapl("intel-rapl:0:0", "core", 5),
    }
    (base / "sys/block").mkdir(parents=True)
    return lay(base, files, {"sys/class/hwmon/hwmon2/device": "../../../devices/pci0000:00/0000:00:18.3"})


def large(base: Path, cpus: int = 256) -> Roots:
    """The Xeon with many CPUs, interrupts and sensors, as large nodes have them."""
    roots = xeon(base)
    lines = [f"cpu{n} {10000 + n} {n} {2000 + n} {900000 + n} {100 + n} 0 {50 + n} 0 0 0" for n in range(cpus)]
    interrupts = " ".join("0" if n % 7 else str(n) for n in range(4000))
    rest = "ctxt 9\nbtime 1769904000\nprocs_running 3\nprocs_blocked 1\n"
    sensors, _ = _coretemp(2, cpus // 4)
    files = _cpu_directories(cpus, 2, 2) | sensors
    files["proc/stat"] = "\n".join(["cpu  1 1 1 1 1 1 1 1 1 1", *lines, f"intr 1 {interrupts}", rest])
    files["proc/cpuinfo"] = "".join(
        f"processor\t: {n}\ncpu MHz\t: 2000.000\nflags\t: {'fpu vme ' * 150}\n\n" for n in range(cpus)
    )
    lay(base, files)
    return roots
