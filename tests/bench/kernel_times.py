#!/usr/bin/env python3
"""Sums ncu's raw CSV (`--metrics gpu__time_duration.sum --csv --page raw --print-units base`) on stdin by kernel."""

import csv
import re
import sys

METRIC = "gpu__time_duration.sum"
MOST = 40


def rows(lines):
    """The CSV among whatever else the program printed."""
    header = next((index for index, line in enumerate(lines) if line.startswith('"ID"')), None)
    return [] if header is None else csv.DictReader(line for line in lines[header:] if line.startswith('"'))


def short(name):
    """Without return type, template and function arguments, which make one kernel look like hundreds."""
    name = re.sub(r"\(anonymous namespace\)::", "", name)
    operation = re.search(r"\w*(?:[Ff]unctor|_kernel_cuda|_kernel_impl)\w*", name)
    base = re.split(r"[<(]", name.removeprefix("void "), maxsplit=1)[0]
    return f"{base} [{operation.group(0)}]" if operation and operation.group(0) not in base else base


def main():
    times = {}
    for row in rows(sys.stdin.read().splitlines()):
        try:
            nanoseconds = float(row[METRIC].replace(",", ""))
        except (KeyError, TypeError, ValueError):
            continue  # the line of units
        times.setdefault(short(row["Kernel Name"]), []).append(nanoseconds)
    if not times:
        sys.exit(1)
    total = sum(map(sum, times.values()))
    print(f"{sum(map(len, times.values()))} kernels, {total / 1e6:.1f} ms")
    for name, found in sorted(times.items(), key=lambda item: -sum(item[1]))[:MOST]:
        print(f"{sum(found) / 1e6:10.2f} ms {100 * sum(found) / total:5.1f} % {len(found):6d} x  {name}")


if __name__ == "__main__":
    main()
