"""Make a model with its weights: mlx-lm's class for the config, filled from a checkpoint, parameter by parameter."""

import mlx.core as mx
import mlx.nn as nn
import numpy as np
from mlx.utils import tree_flatten, tree_map, tree_unflatten

from ..errors import ConfigError, MlxrError, UnsupportedModel, WeightsError
from ..kernels import library, tuning
from . import experts, low_rank, stored
from .linear import QuantEmbedding, QuantLinear, adopt, on_cpu
from .own_weights import own_weights
from .quantization import quantize_layers
from .zoo import instantiate

DTYPES = {"float32": mx.float32, "float16": mx.float16, "bfloat16": mx.bfloat16}
_SLICE = 1 << 22  # bytes of GGUF blocks converted at once
_NAMED = 3        # parameters that an error names


def choose_dtype(checkpoint, dtype):
    """The mx.Dtype of floating parameters, or None to keep each as stored.

    `dtype` None means: float32 on a CPU, where MLX multiplies only fp32 fast; on a GPU what safetensors store, and
    float16 for GGUF, whose scales are fp16. Raises ConfigError for a name that is no such dtype.
    """
    if dtype is not None:
        if dtype not in DTYPES:
            raise ConfigError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}")
        return DTYPES[dtype]
    if on_cpu():
        return mx.float32
    return mx.float16 if checkpoint.kind == "gguf" else None


def load_model(checkpoint, dtype=None, progress=None, cache="none", check=None):
    """The mlx-lm model of a checkpoint with all weights evaluated, quantized layers in place.

    dtype: "float32", "float16", "bfloat16" or None (see choose_dtype); it applies to floating parameters, not to
    codes. progress: called as progress(bytes done, bytes in all), in stored bytes. At most one parameter is held in
    two forms at any time. cache: which parts of corrections of low rank are kept as plain numbers (config.CALDERA_CACHES).
    check: called as check(model, dtype) before any weight is read; what it raises is raised. Raises ConfigError, UnsupportedModel, or WeightsError naming parameters that do not fit.
    """
    target = choose_dtype(checkpoint, dtype)
    report = progress or (lambda done, total: None)
    model = gguf_model(checkpoint) if checkpoint.kind == "gguf" else make_model(checkpoint.config)
    if on_cpu() and target in (mx.float16, mx.bfloat16) and any(type(m).__name__ == "SwitchLinear" for _, m in model.named_modules()):
        raise ConfigError(f"dtype {dtype}: MLX computes mixtures of experts on a CPU in float32 alone; leave out --dtype")
    if check:
        check(model, target)
    if checkpoint.kind == "gguf":
        _fill_from_gguf(model, checkpoint, target, report)
    else:
        _fill_from_safetensors(model, checkpoint, target, report)
    low_rank.settle(model, cache, target)
    model.eval()
    mx.eval(model.state)  # what a model makes for itself, such as rope tables
    return model


def make_model(config):
    """The model with lazy random weights. Raises UnsupportedModel, in one line, for whatever mlx-lm raises."""
    if config.get("model_file"):
        raise UnsupportedModel(f"the model brings its own code ({config['model_file']}), which is not run")
    try:
        return instantiate(config)
    except MlxrError:
        raise
    except Exception as e:  # a config is a file from anywhere, and mlx-lm's constructors do not check it
        why = f"{type(e).__name__}: {e}".splitlines()[0]
        raise UnsupportedModel(f"cannot build architecture {config.get('model_type')!r} from its config ({why})") from e


# -- safetensors -----------------------------------------------------------------------------------------------------

def _fill_from_safetensors(model, checkpoint, target, report):
    weights = fitted(model, checkpoint)
    casts = getattr(model, "cast_predicate", None) or (lambda name: True)  # what mlx-lm keeps in fp32
    ours = stored_layers(model, weights)                                   # layers that compute on what is stored
    kept = {f"{path}.{name}" for path in ours for name in ("weight", "scales", "biases")}
    total, done, loaded = sum(w.nbytes for w in weights.values()), 0, []
    for name in sorted(weights, key=lambda n: -weights[n].nbytes):  # largest first: its two forms while memory is free
        w = weights.pop(name)
        done += w.nbytes
        if name in kept:
            w = mx.contiguous(w)
        elif target is not None and mx.issubdtype(w.dtype, mx.floating) and casts(name):
            w = w.astype(target)
        _evaluate(w, name, checkpoint)
        loaded.append((name, w))
        report(done, total)
    model.update(tree_unflatten(loaded))
    modules = dict(model.named_modules())
    replaced = {id(modules[path]): stored.adopt(modules[path], target) for path in ours}
    model.update_modules(tree_map(lambda m: replaced.get(id(m)) or adopt(m), model.leaf_modules(),
                                  is_leaf=nn.Module.is_module))


