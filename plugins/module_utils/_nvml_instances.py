# Copyright: the esnode authors
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""MIG: what profiles a GPU has, what instances are on it, and how to make and unmake them."""

from __future__ import annotations

import ctypes
import dataclasses
import typing as t

from .nvml import INVALID_ARGUMENT, NOT_FOUND, Gpu, NvmlError, text

_GPU_PROFILES, _COMPUTE_PROFILES = 20, 9  # more than there are; those that a driver doesn't know it refuses


@dataclasses.dataclass(frozen=True)
class Profile:
    """A kind of GPU or compute instance; `count` is how many of it there can be."""

    id: int
    name: str
    count: int
    slices: int


@dataclasses.dataclass
class Instance:
    """A GPU instance and its compute instances by profile name.

    `start` and `size` are in memory slices; a start of -1 leaves the place to the driver.
    """

    profile: str
    compute: list[str]
    start: int = -1
    size: int = 0
    id: int = -1
    handle: t.Any = None

    def unit(self) -> tuple[str, tuple[str, ...]]:
        """What makes two of them alike."""
        return self.profile, tuple(sorted(self.compute))

    def as_state(self) -> dict[str, t.Any]:
        return {
            "profile": self.profile,
            "compute": sorted(self.compute),
            **({"start": self.start} if self.start >= 0 else {}),
        }


def _plain(name: t.Any) -> str:
    """Drivers may write C(MIG 3g.40gb) for what everybody calls 3g.40gb."""
    word = text(name).strip().lower()
    return word[4:] if word.startswith("mig ") else word


def profiles(gpu: Gpu) -> dict[str, Profile]:
    """The profiles of GPU instances that this GPU has, by name."""
    found: dict[str, Profile] = {}
    for number in range(_GPU_PROFILES):
        info = _ask(gpu, "nvmlDeviceGetGpuInstanceProfileInfo", gpu.handle, number)
        if info is not None:
            profile = Profile(info.id, _plain(info.name), info.instanceCount, info.sliceCount)
            found.setdefault(profile.name, profile)
    return found


def profile_of(gpu: Gpu, name: str, known: dict[str, Profile]) -> Profile:
    """The profile of this name among those that the driver tells now; it may have told another lot a moment ago."""
    if name not in known:
        told = ", ".join(sorted(known)) or "none"
        raise gpu.refused(f"the driver does not tell of the MIG profile {name!r}; it tells of {told}")
    return known[name]


def compute_profiles(gpu: Gpu, handle: t.Any) -> dict[str, Profile]:
    """The profiles of compute instances that fit into a GPU instance, by name."""
    found: dict[str, Profile] = {}
    for number in range(_COMPUTE_PROFILES):
        info = _ask(gpu, "nvmlGpuInstanceGetComputeInstanceProfileInfo", handle, number, 0)
        if info is not None:
            profile = Profile(info.id, _plain(info.name), info.instanceCount, info.sliceCount)
            found.setdefault(profile.name, profile)
    return found


def instances(gpu: Gpu) -> list[Instance]:
    """What is on the GPU, by placement; [] while MIG mode is off."""
    found = []
    for profile in profiles(gpu).values():
        for handle in _handles(gpu, "nvmlDeviceGetGpuInstances", "c_nvmlGpuInstance_t", gpu.handle, profile):
            info = _call(gpu, "nvmlGpuInstanceGetInfo", handle)
            compute = []
            for kind in compute_profiles(gpu, handle).values():
                computing = _handles(gpu, "nvmlGpuInstanceGetComputeInstances", "c_nvmlComputeInstance_t", handle, kind)
                compute += [kind.name] * len(computing)
            found.append(Instance(profile.name, compute, info.placement.start, info.placement.size, info.id, handle))
    return sorted(found, key=lambda each: each.start)


def devices(gpu: Gpu) -> list[dict[str, t.Any]]:
    """The MIG devices that programs see: [{uuid, name?, gpu_instance_id, compute_instance_id}]."""
    found = []
    for index in range(gpu.ask("nvmlDeviceGetMaxMigDeviceCount") or 0):
        handle = _ask(gpu, "nvmlDeviceGetMigDeviceHandleByIndex", gpu.handle, index)
        if handle is None:
            continue
        found.append(
            {
                "uuid": text(_call(gpu, "nvmlDeviceGetUUID", handle)),
                "gpu_instance_id": int(_call(gpu, "nvmlDeviceGetGpuInstanceId", handle)),
                "compute_instance_id": int(_call(gpu, "nvmlDeviceGetComputeInstanceId", handle)),
            }
        )
    return found


def place(gpu: Gpu, wanted: list[Instance], taken: list[Instance]) -> list[Instance] | None:
    """`wanted` with a place for each beside what is `taken`, or None when they don't fit. Nothing is made."""
    known = profiles(gpu)
    choices = {each.profile: placements(gpu, profile_of(gpu, each.profile, known)) for each in wanted}
    order = sorted(wanted, key=lambda each: (-known[each.profile].slices, len(choices[each.profile]), each.profile))
    occupied = [(each.start, each.start + each.size) for each in taken]
    found: list[Instance] = []

    def fits(at: int) -> bool:
        if at == len(order):
            return True
        each = order[at]
        # From the end for small ones, so that the large keep their places at the start.
        spots = choices[each.profile] if each.start < 0 else [(each.start, each.size)]
        for start, size in spots if known[each.profile].slices > 2 else reversed(spots):
            if any(start < high and low < start + size for low, high in occupied):
                continue
            occupied.append((start, start + size))
            found.append(dataclasses.replace(each, start=start, size=size))
            if fits(at + 1):
                return True
            occupied.pop()
            found.pop()
        return False

    return found if fits(0) else None


