"""What a model takes of memory beside what was foretold: `starchat inspect` says the latter.

    python benchmarks/memory.py santacoder.bin

Loads a file by itself, fills the context with a random prompt, then again with another one, so that
the prefix cache is full, too. Linux only.
"""

from __future__ import annotations

import argparse
import random
import resource
from pathlib import Path

import starchat.model
from starchat import StarChat, _core


def resident_bytes() -> int:
    """Return what the process has in memory now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


def peak_bytes() -> int:
    """Return the most that the process ever had in memory."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def main() -> None:
    """Print one line of a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("file", nargs="?", default=starchat.model.EMBEDDED)
    parser.add_argument("--ctx", type=int)
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args()
    settings = {"n_ctx": options.ctx or 0, "n_threads": options.threads}
    need = _core.inspect(options.file, compare=False, **settings)["memory"]["total"]
    with StarChat.load(n_threads=1) as model:  # what every process has
        model.complete("a", max_tokens=1)
    before = resident_bytes()
    with StarChat.load(options.file, n_ctx=options.ctx, n_threads=options.threads) as model:
        loaded = peak_bytes() - before
        for seed in range(2):
            choose = random.Random(seed)
            prompt = [choose.randrange(model.info.n_vocab) for _ in range(model.info.n_ctx - 2)]
            model.complete(prompt, max_tokens=1, temperature=0, ignore_eos=True)
        peak = peak_bytes() - before
        print(
            f"{model.info}\nforetold {need / 1e6:,.1f} MB, measured {peak / 1e6:,.1f} MB "
            f"({peak / need:.3f}); {loaded / 1e6:,.1f} MB of them by loading"
        )


if __name__ == "__main__":
    main()
