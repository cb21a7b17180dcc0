"""Addresses of instances: one each in 127.0.0.0/8, kept apart from every other simulator on this machine."""

from __future__ import annotations

import random
import socket

PORTS = (11434, 11435)  # Ollama's and nginx's


class Addresses:
    """Hands out addresses; each is held by a bound UDP socket, so that no second simulator takes it."""

    def __init__(self) -> None:
        self._held: list[socket.socket] = []

    def take(self) -> str:
        """A fresh address whose ports are free."""
        for _ in range(1000):
            address = f"127.{random.randint(64, 126)}.{random.randint(0, 255)}.{random.randint(1, 254)}"
            held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            try:
                held.bind((address, PORTS[1]))
                for port in PORTS:
                    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
                        probe.bind((address, port))
            except OSError:
                held.close()
                continue
            self._held.append(held)
            return address
        raise RuntimeError("no free address in 127.0.0.0/8: Linux answers on all of them, other systems may not")

    def close(self) -> None:
        """Give all of them back."""
        for held in self._held:
            held.close()
        self._held.clear()
