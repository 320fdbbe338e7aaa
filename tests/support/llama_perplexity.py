"""The perplexity of a text by llama.cpp's own logits, for comparison: python FILE.gguf TEXT N_CTX.

Needs llama-cpp-python (0.3.36 gave the numbers in test_perplexity.py) and numpy, not starchat. The
windows are those of llama.cpp's `perplexity` program.
"""

from __future__ import annotations

import math
import sys
from pathlib import Path

import numpy as np
from llama_cpp import Llama

path, text, n_ctx = sys.argv[1], Path(sys.argv[2]).read_bytes(), int(sys.argv[3])
llama = Llama(path, n_ctx=n_ctx, n_batch=n_ctx, n_ubatch=n_ctx, logits_all=True, verbose=False)
ids = llama.tokenize(text, add_bos=False, special=False)
surprises: list[float] = []
for start in range(0, len(ids) - n_ctx + 1, n_ctx):
    window = ids[start : start + n_ctx]
    llama.reset()
    llama.eval(window)
    logits = np.array(llama.scores[:n_ctx], np.float64)
    logits -= logits.max(axis=1, keepdims=True)
    log_p = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    surprises += [-log_p[i, window[i + 1]] for i in range(n_ctx // 2, n_ctx - 1)]
print(f"{len(ids)} tokens, {len(surprises)} scored: {math.exp(np.mean(surprises)):.6f}")
