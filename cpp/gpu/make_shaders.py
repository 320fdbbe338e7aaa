"""Write shaders.inc: the SPIR-V of shaders/*.comp, so that a build needs no compiler of shaders.

Every float operation gets the decoration NoContraction: drivers may otherwise fuse or split it
(glslang gives fma() none, whatever is `precise`). spirv-opt is not run: it has rules that make fma
of multiplications and additions.
Run `python cpp/gpu/make_shaders.py`; it needs glslangValidator 12. With --check it only compares.
"""

import subprocess
import sys
import tempfile
from array import array
from pathlib import Path

COLUMNS = 100
HERE = Path(__file__).parent
TARGET = HERE / "shaders.inc"
HEADER_WORDS = 5
# Opcodes of SPIR-V.
EXT_INST_IMPORT, EXT_INST, DECORATE, LAST_ANNOTATION = 11, 12, 71, 75
FLOAT_OPERATIONS = {129, 131, 133, 136}  # add, sub, mul, div
FMA = 50  # of GLSL.std.450
NO_CONTRACTION = 42


def compiled(source: Path) -> list[int]:
    """Return the words of a shader."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "shader.spv"
        command = ["glslangValidator", "-V", "--target-env", "vulkan1.2", "-g0", "-o", str(target)]
        subprocess.run([*command, str(source)], check=True, stdout=subprocess.PIPE)
        return array("I", target.read_bytes()).tolist()


def decorated(words: list[int]) -> list[int]:
    """Return the words with NoContraction on every float operation."""
    results, end_of_annotations, at = [], 0, HEADER_WORDS
    while at < len(words):
        length, opcode = words[at] >> 16, words[at] & 0xFFFF
        is_fma = opcode == EXT_INST and words[at + 4] == FMA
        if opcode in FLOAT_OPERATIONS or is_fma:
            results.append(words[at + 2])
        at += length
        if DECORATE <= opcode <= LAST_ANNOTATION:
            end_of_annotations = at
    decorations = [w for i in results for w in (3 << 16 | DECORATE, i, NO_CONTRACTION)]
    return words[:end_of_annotations] + decorations + words[end_of_annotations:]


def generated() -> str:
    """Return the text of shaders.inc."""
    lines = ["// Made by make_shaders.py of shaders/*.comp: SHADER(name, words of SPIR-V)."]
    for source in sorted((HERE / "shaders").glob("*.comp")):
        lines.append(f"SHADER({source.stem},")
        line = ""
        words = decorated(compiled(source))
        for i, word in enumerate(words):
            text = f"{word}," if i + 1 < len(words) else f"{word})"
            if len(line) + len(text) > COLUMNS:
                lines.append(line)
                line = ""
            line += text
        lines.append(line)
    return "\n".join(lines) + "\n"


def main() -> int:
    """Write the file, or say whether it is what the shaders give."""
    text = generated()
    if "--check" not in sys.argv:
        TARGET.write_text(text)
        return 0
    if TARGET.read_text() == text:
        return 0
    print(f"{TARGET} is not of these shaders: run python {Path(__file__)}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
