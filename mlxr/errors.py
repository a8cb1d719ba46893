"""The exception tree. Every message is one line: what was wrong, and what would be right."""


class MlxrError(Exception):
    """Base of everything mlxr raises on purpose."""


class ConfigError(MlxrError, ValueError):
    """An option or a configuration value that cannot be used."""


class RequestError(MlxrError, ValueError):
    """A request that cannot be served: an empty prompt, a bad sampling value."""


class PromptTooLong(RequestError):
    """The prompt exceeds the model's context, or what the page pool can ever hold."""


class ModelNotFound(MlxrError, FileNotFoundError):
    """No folder, file, alias or repository of that name could be found."""


class DownloadError(MlxrError, OSError):
    """A download failed: offline, no disk space, a wrong checksum, a server's refusal."""


class WeightsError(MlxrError, ValueError):
    """A weight file is corrupt, truncated, inconsistent, or of an unsupported type."""


class UnsupportedModel(MlxrError, ValueError):
    """The architecture cannot be run; the message names it."""


class TokenizerError(MlxrError, ValueError):
    """A tokenizer or chat template is missing, corrupt, or of an unsupported kind."""


class OutOfPages(MlxrError, MemoryError):
    """The page pool has no free page. The scheduler handles it; users see it only through a bug."""


class KernelError(MlxrError, RuntimeError):
    """A kernel could not be found, specialised, compiled or run."""


class EngineClosed(MlxrError, RuntimeError):
    """The engine was closed while, or before, it was used."""
