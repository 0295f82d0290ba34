"""The radio between simulated drones and the ground: one UDP socket that may lose packets."""

from __future__ import annotations

import heapq
import itertools
import random
import socket
import time
from dataclasses import dataclass

LONGEST_QUEUE = 5000    # datagrams that wait each way


@dataclass
class RadioFaults:
    """Each way, at once. Times are wall seconds, as of a real radio.

    silent_until : time.monotonic() to which nothing passes
    loss : share of datagrams that vanish
    delay_s : of every datagram
    reorder : share of datagrams that are overtaken by those of the next 50 ms
    """

    silent_until: float = 0.0
    loss: float = 0.0
    delay_s: float = 0.0
    reorder: float = 0.0

    @property
    def perfect(self) -> bool:
        return not (self.silent_until or self.loss or self.delay_s or self.reorder)


class Radio:
    """remotes : (host, port) pairs that everything is sent to"""

    def __init__(self, sock: socket.socket, remotes, seed: int = 0):
        self._socket, self._remotes = sock, tuple(remotes)
        self.faults = RadioFaults()
        self._random = random.Random(seed)
        self._number = itertools.count()
        self._waiting: dict[str, list] = {"out": [], "in": []}

    def send(self, packet: bytes) -> None:
        if self.faults.perfect:
            self._put(packet)
        else:
            self._queue("out", packet)

    def receive(self) -> list[bytes]:
        """What has arrived; also sends what was delayed."""
        arrived = []
        for _ in range(200):
            try:
                data, _ = self._socket.recvfrom(2048)
            except (BlockingIOError, ConnectionRefusedError):
                break
            if self.faults.perfect:
                arrived.append(data)
            else:
                self._queue("in", data)
        for packet in self._due("out"):
            self._put(packet)
        return arrived + self._due("in")

    def _put(self, packet: bytes) -> None:
        for remote in self._remotes:
            try:
                self._socket.sendto(packet, remote)
            except (BlockingIOError, ConnectionRefusedError):
                pass    # nobody listens yet, or they are slow: UDP loses it, as on a radio

    def _queue(self, way: str, packet: bytes) -> None:
        faults, now = self.faults, time.monotonic()
        if now < faults.silent_until or self._random.random() < faults.loss \
                or len(self._waiting[way]) >= LONGEST_QUEUE:
            return
        late = self._random.random() < faults.reorder
        release = now + faults.delay_s + (self._random.uniform(0, 0.05) if late else 0.0)
        heapq.heappush(self._waiting[way], (release, next(self._number), packet))

    def _due(self, way: str) -> list[bytes]:
        queue, now, due = self._waiting[way], time.monotonic(), []
        while queue and queue[0][0] <= now:
            due.append(heapq.heappop(queue)[2])
        return due
