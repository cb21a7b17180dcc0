"""What a zone offers: templates, instance types, zones; shaped after the real catalogue, with ids of its own.

Processors and memory of the GPU families are approximate; their numbers of cards are what the prices suggest.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterable
from typing import Any

NAMESPACE = uuid.UUID("6f2c8f0e-3a0b-4c86-9a55-0d1f4a6b7c11")
GIB = 1 << 30

# family, size, CPUs, GPUs, memory in MiB
_TYPES = """
standard micro 1 0 512
standard tiny 1 0 1024
standard small 2 0 2048
standard medium 2 0 4096
standard large 4 0 8192
standard extra-large 4 0 16384
standard huge 8 0 32768
standard mega 12 0 65536
standard titan 16 0 131072
cpu extra-large 8 0 16384
cpu huge 16 0 32768
memory extra-large 2 0 16384
memory huge 4 0 32768
memory mega 8 0 65536
storage huge 8 0 32768
gpu2 small 12 1 57344
gpu2 medium 16 2 92160
gpu2 large 24 3 122880
gpu2 huge 48 4 229376
gpu3 small 12 1 57344
gpu3 medium 24 2 122880
gpu3 large 48 4 229376
gpu3 huge 96 8 458752
gpua30 small 12 1 57344
gpua30 medium 16 2 92160
gpua30 large 24 3 122880
gpua30 huge 48 4 229376
gpua5000 small 12 1 57344
gpua5000 medium 24 2 122880
gpua5000 large 48 4 229376
gpu3080ti small 12 1 57344
gpu3080ti medium 24 2 122880
gpu3080ti large 48 4 229376
gpurtx6000pro small 12 1 122880
gpurtx6000pro medium 24 2 245760
gpurtx6000pro large 48 4 491520
gpurtx6000pro huge 96 8 983040
"""
_GPU_ZONES = {
    "gpu2": ["at-vie-1"],
    "gpu3": ["de-fra-1"],
    "gpua30": ["ch-gva-2"],
    "gpua5000": ["at-vie-2"],
    "gpu3080ti": ["at-vie-2"],
    "gpurtx6000pro": ["ch-dk-2", "de-fra-1", "hr-zag-1"],
}
# name, family, version, created-at; two of one name, as the real catalogue has them, the older one first
_TEMPLATES = [
    ("Linux Ubuntu 22.04 LTS 64-bit", "linux ubuntu", "22.04", "2026-02-11T09:12:31Z"),
    ("Linux Ubuntu 22.04 LTS 64-bit", "linux ubuntu", "22.04", "2026-10-06T08:40:12Z"),
    ("Linux Ubuntu 24.04 LTS 64-bit", "linux ubuntu", "24.04", "2026-10-06T08:41:55Z"),
    ("Linux Ubuntu 24.04 LTS 64-bit", "linux ubuntu", "24.04", "2026-05-19T07:02:09Z"),
    ("Linux Ubuntu 26.04 LTS 64-bit", "linux ubuntu", "26.04", "2026-10-06T08:43:20Z"),
    ("Linux Debian 12 (Bookworm) 64-bit", "linux debian", "12", "2026-09-02T10:00:00Z"),
    ("Linux Debian 13 (Trixie) 64-bit", "linux debian", "13", "2026-09-02T10:05:00Z"),
    ("Windows Server 2022", "windows server", "2022", "2026-08-14T12:30:00Z"),
]


def identity(*parts: str) -> str:
    """The same UUID for the same words, in every run."""
    return str(uuid.uuid5(NAMESPACE, "/".join(parts)))


def instance_types(zones: Iterable[str]) -> list[dict[str, Any]]:
    """All instance types of the cloud, the GPU ones with the zones that have them, `authorized` as if allowed."""
    zones = list(zones)
    types = []
    for line in _TYPES.strip().splitlines():
        family, size, cpus, gpus, memory_mib = line.split()
        entry: dict[str, Any] = {
            "id": identity("instance-type", family, size),
            "family": family,
            "size": size,
            "cpus": int(cpus),
            "memory": int(memory_mib) << 20,
            "authorized": True,
            "zones": _GPU_ZONES.get(family, zones),
        }
        if int(gpus):
            entry["gpus"] = int(gpus)
        types.append(entry)
    return types


def templates(zone: str) -> list[dict[str, Any]]:
    """The public templates of a zone; ids differ between zones, as they do in reality."""
    return [
        {
            "id": identity("template", zone, name, created),
            "name": name,
            "description": name,
            "family": family,
            "version": version,
            "build": created[:10],
            "created-at": created,
            "visibility": "public",
            "size": 10 * GIB,
            "boot-mode": "uefi",
            "default-user": "ubuntu" if "Ubuntu" in name else "debian" if "Debian" in name else "Administrator",
            "password-enabled": True,
            "ssh-key-enabled": True,
            "maintainer": "Exoscale",
            "zones": [zone],
        }
        for name, family, version, created in _TEMPLATES
    ]
