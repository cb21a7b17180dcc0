"""The user-data in a real machine: Debian, systemd, cloud-init, Docker and nginx in QEMU, behind the simulated API.

`nox -s boot` runs it. image.py makes the disk, ollama.py the container image, machine.py runs QEMU in the place of the
simulator's processes, gateway.py is what the machine finds at Exoscale's metadata address and at Docker's registry.
Needs root (debootstrap) and Debian's qemu-system-x86, qemu-utils and debootstrap, which the session installs.
"""
