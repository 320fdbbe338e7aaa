"""What each type of weights costs and changes: converts a model to every type and preset, measures.

    python benchmarks/quantization.py --svg docs/quantization.svg > table.md

By default the embedded model, and dialogues of the kind that it was trained on. The reference of
the divergence is the same file's weights as f32, which are multiplied with floats.
"""

from __future__ import annotations

import argparse
import math
import random
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import track

from starchat import StarChat
from starchat.convert.conversion import convert
from starchat.convert.ggml_writer import TYPES as BIN_TYPES
from starchat.convert.presets import PRESETS
from starchat.model import EMBEDDED
from starchat.perplexity import Divergence, measure

#: Without names that a preset has twice, as q4_k is q4_k_m.
NAMES = [*BIN_TYPES, "bf16", *(name for name in PRESETS if f"{name}_m" not in PRESETS)]
TRAINING = Path(__file__).resolve().parents[1] / "training/nano"
WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 640, 420, 64, 46, 18, 60


@dataclass(frozen=True)
class Row:
    """One type or preset."""

    name: str
    is_preset: bool
    bits: float  # for each weight, positions, norms and biases included
    perplexity: float
    against: Divergence


def dialogues(n: int, seed: int = 20_26) -> str:
    """Return questions and answers of the demonstration model's kind."""
    sys.path.insert(0, str(TRAINING))
    from dialogues import dialogue

    rng = random.Random(seed)
    texts = [content for _ in range(n) for _, content in dialogue(rng).messages if content]
    return "\n".join(texts)


def measured(file: str, text: str, n_ctx: int) -> list[Row]:
    """Return a row for every type and preset, the smallest first."""
    rows = []
    stderr = Console(stderr=True)
    with tempfile.TemporaryDirectory() as folder, ExitStack() as models:
        exact = str(Path(folder) / "reference.gguf")
        convert(file, exact, "f32")
        reference = models.enter_context(StarChat.load(exact, n_ctx=n_ctx))
        for name in track(NAMES, "measuring", console=stderr):
            path = str(Path(folder) / f"{name}.gguf")
            convert(file, path, name)
            with StarChat.load(path, n_ctx=n_ctx) as model:
                result = measure(model, text, n_ctx, reference)
                bits = 8 * model.info.weight_bytes / model.info.n_params
            Path(path).unlink()
            assert result.against
            rows.append(Row(name, name in PRESETS, bits, result.perplexity, result.against))
    return sorted(rows, key=lambda row: (row.bits, row.name))


def table(rows: list[Row]) -> str:
    """Return the rows in Markdown."""
    lines = [
        "| type | bits a weight | perplexity | KL mean | KL 95 % | KL max | same top token |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        kl = row.against
        lines.append(
            f"| {row.name} | {row.bits:.2f} | {row.perplexity:.4f} | {kl.kl_mean:.6f} | "
            f"{kl.kl_95:.5f} | {kl.kl_max:.4f} | {kl.same_top:.2%} |"
        )
    return "\n".join(lines)


def picture(rows: list[Row]) -> str:
    """Return size against divergence as SVG, upwards logarithmic; floats are left out."""
    rows = [row for row in rows if row.bits < 16]
    low = min(math.log10(row.against.kl_mean) for row in rows)
    high = max(math.log10(row.against.kl_mean) for row in rows)
    low, high = math.floor(low), math.ceil(high)
    left, right = min(row.bits for row in rows) - 0.3, max(row.bits for row in rows) + 0.3

    def place(bits: float, log_kl: float) -> tuple[float, float]:
        x = LEFT + (bits - left) / (right - left) * (WIDTH - LEFT - RIGHT)
        return x, TOP + (high - log_kl) / (high - low) * (HEIGHT - TOP - BOTTOM)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="sans-serif" font-size="11">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
    ]
    for power in range(low, high + 1):
        x, y = place(left, power)
        parts.append(f'<path d="M{x:.0f} {y:.1f}H{WIDTH - RIGHT}" stroke="#ddd"/>')
        parts.append(f'<text x="{x - 6:.0f}" y="{y + 4:.1f}" text-anchor="end">1e{power}</text>')
    for bits in range(math.ceil(left), math.floor(right) + 1):
        x, y = place(bits, low)
        parts.append(f'<path d="M{x:.1f} {TOP}V{y:.0f}" stroke="#ddd"/>')
        parts.append(f'<text x="{x:.1f}" y="{y + 16:.0f}" text-anchor="middle">{bits}</text>')
    dots = {row: place(row.bits, math.log10(row.against.kl_mean)) for row in rows}
    taken = [(x - 4, x + 4, y) for x, y in dots.values()]  # left, right, middle
    for row, (x, y) in sorted(dots.items(), key=lambda item: item[1][1]):
        colour = "#d62728" if row.is_preset else "#1f5fb4"
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>')
        width = 6.5 * len(row.name)
        places = [(left, y + dy) for dy in (0, -10, 10, 20) for left in (x + 6, x - 6 - width)]
        left, middle = next(
            (each for each in places if _is_free(*each, width, taken)),
            places[0],
        )
        taken.append((left, left + width, middle))
        parts.append(f'<text x="{left:.1f}" y="{middle + 4:.1f}" fill="{colour}">{row.name}</text>')
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(f'<text x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">bits a weight</text>')
    parts.append(
        f'<text transform="translate(14 {HEIGHT / 2}) rotate(-90)" text-anchor="middle">'
        "mean KL divergence, nats</text>"
    )
    return "\n".join([*parts, "</svg>", ""])


def _is_free(
    left: float, middle: float, width: float, taken: list[tuple[float, float, float]]
) -> bool:
    return not any(
        left < right and other < left + width and abs(middle - height) < 9
        for other, right, height in taken
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", nargs="?", default=EMBEDDED)
    parser.add_argument("--text", type=Path)
    parser.add_argument("--ctx", type=int, default=512)
    parser.add_argument("--svg", type=Path)
    options = parser.parse_args()
    text = options.text.read_text("utf-8") if options.text else dialogues(100)
    rows = measured(options.file, text, options.ctx)
    print(table(rows))
    if options.svg:
        options.svg.write_text(picture(rows))


if __name__ == "__main__":
    main()
