"""The contestant llama.cpp, through llama-cpp-python's low-level calls, with the settings that are fastest here."""

import ctypes
import time

import numpy as np

from ..errors import KernelError
from .children import serve
from .machine import check_cache
from .prompts import CONTEXT, prompts

BATCH = 512      # tokens computed at once, as in mlxr's default


class LlamaCpp:
    """A GGUF file in llama.cpp. Flash attention is tried on and off in each cell, for prompts and for generation, and the faster kept."""

    def __init__(self, model, threads, vocabulary):
        import llama_cpp as api

        self.api, self.threads, self.vocabulary = api, threads, vocabulary
        self._silence = api.llama_log_callback(lambda *_: None)
        api.llama_log_set(self._silence, None)
        api.llama_backend_init()
        params = api.llama_model_default_params()
        params.n_gpu_layers = 999 if api.llama_supports_gpu_offload() else 0
        self.model = api.llama_model_load_from_file(model.encode(), params)
        if not self.model:
            raise KernelError("it cannot load this file")
        self.words = api.llama_vocab_n_tokens(api.llama_model_get_vocab(self.model))
        self.contexts, self.tokens = {}, None

    def info(self):
        return {"threads": self.threads, "flash_attention": "the faster of on and off", "n_batch": BATCH, "cache": "f16"}

    def size(self, pp, tg, depth, batch, kv_elements):
        """Contexts for the next measurements, with flash attention and without. Raises ConfigError where they do not fit."""
        self._free(self.contexts)
        self.pp, self.tg, self.depth, self.batch = pp, tg, depth, batch
        room = -(-(max(1, depth) + max(pp, tg) + 1) // 256) * 256 * batch
        check_cache(2 * 2 * kv_elements * room)
        if self.tokens:
            self.api.llama_batch_free(self.tokens)
        self.tokens = self.api.llama_batch_init(max(BATCH, batch), 0, 1)
        self.contexts = {on: self._context(room, on) for on in (False, True)}

    def warm(self):
        """Read the context into both, and keep for prompts and for generation the one that measures less time."""
        times = {}
        for on, context in self.contexts.items():
            self._fill(context)
            for what, measure in (("prefill", self._read), ("decode", self._write)):
                times[what, on] = min(measure(context, seed)["seconds"] for seed in (-1, -2))
        chosen = {what: times[what, True] < times[what, False] for what in ("prefill", "decode")}
        self._free([on for on in self.contexts if on not in chosen.values()])
        self.reading, self.writing = (self.contexts[chosen[what]] for what in ("prefill", "decode"))

    def prefill(self, seed):
        return self._read(self.reading, seed)

    def decode(self, seed):
        return self._write(self.writing, seed)

    def _free(self, which):
        for on in list(which):
            self.api.llama_free(self.contexts.pop(on))

    def _context(self, room, flash):
        params = self.api.llama_context_default_params()
        params.n_ctx = room
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

    def _feed(self, context, sequence, tokens, at):
        """Read tokens into a sequence that holds `at` others; the logits of the last are kept."""
        for start in range(0, len(tokens), BATCH):
            part = tokens[start:start + BATCH]
            self._run(context, [(t, at + start + i, sequence, start + i == len(tokens) - 1) for i, t in enumerate(part)])

    def _fill(self, context):
        """The context of every sequence: computed in the first, copied into the others."""
        api = self.api
        if not self.depth:
            return
        tokens, = prompts(CONTEXT, 1, self.depth, min(self.vocabulary, self.words))
        self._feed(context, 0, tokens, 0)
        if self.batch > 1:
            size = api.llama_state_seq_get_size(context, 0)
            state = (ctypes.c_uint8 * size)()
            api.llama_state_seq_get_data(context, state, size, 0)
            for s in range(1, self.batch):
                if not api.llama_state_seq_set_data(context, state, size, s):
                    raise KernelError("a sequence's state could not be copied")

    def _rewind(self, context):
        """Forget what came after the context."""
        for s in range(self.batch):
            self.api.llama_memory_seq_rm(self.api.llama_get_memory(context), s, self.depth, -1)

    def _read(self, context, seed):
        self._rewind(context)
        made = prompts(seed, self.batch, self.pp, min(self.vocabulary, self.words))
        start = time.perf_counter()
        for s, prompt in enumerate(made):
            self._feed(context, s, prompt, self.depth)
            self._best(context, -1)
        return {"tokens": self.batch * self.pp, "seconds": time.perf_counter() - start}

    def _write(self, context, seed):
        self._rewind(context)
        following = [p[0] for p in prompts(seed, self.batch, 1, min(self.vocabulary, self.words))]
        start = time.perf_counter()
        for n in range(self.tg):
            self._run(context, [(t, self.depth + n, s, True) for s, t in enumerate(following)])
            following = [self._best(context, i) for i in range(self.batch)]
        return {"tokens": self.batch * self.tg, "seconds": time.perf_counter() - start}


if __name__ == "__main__":
    serve(LlamaCpp)
