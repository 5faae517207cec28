#!/usr/bin/env python3
"""Held-out loss against tokens of runs beside each other: plot.py OUT.svg NAME=RUN... with RUN a folder that has metrics.jsonl.

Evaluations right after a cut are off the scale and left out; tokens of masks that were learned before count (NAME@TOKENS=RUN)."""

import json
import sys
from pathlib import Path

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 720, 400, 56, 190, 16, 44
COLOURS = ["#8a8a8a", "#1b6ca8", "#c98a2b", "#1f8a4c", "#a83279", "#5b4bb7"]
MOST = 3.5  # nats


def curve(argument):
    name, run = argument.split("=", 1)
    name, _, before = name.partition("@")
    lines = (Path(run) / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    points = [(r["tokens"] + float(before or 0), r["mean_loss"]) for r in records if r["type"] == "eval"]
    return name, [(tokens / 1e6, loss) for tokens, loss in points if loss <= MOST]


def main():
    out, *arguments = sys.argv[1:]
    curves = [curve(argument) for argument in arguments]
    losses = [loss for _, points in curves for _, loss in points]
    low, high = min(losses) - 0.05, max(losses) + 0.05
    most = max(tokens for _, points in curves for tokens, _ in points)
    x = lambda tokens: LEFT + tokens / most * (WIDTH - LEFT - RIGHT)
    y = lambda loss: TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
    ]
    for tick in range(int(low * 10) + 1, int(high * 10) + 1):
        at = y(tick / 10)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" stroke="#e4e4e4"/>')
        parts.append(f'<text x="{LEFT - 8}" y="{at + 4:.1f}" text-anchor="end" fill="#444444">{tick / 10:.1f}</text>')
    for tick in range(0, int(most) + 1, 2):
        parts.append(f'<text x="{x(tick):.1f}" y="{HEIGHT - 24}" text-anchor="middle" fill="#444444">{tick}</text>')
    parts.append(f'<text x="{x(most / 2):.1f}" y="{HEIGHT - 6}" text-anchor="middle" fill="#444444">million tokens</text>')
    parts.append(f'<text transform="translate(14 {y((low + high) / 2):.1f}) rotate(-90)" text-anchor="middle" '
                 'fill="#444444">mean held-out loss, nats per token</text>')
    labels = sorted((y(points[-1][1]), index) for index, (_, points) in enumerate(curves))
    places, last = {}, -99.0
    for at, index in labels:  # no label on another
        last = max(at, last + 15)
        places[index] = last
    for index, (name, points) in enumerate(curves):
        colour = COLOURS[index % len(COLOURS)]
        path = " ".join(f"{x(tokens):.1f},{y(loss):.1f}" for tokens, loss in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x(tokens):.1f}" cy="{y(loss):.1f}" r="2.5" fill="{colour}"/>' for tokens, loss in points]
        tokens, loss = points[-1]
        parts.append(f'<text x="{x(tokens) + 8:.1f}" y="{places[index] + 4:.1f}" fill="{colour}">{name} {loss:.3f}</text>')
    parts.append("</svg>")
    Path(out).write_text("\n".join(parts) + "\n", encoding="utf-8")


main()