def fitted(model, checkpoint):
    """A safetensors checkpoint's arrays, lazy, as the model's class names and shapes them; its quantized layers in place."""
    weights = sanitized(model, lazy_arrays(checkpoint))
    if "caldera" in checkpoint.config:
        low_rank.prepare(model, checkpoint.config["caldera"])
    quantize_layers(model, checkpoint.config, weights)
    check_fit(model, {name: w.shape for name, w in weights.items()}, checkpoint)
    return weights


def on_kernels(block=None, shape=()):
    """Whether linear layers run on our kernels, as a rule or on a type of GGUF blocks [out, in].

    On a CPU with a compiler they do. On Metal MLX's own are the default, and ours serve blocks that MLX has no format of
    the same scales for: 6-bit scales of scales would be rounded to 16 bits, or spread over more bytes. What mlxr doctor
    measured there decides before that.
    """
    if library.backend() == "metal" and block is not None:
        if (measured := tuning.choice(block.name, shape)) and block.affine_bits:
            return measured == tuning.OURS
        return block.block_size > 1 and not (block.affine_bits and block.affine_halves)
    return library.backend() == "host"


def stored_layers(model, weights):
    """Paths of the layers whose weights (name -> array) our kernels read as they are, whatever the dtype of activations.

    On a CPU all that can be; on Metal those for which mlxr doctor measured that ours are faster, and those with corrections
    of low rank: MLX has no product with such inside.
    """
    if library.backend() == "reference":
        return []
    own = own_weights(model)
    paths = {name.rpartition(".")[0] for name in weights if name.endswith(".weight")}
    corrected = {f"{p}.{part}" for p, m in model.named_modules() if isinstance(m, low_rank.LowRankLinear) for part in m.children()}
    return [path for path, module in model.named_modules() if path in paths and path.rpartition(".")[2] not in own
            and _ours(stored.kind_of(module, {n: weights.get(f"{path}.{n}") for n in ("weight", "scales", "biases")}),
                      weights[f"{path}.weight"].shape, path in corrected)]


