"""Time and peak memory of functions that are compared, side by side, on a GPU or on the CPU."""

import os
import platform
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from torch.profiler import ProfilerActivity, profile
from tqdm.auto import tqdm


PACKAGES = ("opefo_trl", "torch", "trl", "transformers", "accelerate", "peft")


@dataclass
class Peak:
    """Memory while a block runs, beyond what was held before it, filled when the block ends."""

    bytes: int = 0
    allocations: int = 0


@dataclass
class Cost:
    """
    What one of several compared functions took.

    Args:
        seconds (`list[float]`):
            One measurement per round.
        peak_bytes (`int`):
            Largest sum of the memory that it held at a time.
    """

    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0

    @property
    def quantiles(self) -> list[float]:
        """p20, p50 and p80 of the seconds."""
        return np.quantile(self.seconds, [0.2, 0.5, 0.8]).tolist()

    def ratio(self, baseline: "Cost") -> float:
        """Median over the rounds of this one's time against the baseline's in the same round."""
        return float(np.median(np.array(self.seconds) / np.array(baseline.seconds)))


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def peak_memory(device: torch.device) -> Iterator[Peak]:
    """
    Watches the memory of a block: on CUDA the allocator's own peak, on the CPU the profiler's list of all allocations.

    Args:
        device (`torch.device`):
            Whose memory.

    Yields:
        [`Peak`]: with its numbers once the block has ended. `allocations` are counted on the CPU alone.
    """
    peak = Peak()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        yield peak
        torch.cuda.synchronize(device)
        peak.bytes = torch.cuda.max_memory_allocated(device) - before
        return
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    events = [event for event in profiler.profiler.kineto_results.events() if event.name() == "[memory]"]
    held = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        held += event.nbytes()
        peak.bytes = max(peak.bytes, held)
        peak.allocations += event.nbytes() > 0


def compare(functions: dict[str, Callable[[], object]], device: torch.device, rounds: int) -> dict[str, Cost]:
    """
    Times functions in turn, A B C A B C …, so that a machine that slows down slows all of them down.

    Args:
        functions (`dict[str, Callable]`):
            What to run, by name.
        device (`torch.device`):
            Where they run.
        rounds (`int`):
            Measurements of each, after one run that warms up and measures the memory.

    Returns:
        `dict[str, Cost]`: by the same names.
    """
    costs = {name: Cost() for name in functions}
    for name, function in functions.items():
        function()
        with peak_memory(device) as peak:
            function()
        costs[name].peak_bytes = peak.bytes
    for _ in tqdm(range(rounds), "Rounds", leave=False):
        for name, function in functions.items():
            synchronize(device)
            start = time.perf_counter()
            function()
            synchronize(device)
            costs[name].seconds.append(time.perf_counter() - start)
    return costs


def describe(device: torch.device) -> dict[str, str]:
    """Names the device, its driver and the versions behind a measurement."""
    versions = {package: version(package) for package in PACKAGES} | {"python": platform.python_version()}
    if device.type == "cuda":
        query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
        driver = subprocess.run(query, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        name, cuda = torch.cuda.get_device_name(device), str(torch.version.cuda)
        return {"device": name, "driver": driver, "cuda": cuda} | versions
    models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    cores = f"{models[0].split(': ')[1]}, {torch.get_num_threads()} of {os.cpu_count()} cores"
    return {"device": cores} | versions
