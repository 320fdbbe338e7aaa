"""What this machine has, and what it can do at best: measured, in base units."""

from typing import Any

def instruction_sets() -> list[str]:
    """Return those that this machine can run, the best last."""

def read_bandwidth(n_threads: int, size_bytes: int) -> float:
    """Measure the bytes per second that threads read from memory together."""

def multiply_peak(isa: str, operands: str, n_threads: int = 1) -> float:
    """Measure multiply-adds per second, operands ("int8" or "f32") in registers."""

def gpu_devices() -> list[dict[str, Any]]:
    """Return the devices that Vulkan finds, usable or not: "refusal" says why, "" if usable.

    Raises UnsupportedFeatureError without Vulkan or a driver.
    """

def clock_hz() -> float:
    """Measure the cycles per second of one busy core."""

def cpu_quota(root: str = "") -> float | None:
    """Return the cores that control groups allow this process, None without a limit.

    Their files are read below the folder `root`.
    """

def free_memory(root: str = "") -> tuple[int, str] | None:
    """Return the bytes that this process can still take, and what says so; None: nothing does.

    Files of the system are read below the folder `root`.
    """
