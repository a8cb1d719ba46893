"""How the commands show numbers and progress on standard error."""

import os
import sys
import time

from ..errors import ConfigError

EVERY = 10.0     # seconds between lines of progress, where there is no terminal


def warn(message):
    """One line for the user."""
    print(f"mlxr: {message}", file=sys.stderr)


def warn_of_auto(message):
    """What --kv auto became, for commands that have no --kv-auto-validate."""
    warn(message.partition(", or allow")[0])


def bytes_text(n):
    """1536 -> '1.5 KiB'."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if n < 1024 or unit == "TiB":
            return f"{n:.0f} {unit}" if unit == "B" else f"{n:.1f} {unit}"
        n /= 1024


def engine_lines(info):
    """What was built, in four lines."""
    threads = info.get("threads")
    bits, with_tail = info["kv_bits"], info["kv_bits_with_tail"]
    return [f"{info['architecture']} ({info['mode']}), {info['dtype']}, weights {bytes_text(info['weights_bytes'])}",
            f"backend {info['backend']}" + (f" with {threads} thread{'s' if threads > 1 else ''}" if threads else "")
            + f", kernels {info['kernels']}",
            f"pages {info['page_format']} of {info['page_size']} tokens, pool {bytes_text(info['pool_bytes'])} "
            f"({info['pages']} pages), {info['kv_bytes_per_token']:.0f} bytes a token",
            f"K and V take {bits:.2f} bits an element with their scales, {with_tail:.2f} with the plain tail "
            + (f"and {info['sink']} first tokens in f16 " if info["sink"] else "") + "of a full context",
            *([f"decoded pages: {info['decoded_pages']} at most"] if info["decoded_pages"] else [])]


def memory_table(info):
    """What memory is for, a line each."""
    rows = [("weights", info["weights_bytes"]), ("calibration's tables", info["table_bytes"]), ("page pool", info["pool_bytes"]),
            ("pages held plain", info["held_bytes"]), ("tails, at most", info["tail_bytes_most"]),
            ("scratch, estimated", info["scratch_bytes"]), ("Python, libraries", info["process_bytes"]),
            ("requests, estimated", info["requests_bytes"]), ("pages from, to disk", info["disk_bytes_most"])]
    rows.append(("together", sum(n for _, n in rows)))
    return [f"  {name:<21}{bytes_text(n):>12}" for name, n in rows if n]


def run_lines(stats, peak):
    """Statistics of one request, or of several together."""
    return [f"prompt {stats['prompt_tokens']} tokens, {stats['prompt_tps']:.1f} tokens/s, "
            f"first token after {stats['time_to_first_token']:.3f} s",
            f"generation {stats['generated_tokens']} tokens, {stats['generation_tps']:.1f} tokens/s",
            f"peak memory {bytes_text(peak)}"]


def total_stats(outputs, seconds):
    """The statistics of several outputs that ran as one batch in that many seconds."""
    stats = [o.stats for o in outputs]
    prompt, generated = (sum(s[n] for s in stats) for n in ("prompt_tokens", "generated_tokens"))
    last_first = max(s["time_to_first_token"] for s in stats)
    return {"time_to_first_token": min(s["time_to_first_token"] for s in stats), "prompt_tokens": prompt,
            "generated_tokens": generated, "prompt_tps": prompt / last_first if last_first else 0.0,
            "generation_tps": generated / seconds if seconds else 0.0,
            "preemptions": sum(s["preemptions"] for s in stats), "seconds": seconds}


def load_progress():
    """A callback(done, total) in bytes that draws a bar on standard error while weights load."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn

    columns = TextColumn("loading weights"), BarColumn(), DownloadColumn()
    bar = Progress(*columns, console=Console(stderr=True), transient=True)
    task = bar.add_task("load", total=None)

    def progress(done, total):
        if not bar.live.is_started and done < total:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    return progress


def steps_progress():
    """A callback(what, done, total) for each kind of step in turn: a bar on standard error, or where that is no terminal a line
    when a kind begins and ends, and one in EVERY seconds."""
    if not sys.stderr.isatty():
        return _steps_in_lines()
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    bar = Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), console=Console(stderr=True), transient=True)
    tasks = {}

    def progress(what, done, total):
        if what not in tasks:
            bar.start()
            tasks[what] = bar.add_task(what)
        bar.update(tasks[what], completed=done, total=total, visible=done < total)
        if all(task.finished for task in bar.tasks):
            bar.stop()

    return progress


def _steps_in_lines():
    said = {}                                        # what -> when

    def progress(what, done, total):
        now = time.monotonic()
        if what not in said or done == total or now - said[what] >= EVERY:
            said[what] = now
            print(f"mlxr: {what}, {done} of {total}", file=sys.stderr, flush=True)

    return progress


def check_page(path):
    """Told before hours of work: a report (--html) that could not be written. Raises ConfigError."""
    if path is not None:
        folder = os.path.dirname(os.path.abspath(path))
        if not os.path.isdir(folder):
            raise ConfigError(f"--html {path}: there is no folder {folder}")
        if os.path.isdir(path) or not os.access(path if os.path.exists(path) else folder, os.W_OK):
            raise ConfigError(f"--html {path}: cannot be written")


def write_page(path, make):
    """Write the text that make() gives to --html's file, where one is named. Raises ConfigError."""
    if path is not None:
        try:
            with open(path, "w", encoding="utf-8") as f:
                f.write(make())
        except OSError as e:
            raise ConfigError(f"--html {path}: {e.strerror}") from e
        print(f"mlxr: the report is in {path}", file=sys.stderr)
