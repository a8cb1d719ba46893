"""The contestant llama.cpp, through llama-cpp-python's low-level calls, with the settings that are fastest here."""

import ctypes
import time

import numpy as np

from ..errors import KernelError
from .children import serve
from .prompts import prompts

BATCH = 512      # tokens computed at once, as in mlxr's default


class LlamaCpp:
    """A GGUF file in llama.cpp. Flash attention is tried on and off, for prompts and for generation, and the faster kept."""

    def __init__(self, model, pp, tg, depth, batch, threads, vocabulary):
        import llama_cpp as api

        self.api, self.pp, self.tg, self.depth, self.batch, self.threads = api, pp, tg, max(1, depth), batch, threads
        self.vocabulary = vocabulary
        self._silence = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._silence, None)
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 999 if api.llama_supports_gpu_offload() else 0
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise KernelError("it cannot load this file")
        self.words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.tokens = api.llama_batch_init(max(BATCH, batch), 0, 1)
        self.flash, self._filled = {}, {}
        self.reading = self._fastest("prefill", pp, self._read)
        self.writing = self._fastest("decode", self.depth + tg + 1, self._write)

    def info(self):
        return {"threads": self.threads, "flash_attention": self.flash, "n_batch": BATCH, "cache": "f16"}

    def prefill(self, seed):
        return self._read(self.reading, seed)

    def decode(self, seed):
        return self._write(self.writing, seed)

    def _fastest(self, what, context, measure):
        """The context, with flash attention or without, that measures less time; also warms up."""
        contexts = {on: self._context(context, on) for on in (False, True)}
        times = {on: [] for on in contexts}
        for seed in (-1, -2):
            for on, made in contexts.items():
                times[on].append(measure(made, seed)["seconds"])
        best = min(times, key=lambda on: min(times[on]))
        self.api.llama_free(contexts.pop(not best))
        self.flash[what] = best
        return contexts[best]

    def _context(self, tokens, flash):
        params = self.api.llama_context_default_params()
        params.n_ctx = -(-tokens // 256) * 256 * self.batch
        params.n_batch = params.n_ubatch = BATCH
        params.n_threads = params.n_threads_batch = self.threads
        params.n_seq_max, params.kv_unified = self.batch, True
        params.flash_attn_type = int(flash)
        made = self.api.llama_init_from_model(self.model, params)
        if not made:
            raise KernelError("it cannot make a context of that size")
        return made

    def _run(self, context, rows):
        """Compute rows (token, position, sequence, whether its logits are wanted), at most BATCH."""
        t = self.tokens
        t.n_tokens = len(rows)
        for i, (token, position, sequence, wanted) in enumerate(rows):
            t.token[i], t.pos[i], t.n_seq_id[i], t.seq_id[i][0], t.logits[i] = token, position, 1, sequence, wanted
        if self.api.llama_decode(context, t):
            raise KernelError("llama_decode failed")

    def _best(self, context, row):
        logits = self.api.llama_get_logits_ith(context, row)
        return int(np.ctypeslib.as_array(ctypes.cast(logits, ctypes.POINTER(ctypes.c_float)), (self.words,)).argmax())

    def _fill(self, context, seed, tokens):
        """Read a prompt into each sequence; the tokens that follow them."""
        following = []
        for s, prompt in enumerate(prompts(seed, self.batch, tokens, min(self.vocabulary, self.words))):
            for at in range(0, tokens, BATCH):
                part = prompt[at:at + BATCH]
                self._run(context, [(t, at + i, s, at + i == tokens - 1) for i, t in enumerate(part)])
            following.append(self._best(context, -1))
        return following

    def _read(self, context, seed):
        self._clear(context)
        start = time.perf_counter()
        self._fill(context, seed, self.pp)
        return {"tokens": self.batch * self.pp, "seconds": time.perf_counter() - start}

    def _write(self, context, seed):
        """The tokens before these are read once; what was generated is taken back each time."""
        if context in self._filled:
            for s in range(self.batch):
                self.api.llama_memory_seq_rm(self.api.llama_get_memory(context), s, self.depth, -1)
        else:
            self._filled[context] = self._fill(context, seed, self.depth)
        following = self._filled[context]
        start = time.perf_counter()
        for n in range(self.tg):
            self._run(context, [(t, self.depth + n, s, True) for s, t in enumerate(following)])
            following = [self._best(context, i) for i in range(self.batch)]
        return {"tokens": self.batch * self.tg, "seconds": time.perf_counter() - start}

    def _clear(self, context):
        self.api.llama_memory_clear(self.api.llama_get_memory(context), True)


if __name__ == "__main__":
    serve(LlamaCpp)
