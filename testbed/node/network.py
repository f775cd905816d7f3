"""The node's own network: a namespace, a link to this machine, and routes to its pods and Services."""

from __future__ import annotations

import ipaddress
import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

from testbed.errors import BedError
from testbed.journal import note

NUM_SLOTS = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Slot:
    """One of the `NUM_SLOTS` beds that may run side by side: each has its own names and address ranges."""

    number: int

    @property
    def name(self) -> str:
        """Of the namespace, the control group and the pod network."""
        return f"proa-bed-{self.number}"

    @property
    def link(self) -> str:
        """This machine's end of the link."""
        return f"proabed{self.number}"

    @property
    def host(self) -> str:
        """This machine's address, as pods see it."""
        return f"10.240.{self.number}.1"

    @property
    def node(self) -> str:
        """The node's address: API server, kubelet."""
        return f"10.240.{self.number}.2"

    @property
    def services(self) -> str:
        """Range of Service addresses."""
        return f"10.{96 + self.number}.0.0/16"

    @property
    def pods(self) -> str:
        """Range of pod addresses."""
        return f"10.{112 + self.number}.0.0/16"

    @property
    def enter(self) -> tuple[str, ...]:
        """Words that start a program in the namespace; `ip netns exec` would hide the control groups."""
        return ("nsenter", f"--net=/run/netns/{self.name}")


def free_slots() -> list[Slot]:
    """Slots that no bed holds and whose ranges this machine routes nowhere else."""
    return [slot for slot in (Slot(number=n) for n in range(NUM_SLOTS)) if not _is_taken(slot)]


def take_slot(run: Path) -> Slot:
    """Make the namespace and the link of a free slot; raises BedError when there is none or a step is refused."""
    for slot in free_slots():
        if subprocess.run(["ip", "netns", "add", slot.name], capture_output=True, check=False, timeout=10).returncode:
            continue  # another bed was quicker
        note(run, "network", slot.name)
        _connect(slot)
        return slot
    raise BedError(f"no address range is free for a node: stop one of the {NUM_SLOTS} beds with `make cluster-down`")


def _connect(slot: Slot) -> None:
    _ip("link", "add", slot.link, "type", "veth", "peer", "name", "eth0", "netns", slot.name)
    _ip("address", "add", f"{slot.host}/30", "dev", slot.link)
    _ip("link", "set", slot.link, "up")
    inside = ("-netns", slot.name)
    _ip(*inside, "address", "add", f"{slot.node}/30", "dev", "eth0")
    for device in ("lo", "eth0"):
        _ip(*inside, "link", "set", device, "up")
    _ip(*inside, "route", "add", "default", "via", slot.host)
    for target in (slot.services, slot.pods):
        _ip("route", "add", target, "via", slot.node)
    _run(*slot.enter, "sysctl", "-qw", "net.ipv4.ip_forward=1")


def _is_taken(slot: Slot) -> bool:
    wanted = [ipaddress.IPv4Network(text, strict=False) for text in (slot.services, slot.pods, f"{slot.host}/30")]
    return Path("/run/netns", slot.name).exists() or any(a.overlaps(b) for a in wanted for b in _routed())


def _routed() -> list[ipaddress.IPv4Network]:
    routes = json.loads(_run("ip", "-json", "-4", "route", "show"))
    targets = [route["dst"] for route in routes if route["dst"] != "default"]
    return [ipaddress.IPv4Network(target, strict=False) for target in targets]


def _ip(*words: str) -> None:
    _run("ip", *words)


def _run(*argv: str) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False)
    if done.returncode:
        raise BedError(f"{' '.join(argv)}: {done.stderr.strip()}")
    return done.stdout