def _ours(kind, shape, corrected):
    """Whether our kernels take a layer's weights as they are stored. kind: of stored.kind_of; shape: of its array."""
    if kind is None or on_kernels() or corrected:
        return kind is not None
    bits = dict(kind.defines).get("BITS", 32)
    return tuning.choice(kind.name, (shape[0], shape[1] * 32 // bits)) == tuning.OURS


def lazy_arrays(checkpoint):
    weights = {}
    for file in checkpoint.files:
        try:
            arrays = mx.load(str(file))
        except (RuntimeError, ValueError, OSError) as e:
            raise WeightsError(f"MLX cannot load {file.name}: {str(e).splitlines()[0]}") from e
        weights.update((name, w) for name, w in arrays.items()
                       if name in checkpoint.tensors and checkpoint.tensors[name].file == file)
    return weights


def sanitized(model, weights):
    """What the model class makes of the stored names; lazy."""
    if not hasattr(model, "sanitize"):
        return weights
    try:
        return dict(model.sanitize(weights))
    except Exception as e:  # mlx-lm indexes and reshapes what it expects to find
        why = f"{type(e).__name__}: {e}".splitlines()[0]
        raise WeightsError(f"the checkpoint's tensors do not fit architecture {model.model_type!r} ({why})") from e


def _evaluate(w, name, checkpoint):
    try:
        mx.eval(w)
    except RuntimeError as e:
        raise WeightsError(f"cannot load {name} from {checkpoint.path}: {str(e).splitlines()[0]}") from e


# -- GGUF ------------------------------------------------------------------------------------------------------------

BLOCKS, QUANTIZED, EXPERTS, FLOATS = "blocks", "quantized", "experts", "floats"


def gguf_model(checkpoint):
    """The model of a GGUF file, as make_model, with an output matrix only where the file has one."""
    model = make_model(checkpoint.config)
    if checkpoint.settles_ties:
        model.sanitize({})                  # without an output matrix among the weights the class ties it
    return model


def gguf_ways(model, checkpoint):
    """How each parameter of a GGUF file will be computed with: name -> BLOCKS (our kernels, on what is stored), QUANTIZED
    or EXPERTS (in one of MLX's formats, exactly the same numbers), or FLOATS. Raises WeightsError where it does not fit."""
    check_fit(model, {t.name: t.shape for t in checkpoint.tensors.values()}, checkpoint)
    modules = dict(model.named_modules())
    own = own_weights(model) if library.backend() != "reference" else ()
    return {t.name: _way(modules[t.name.rpartition(".")[0]], checkpoint, t, own) for t in checkpoint.tensors.values()}


def _way(module, checkpoint, t, own):
    path, _, kind = t.name.rpartition(".")
    block = checkpoint.block_type(t.name)
    if kind != "weight" or checkpoint.is_joined(t.name):
        return FLOATS
    if experts.is_experts(module):
        if on_kernels() and experts.fitting(t.type, t.shape):
            return BLOCKS
        return EXPERTS if experts.has_form(block) else FLOATS
    if type(module) not in (nn.Linear, nn.Embedding):
        return FLOATS
    if on_kernels(block, t.shape) and stored.fitting(t.type, t.shape) and path.rpartition(".")[2] not in own:
        return BLOCKS
    return QUANTIZED if block.affine_bits else FLOATS


def _fill_from_gguf(model, checkpoint, target, report):
    ways, modules = gguf_ways(model, checkpoint), dict(model.named_modules())
    done, total, loaded, layers = 0, checkpoint.nbytes, [], []
    makers = {BLOCKS: _stored_layer, QUANTIZED: _quantized_layer, EXPERTS: _experts_layer}
    for t in sorted(checkpoint.tensors.values(), key=lambda t: -t.nbytes):
        path, block, way = t.name.rpartition(".")[0], checkpoint.block_type(t.name), ways[t.name]
        if way == FLOATS:
            loaded.append((t.name, float_array(checkpoint, t, block, target)))
        else:
            layers.append((path, makers[way](modules[path], checkpoint, t, block, target)))
        checkpoint.release()
        done += t.nbytes
        report(done, total)
    model.update_modules(tree_unflatten(layers))
    model.update(tree_unflatten(loaded))
    _install_rope_factors(model, checkpoint)


def _stored_layer(module, checkpoint, t, block, target):
    """The layer on a tensor's blocks, as the file has them."""
    blocks = checkpoint.blocks(t.name)
    if not block.finite(blocks):
        raise WeightsError(f"{t.name} has scales that are not finite numbers; the file is damaged")
    weights = mx.array(blocks)
    if block.float_dtype:
        weights = weights.view(DTYPES[block.float_dtype])
    if experts.is_experts(module):
        layer = experts.StoredExperts(stored.StoredMatrix(t.type, weights, t.shape[2]), t.shape, module.get("bias"))
    else:
        layer = stored.stored_layer(module, t.type, weights, t.shape[1], target or mx.float32)
    mx.eval(layer.parameters())
    return layer


def _quantized_layer(module, checkpoint, t, block, target):
    codes, scales, biases = _affine(checkpoint, t.name, block, target == mx.float16)
    if target is not None:
        scales, biases = scales.astype(target), biases.astype(target)
    mx.eval(codes, scales, biases)
    how = dict(group_size=32, bits=block.affine_bits)
    if isinstance(module, nn.Embedding):
        return QuantEmbedding(codes, scales, biases, **how)
    return QuantLinear(codes, scales, biases, module.get("bias"), **how)


def _experts_layer(module, checkpoint, t, block, target):
    if not block.affine_bits:
        return experts.mxfp4_experts(module, checkpoint, t.name, block)
    codes, *scales = _affine(checkpoint, t.name, block, target == mx.float16)
    scales = [s if target is None else s.astype(target) for s in scales]
    return experts.affine_experts(module, t.shape, [codes, *scales], block.affine_bits)


def _affine(checkpoint, name, block, narrow):
    """[codes, scales, biases] of a tensor, converted some rows at a time, so that no second copy of all of it is made.

    narrow: whether scales must fit float16.
    """
    rows = checkpoint.rows(name)
    step = max(1, _SLICE // block.row_bytes(checkpoint.tensor(name).shape[-1]))
    whole = views = None
    for at in range(0, rows, step):
        with np.errstate(invalid="ignore"):  # what is not finite is reported here
            parts = block.to_affine(checkpoint.blocks(name, at, at + step))
        if not all(np.isfinite(p).all() for p in parts[1:]):
            raise WeightsError(f"{name} has scales that are not finite numbers; the file is damaged")
        if narrow and np.abs(parts[2]).max() > 65504:
            raise WeightsError(f"{name} has scales beyond float16; load the model with dtype float32 or bfloat16")
        if whole is None:
            whole = [mx.zeros((rows, *p.shape[1:]), mx.array(p[:0]).dtype) for p in parts]
            mx.eval(whole)
            views = [np.array(w, copy=False) for w in whole]     # MLX's own memory, which is filled in place
        for view, part in zip(views, parts):
            view[at:at + step] = part
    return whole


def float_array(checkpoint, t, block, target):
    """A tensor as floats of dtype `target`, or of its own dtype where that is plain floats and target is None."""
    blocks = None if checkpoint.is_joined(t.name) else checkpoint.blocks(t.name)
    if blocks is None:
        array = mx.array(checkpoint.joined(t.name))
    elif block.float_dtype:
        words = np.ascontiguousarray(blocks).view({2: np.uint16, 4: np.uint32}[block.type_size])
        array = mx.array(words).view(DTYPES[block.float_dtype])
    else:
        array = _dequantized(t.name, blocks, block, target)
    array = array.reshape(t.shape)
    if added := checkpoint.offset(t.name):
        array = (array.astype(mx.float32) + added).astype(array.dtype)
    array = array if target is None else array.astype(target)
    mx.eval(array)
    return array


def _dequantized(name, blocks, block, target):
    """[rows, columns] of blocks, of dtype `target` or float32, some rows at a time."""
    if not block.finite(blocks):
        raise WeightsError(f"{name} has scales that are not finite numbers; the file is damaged")
    step = max(1, _SLICE // 8 // len(blocks[0]))             # the formulas hold some ten bytes a weight
    parts = [mx.array(block.dequantize(blocks[at:at + step])).astype(target or mx.float32) for at in range(0, len(blocks), step)]
    mx.eval(parts)
    return parts[0] if len(parts) == 1 else mx.concatenate(parts)


def _install_rope_factors(model, checkpoint):
    """Put the file's own rope factors into each rope that has a table: frequency = base^(2i/dims) * factor."""
    factors = checkpoint.rope_factors()
    if factors is None:
        return
    dims = checkpoint.config["head_dim"]
    if len(factors) != dims // 2:
        raise WeightsError(f"{checkpoint.path.name}: rope_freqs has {len(factors)} factors for {dims // 2} frequencies")
    exponents = np.arange(0, dims, 2, dtype=np.float64) / dims
    table = mx.array((checkpoint.config["rope_theta"] ** exponents * factors).astype(np.float32))
    for _, module in model.named_modules():
        if "_freqs" in module:
            module._freqs = table


# -- both ------------------------------------------------------------------------------------------------------------

def check_fit(model, shapes, checkpoint):
    """Hold the checkpoint's parameters (name -> shape) against the model's. Raises WeightsError naming a few."""
    wanted = {name: p.shape for name, p in tree_flatten(model.parameters())}
    missing = sorted(wanted.keys() - shapes.keys())
    extra = sorted(shapes.keys() - wanted.keys())
    wrong = [f"{n} is {list(shapes[n])}, not {list(wanted[n])}" for n in sorted(wanted.keys() & shapes.keys())
             if tuple(shapes[n]) != tuple(wanted[n])]
    problems = [_list(missing, "parameters are missing"), _list(extra, "are not part of the model"),
                _list(wrong, "have another shape than the config says")]
    if any(problems):
        raise WeightsError(f"{checkpoint.path.name} does not fit architecture {checkpoint.config.get('model_type')!r}: "
                           + "; ".join(filter(None, problems)))


def _list(names, what):
    if not names:
        return ""
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}"
