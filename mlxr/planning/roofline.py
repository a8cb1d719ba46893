"""The roofline (Williams, Waterman, Patterson, 2009): how fast memory and arithmetic let a chip decode and prefill at best."""

from .macs import CHIPS

FORMULA = ("tokens/s <= batch x bandwidth / (weight bytes read by a step + batch x context x KV bytes of a token); a kernel is "
           "limited by arithmetic where its operations a byte exceed TFLOPS / bandwidth")


def decode_rate(bandwidth, read, token, context, batch=1):
    """Tokens a second at most. bandwidth: GB/s; read: bytes of weights of a step; token: KV bytes of one; context: tokens."""
    return batch * bandwidth * 1e9 / (read + batch * context * token)


def intensity(model, specs, tokens, chunk, context=8192):
    """Operations a byte of decoding, in batches, and of a prefill chunk, at a context; and which side of each chip's ridge.

    tokens: {page format: KV bytes of a token}; the first format counts. Multiply-adds are 2 operations. A chunk reads all
    weights once, the context's K and V once, and writes its own.
    """
    if not model.on_mac:
        return []
    name, token = next(iter(tokens.items()))
    attended = 2 * model.heads * sum(s.dk + s.dv for s in specs)        # operations for one token to attend to one
    rows = []
    for what, new, batch in (("decode", 1, 1), ("decode", 1, 8), ("decode", 1, 32), ("prefill", chunk, 1)):
        count = new * batch
        flops = count * (2 * model.computed + attended * context)
        nbytes = model.on_mac * model.read_share(count) + batch * (context + new) * token
        ratio = flops / nbytes
        rows.append({"what": what, "batch": batch, "tokens": count, "context": context, "page_format": name, "flops": flops, "bytes": int(nbytes),
                     "intensity": round(ratio, 2),
                     "limited_by": {c.name: "arithmetic" if ratio > c.ridge else "memory" for c in CHIPS},
                     "most_tps": {c.name: round(count / max(nbytes / (c.bandwidth * 1e9), flops / (c.tflops * 1e12)), 1)
                                  for c in CHIPS}})
    return rows
