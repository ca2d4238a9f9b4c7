"""The lines of ledger.jsonl held against the table of their fields in ARCHITECTURE.md. Standard library only."""

import json
import os
import re

ARCHITECTURE = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "ARCHITECTURE.md")
TYPES = {**dict.fromkeys(("ok", "held"), bool), "launch": dict,
         **dict.fromkeys(("event", "time", "file", "why", "what", "dir"), str),
         **dict.fromkeys(("step", "generation", "bytes", "passed_over", "deferred", "steps", "saves", "failed", "exit",
                          "hosts", "of"), int)}  # all others are seconds


def fields():
    """event → the fields that its lines have."""
    with open(ARCHITECTURE) as file:
        section = file.read().partition("| event | fields |")[2].partition("\n\n")[0]
    rows = [line.split("|") for line in section.splitlines() if line.startswith("| ") and "---" not in line]
    table = {}
    for _, events, cells, *_ in rows:
        for event in re.findall(r"`(\w+)`", events) or ["every line"]:
            table[event] = set(re.findall(r"`(\w+)`", cells))
    common = table.pop("every line")
    return {event: common | names for event, names in table.items()}


def lines(run_dir):
    with open(os.path.join(run_dir, "ledger.jsonl")) as file:
        return [json.loads(line) for line in file]


def trouble(run_dir):
    """What is wrong with a run's ledger, and the events that it has."""
    table, found, events = fields(), [], []
    passed = {}
    for number, line in enumerate(lines(run_dir), 1):
        event = line.get("event")
        events.append(event)
        if set(line) != table.get(event):
            found.append("line %d has other fields than the table: %s" % (number, line))
            continue
        for name, value in line.items():
            wanted = TYPES.get(name, float)
            if not isinstance(value, wanted) or wanted is int and isinstance(value, bool):
                found.append("line %d: %s is %r" % (number, name, value))
            elif wanted in (int, float) and value < 0:
                found.append("line %d: %s is below 0" % (number, name))
        if line["at"] < passed.get(line["generation"], 0):
            found.append("line %d lies before the one above it" % number)
        passed[line["generation"]] = line["at"]
    return found, events
