#!/usr/bin/env python3
"""Loss against the bytes of the feed-forward that a token reads: plot.py OUT.svg TABLE, with TABLE what run.sh prints.

A dot is a seed, a line goes through their means. Routers count as bytes; a threshold on SiLU(gate) reads all gate rows first."""

import re
import sys
from collections import defaultdict
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 56, 236, 16, 44
COLOURS = ["#1f8a4c", "#7a5cc0", "#1b6ca8", "#a83279", "#c98a2b", "#8a8a8a"]
UNITS, HIDDEN, EXPERT = 352, 128, 16
ROUTERS = UNITS // EXPERT * HIDDEN / (3 * HIDDEN * UNITS)
PRUNED = 176


def place(name, density):
    """The curve that a row belongs to, and the share of the dense feed-forward's bytes that a token reads."""
    if name == "dense":
        return None, 1.0
    if name == "threshold":
        return "threshold, not trained", (1 + 2 * density) / 3
    if name.startswith("static-"):
        return "narrower model", density
    if name.startswith("pruned-"):
        return "half as wide, then experts", density * PRUNED / UNITS + ROUTERS / 2
    if name.endswith("-frozen"):
        return "experts, routers frozen", density + ROUTERS
    if name.endswith("-falling") and "frozen" not in name:
        return "experts, density that falls", density + ROUTERS
    if name in ("75", "50", "40", "30", "20", "10"):
        return "experts (the default)", density + ROUTERS
    return None, None


def rows(table):
    for line in Path(table).read_text(encoding="utf-8").splitlines():
        found = re.match(r"lte/(.+)-\d+(?:/model)? ([\d.]+) ([\d.]+)", line)
        if found:
            name, loss, density = found[1], float(found[2]), float(found[3]) / 100
            if name.startswith("static-"):
                density = {"75": 271, "50": 183, "40": 148, "30": 113, "20": 78, "10": 42}[name[7:]] / UNITS
            yield name, loss, density


def main():
    out, table = sys.argv[1:]
    curves, dense = defaultdict(lambda: defaultdict(list)), []
    for name, loss, density in rows(table):
        curve, share = place(name, density)
        if curve:
            curves[curve][name, round(density, 1) if name == "threshold" else 0].append((100 * share, loss))
        elif share == 1.0:
            dense.append(loss)
    base = sum(dense) / len(dense)
    means = {
        curve: sorted((sum(x for x, _ in dots) / len(dots), sum(y for _, y in dots) / len(dots), dots) for dots in points.values())
        for curve, points in curves.items()
    }
    low, high = base - 0.01, max(y for points in means.values() for _, _, dots in points for _, y in dots) + 0.01
    x = lambda share: LEFT + share / 100 * (WIDTH - LEFT - RIGHT)
    y = lambda loss: TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in range(int(low * 20) + 1, int(high * 20) + 1):
        at = y(tick / 20)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#444444">{tick / 20:.2f}</text>')
    for tick in range(0, 101, 20):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 24}" text-anchor="middle" fill="#444444">{tick} %</text>')
    parts.append(f'<text x="{x(50):.1f}" y="{HEIGHT - 6}" text-anchor="middle" fill="#444444">'
                 'feed-forward bytes that a token reads</text>')
    parts.append(f'<text transform="translate(14 {y((low + high) / 2):.1f}) rotate(-90)" text-anchor="middle" '
                 'fill="#444444">mean held-out loss, nats per token</text>')
    parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(base):.1f}" y2="{y(base):.1f}" stroke="#444444" '
                 'stroke-dasharray="4 3"/>')
    for index, (curve, points) in enumerate(sorted(means.items())):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x(share):.1f},{y(loss):.1f}" for share, loss, _ in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for _, _, dots in points:
            parts += [f'<circle cx="{x(share):.1f}" cy="{y(loss):.1f}" r="2.5" fill="{colour}"/>' for share, loss in dots]
        at = TOP + 14 + 18 * index
        parts.append(f'<line x1="{WIDTH - RIGHT + 14}" x2="{WIDTH - RIGHT + 34}" y1="{at - 4}" y2="{at - 4}" stroke="{colour}" stroke-width="2"/>')
        parts.append(f'<text x="{WIDTH - RIGHT + 40}" y="{at}" fill="{colour}">{curve}</text>')
    at = TOP + 14 + 18 * len(means)
    parts.append(f'<line x1="{WIDTH - RIGHT + 14}" x2="{WIDTH - RIGHT + 34}" y1="{at - 4}" y2="{at - 4}" stroke="#444444" stroke-dasharray="4 3"/>')
    parts.append(f'<text x="{WIDTH - RIGHT + 40}" y="{at}" fill="#444444">all units, trained as long</text>')
    parts.append("</svg>")
    Path(out).write_text("\n".join(parts) + "\n", encoding="utf-8")


main()
