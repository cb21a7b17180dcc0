"""The addresses that a machine sees, in QEMU's user networking, and whose port answers on this one's loopback.

The whole network is link-local, so that QEMU can answer at the metadata address of Exoscale.
"""

NETWORK = "169.254.0.0/16"
HOST = "169.254.0.2"
NAMES = "169.254.0.3"
FIRST = "169.254.0.15"
METADATA = "169.254.169.254"
REGISTRY = "169.254.169.253"
