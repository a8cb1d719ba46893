"""EngineConfig: what a user may decide about the engine, checked at the door."""

from dataclasses import dataclass

from .errors import ConfigError

DTYPES = ("float32", "float16", "bfloat16")
CALDERA_CACHES = ("none", "r", "lr", "qlr")
PAGE_SIZES = (16, 32, 64, 128)


@dataclass(frozen=True)
class EngineConfig:
    """How the engine is built. Everything is fixed at start.

    page_size:     tokens in a page (16, 32, 64 or 128).
    pool_bytes:    bytes of all page pools together; None sizes them for `context` tokens, within the memory budget.
    token_budget:  tokens computed in one step at most; prefill is cut into chunks to keep to it.
    max_batch:     sequences that run at the same time at most (one tail slot each).
    dtype:         of activations and unquantized weights; None: as stored on a GPU, float32 on a CPU.
    kv:            page format: a name (`f16`, `bf16`, `f32`, `q8`, `q6`, `q4`, `k8v4`, `a4`, `mixed`), `k:q8,v:q4`, with
                   options as in `mixed:ratio=0.5,low=4`, and `skip=0:2,-2:` for layers in f16 (see pages/spec.py).
    kv_sink:       so many first tokens of every sequence are kept in f16, rounded up to whole pages.
    kv_dequant_cache: bytes for pages that are kept decoded beside the pool, those that decoding reads most recently; 0: none.
    calibration:   a file of `mlxr calibrate`, for formats that need one; None: looked for beside the model and in the cache.
    context:       tokens in one sequence at most; None: the model's own limit.
    past_limit:    whether `context` may pass that limit, for measurements of speed: what a model writes there is worth little.
    pool_tokens:   where pool_bytes is None, make the pools no larger than this many tokens need.
    memory_bytes, memory_share: a budget for weights, pool, tails and scratch together, in bytes or as a share of the
                   machine; what the others leave is the pool's. Not with pool_bytes.
    prefix_cache:  requests share the pages of equal beginnings. Models with a recurrent state cannot.
    cache_dir:     folder that keeps sealed pages of prompts over restarts, within cache_dir_bytes; None keeps none.
    caldera_cache: of a model with corrections of low rank, y = Q x + L (R x), what is kept as plain 16-bit numbers:
                   `none`, `r`, `lr`, or `qlr`: Q + L R as one matrix. Faster, and larger.
    Raises ConfigError for a value that cannot be used.
    """

    page_size: int = 64
    pool_bytes: int | None = None
    token_budget: int = 512
    max_batch: int = 32
    dtype: str | None = None
    kv: str = "f16"
    kv_sink: int = 0
    kv_dequant_cache: int = 0
    calibration: str | None = None
    context: int | None = None
    past_limit: bool = False
    pool_tokens: int | None = None
    prefix_cache: bool = True
    memory_bytes: int | None = None
    memory_share: float | None = None
    cache_dir: str | None = None
    cache_dir_bytes: int = 8 << 30
    caldera_cache: str = "none"

    def __post_init__(self):
        if self.page_size not in PAGE_SIZES:
            raise ConfigError(f"page_size must be one of {', '.join(map(str, PAGE_SIZES))}, not {self.page_size!r}")
        for name in ("token_budget", "max_batch"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} must be a whole number of at least 1, not {value!r}")
        for name in ("pool_bytes", "pool_tokens", "context", "memory_bytes", "cache_dir_bytes"):
            value = getattr(self, name)
            if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
                raise ConfigError(f"{name} must be a whole number of at least 1, or None, not {value!r}")
        for name in ("kv_sink", "kv_dequant_cache"):
            value = getattr(self, name)
            if not isinstance(value, int) or isinstance(value, bool) or value < 0:
                raise ConfigError(f"{name} must be a whole number of at least 0, not {value!r}")
        if self.dtype is not None and self.dtype not in DTYPES:
            raise ConfigError(f"dtype must be one of {', '.join(DTYPES)}, not {self.dtype!r}")
        if self.caldera_cache not in CALDERA_CACHES:
            raise ConfigError(f"caldera_cache (--cache) must be one of {', '.join(CALDERA_CACHES)}, not {self.caldera_cache!r}")
        if self.memory_share is not None and not 0 < self.memory_share <= 1:
            raise ConfigError(f"memory_share must be more than 0 and at most 1, not {self.memory_share!r}")
        if self.cache_dir is not None and not self.prefix_cache:
            raise ConfigError("cache_dir keeps the prefix cache, which prefix_cache=False turns off; give one or the other")
        if sum(x is not None for x in (self.pool_bytes, self.memory_bytes, self.memory_share)) > 1:
            raise ConfigError("give one of pool_bytes (--pool), memory_bytes and memory_share (--memory)")
