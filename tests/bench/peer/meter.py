"""Time by phase and peak memory, on CPU and CUDA, without adding synchronisations inside a step."""

import time
from pathlib import Path

import torch


class Stopwatch:
    """Milliseconds between marks. On CUDA the marks are events, read after the step."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        self.marks = []

    def start(self):
        self.synchronise()
        self.marks = [(None, self.now())]

    def mark(self, phase):
        """Ends a phase; a phase that comes back adds up."""
        self.marks.append((phase, self.now()))

    def stop(self):
        """Synchronises; milliseconds of the whole step and by phase."""
        self.synchronise()
        phases = {}
        for (_, before), (phase, after) in zip(self.marks, self.marks[1:]):
            phases[phase] = phases.get(phase, 0.0) + self.between(before, after)
        return self.between(self.marks[0][1], self.marks[-1][1]), phases

    def now(self):
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def between(self, before, after):
        return before.elapsed_time(after) if self.cuda else (after - before) * 1e3

    def synchronise(self):
        if self.cuda:
            torch.cuda.synchronize()


def process_status(key):
    """A size from /proc/self/status in bytes; None where there is no such file."""
    try:
        lines = Path("/proc/self/status").read_text().splitlines()
    except OSError:
        return None
    sizes = [int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:")]
    return sizes[0] if sizes else None


class Memory:
    """Bytes before the model and at the peak: resident memory on CPU, the allocator's on CUDA."""

    def __init__(self, device):
        self.cuda = device == "cuda"
        if self.cuda:
            torch.cuda.reset_peak_memory_stats()
            self.base = torch.cuda.memory_allocated()
            return
        try:
            # Importing takes more for a moment than stays: begin the peak anew.
            Path("/proc/self/clear_refs").write_text("5")
        except OSError:
            pass
        self.base = process_status("VmRSS")

    def peak(self):
        return torch.cuda.max_memory_allocated() if self.cuda else process_status("VmHWM")