def create(gpu: Gpu, instance: Instance) -> None:
    """Make a placed instance and its compute instances; what was made of it is taken away when one of them fails."""
    profile = profile_of(gpu, instance.profile, profiles(gpu))
    kind = gpu.session.type("c_nvmlGpuInstancePlacement_t")
    placement = kind(instance.start, instance.size)
    handle = gpu.set("nvmlDeviceCreateGpuInstanceWithPlacement", profile.id, ctypes.byref(placement))
    made = dataclasses.replace(instance, handle=handle)
    try:
        kinds = compute_profiles(gpu, handle)
        for name in instance.compute:
            if name not in kinds:
                raise gpu.refused(
                    f"{instance.profile} takes compute instances {', '.join(sorted(kinds))}; not {name!r}"
                )
            _call(gpu, "nvmlGpuInstanceCreateComputeInstance", handle, kinds[name].id)
    except NvmlError as error:
        try:
            destroy(gpu, made)
        except NvmlError as another:
            raise NvmlError(f"{error}; and what was made could not be taken away: {another}", error.code) from error
        raise


def destroy(gpu: Gpu, instance: Instance) -> None:
    """Take an instance away with its compute instances."""
    for kind in compute_profiles(gpu, instance.handle).values():
        name = "nvmlGpuInstanceGetComputeInstances"
        for computing in _handles(gpu, name, "c_nvmlComputeInstance_t", instance.handle, kind):
            _call(gpu, "nvmlComputeInstanceDestroy", computing)
    _call(gpu, "nvmlGpuInstanceDestroy", instance.handle)


def placements(gpu: Gpu, profile: Profile) -> list[tuple[int, int]]:
    count = ctypes.c_uint()
    function = "nvmlDeviceGetGpuInstancePossiblePlacements"
    gpu.get(function, profile.id, None, ctypes.byref(count))
    spots = (gpu.session.type("c_nvmlGpuInstancePlacement_t") * count.value)()
    if count.value:
        gpu.get(function, profile.id, spots, ctypes.byref(count))
    return sorted((spot.start, spot.size) for spot in spots[: count.value])


def _handles(gpu: Gpu, function: str, kind: str, parent: t.Any, profile: Profile) -> list[t.Any]:
    room = (gpu.session.type(kind) * max(profile.count, 1))()
    count = ctypes.c_uint(profile.count)
    if _ask(gpu, function, parent, profile.id, room, ctypes.byref(count)) is None:
        return []
    # A pointer taken from an array points into the array: copy it.
    return [gpu.session.type(kind).from_buffer_copy(room[at]) for at in range(count.value)]


def _call(gpu: Gpu, function: str, *args: t.Any) -> t.Any:
    """A call whose first argument is not the GPU's own handle."""
    try:
        return gpu.session.call(function, *args)
    except NvmlError as error:
        raise gpu.refused(str(error), error.code, function) from error


def _ask(gpu: Gpu, function: str, *args: t.Any) -> t.Any:
    try:
        return _call(gpu, function, *args)
    except NvmlError as error:
        if error.absent or error.code in (INVALID_ARGUMENT, NOT_FOUND):
            return None
        raise
