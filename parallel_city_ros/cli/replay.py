"""`parallel-city replay`: what happened in a flight, from its log."""

from __future__ import annotations

import socket
import time
from pathlib import Path

import click

from parallel_city_ros.cli import options


@click.command()
@click.argument("log_file", metavar="LOG.jsonl|LOG.tlog", type=click.Path())
@click.option("--speed", type=click.FloatRange(0, 1000), default=0.0, show_default=True,
              help="Times as fast as it was; 0: all at once.")
@click.option("--send", metavar="HOST:PORT",
              help="Send the packets of a .tlog there, such as to QGroundControl at "
                   "127.0.0.1:14550.")
@options.json_option
def replay(log_file, speed, send, as_json):
    """Tell the story of a flight from the log that `fly --log NAME` wrote.

    \b
    parallel-city replay flight.jsonl
    parallel-city replay flight.tlog --send 127.0.0.1:14550 --speed 1
    """
    if Path(log_file).suffix == ".tlog":
        _packets(log_file, speed, send, as_json)
        return
    from parallel_city_ros.flight.log import read_lines
    entries = read_lines(log_file)
    if as_json:
        options.print_json(summary(entries))
        return
    state, before = None, entries[0]["time"]
    for entry in entries:
        told = _words(entry, state)
        state = entry.get("state", state)
        if speed:
            time.sleep(max(entry["time"] - before, 0) / speed)
        before = entry["time"]
        if told:
            click.echo(f"{entry['time'] - entries[0]['time']:8.1f} s  {told}")


def _words(entry, state) -> str:
    """One line for what is new in an entry; "" if nothing is."""
    kind = entry["kind"]
    if kind == "start":
        return f"plan {entry.get('plan')} on {entry.get('autopilot')}"
    if kind == "progress" and entry.get("state") != state:
        place = ", ".join("?" if v is None else f"{v:.0f}" for v in entry.get("position") or [])
        battery = entry.get("battery_percent")
        return f"{str(entry.get('state')).replace('_', ' ')} at ({place}) m" + (
            "" if battery is None else f", battery {battery:.0f} %")
    if kind == "breach":
        did = f", {entry['commanded']} commanded" if entry.get("commanded") else ""
        return f"guard: {entry.get('message')}{did}"
    if kind == "outcome":
        return f"{entry.get('status')}: {entry.get('message')}"
    return ""


def summary(entries) -> dict:
    """States with their times in s since the start, breaches, outcome."""
    began, states, state = entries[0]["time"], [], None
    for entry in entries:
        if entry["kind"] == "progress" and entry.get("state") != state:
            state = entry["state"]
            states.append({"state": state, "at_s": round(entry["time"] - began, 2)})
    outcome = next((e for e in entries if e["kind"] == "outcome"), None)
    return {"states": states, "reports": sum(e["kind"] == "progress" for e in entries),
            "breaches": [e for e in entries if e["kind"] == "breach"],
            "outcome": outcome and {k: v for k, v in outcome.items() if k not in ("time", "kind")}}


def _packets(log_file, speed, send, as_json):
    from pymavlink.dialects.v20 import common as mavlink

    from parallel_city_ros.errors import ConfigError
    from parallel_city_ros.flight.log import read_packets
    target = None
    if send:
        host, _, port = send.rpartition(":")
        if not (host and port.isdigit() and 0 < int(port) < 65536):
            raise ConfigError(f"--send must be HOST:PORT, is {send!r}")
        target = host, int(port)
    kinds, first, before = {}, None, None
    parser = mavlink.MAVLink(None)
    parser.robust_parsing = True
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        for stamp, packet in read_packets(log_file):
            first = stamp if first is None else first
            if speed and before is not None:
                time.sleep(max(stamp - before, 0) / speed)
            before = stamp
            if target:
                sock.sendto(packet, target)
            for message in parser.parse_buffer(packet) or ():
                kinds[message.get_type()] = kinds.get(message.get_type(), 0) + 1
                if message.get_type() == "STATUSTEXT" and not as_json:
                    click.echo(f"{stamp - first:8.1f} s  {message.text}")
    if first is None:
        raise ConfigError(f"{log_file}: holds no packet")
    if as_json:
        options.print_json({"duration_s": before - first, "messages": kinds})
    else:
        click.echo(f"{sum(kinds.values())} messages of {len(kinds)} kinds in "
                   f"{before - first:.1f} s")
