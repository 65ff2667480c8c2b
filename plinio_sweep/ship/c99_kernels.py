"""The C kernels that run the operations of any net, one a kind.

All names begin with `model_` or `MODEL_`, for which the name of the net is put in. A kernel reads
one record of constants, so that a call costs its numbers and no code. Kernels of one family come
from one text, with the lines in which they differ filled in at `@...@`.
"""

from __future__ import annotations

from collections.abc import Iterable

from plinio_sweep.ship.c99_access import BYTES, RESCALE, TENSOR, WEIGHT, write_access
from plinio_sweep.ship.c99_layers import CONV, LAYER, LINEAR, WINDOW, layer_kernel

MIX = """\
/* Operands that broadcast: `strides` has a line of `rank` steps for each, 0 where it repeats. */
typedef struct {
    const model_tensor *inputs;
    const int32_t *mantissas;
    const uint32_t *shape, *strides;
    uint32_t count, rank, size, shift;
    int32_t low, high;
    model_tensor output;
} model_mix;

static uint32_t model_index(const model_mix *call, uint32_t operand, uint32_t index)
{
    const uint32_t *strides = call->strides + operand * call->rank;
    uint32_t found = 0;
    for (uint32_t axis = call->rank - 1u; axis > 0u; axis--) {
        found += index % call->shape[axis] * strides[axis];
        index /= call->shape[axis];
    }
    return found + index * strides[0];
}
"""
MIX_KERNEL = """\
static void model_@KIND@(uint8_t *arena, const model_mix *call)
{
    for (uint32_t i = 0; i < call->size; i++) {
        int64_t sum = @START@;
        for (uint32_t k = 0; k < call->count; k++) {
            const model_tensor input = call->inputs[k];
            const int64_t code =
                model_get(arena + input.offset, input.type, model_index(call, k, i));
            @TAKE@;
        }
        model_put(arena + call->output.offset, call->output.type, i,
            model_rescale(sum, call->shift, call->low, call->high));
    }
}
"""
POOL = """\
typedef struct {
    model_window window;
    int32_t channels, mantissa, low, high;
    uint32_t shift;
    model_tensor input, output;
} model_pool;
"""
POOL_KERNEL = """\
static int32_t model_@KIND@_at(
    const uint8_t *data, const model_pool *call, int32_t c, const int32_t *start)
{
    const model_window *w = &call->window;
    int32_t found = @START@;
    for (int32_t i = 0; i < w->kernel[0]; i++) {
        const int32_t z = start[0] + i * w->dilation[0];
        for (int32_t j = 0; j < w->kernel[1]; j++) {
            const int32_t y = start[1] + j * w->dilation[1];
            for (int32_t k = 0; k < w->kernel[2]; k++) {
                const int32_t x = start[2] + k * w->dilation[2];
                if (z >= 0 && z < w->size[0] && y >= 0 && y < w->size[1]
                    && x >= 0 && x < w->size[2]) {
                    const int32_t index = ((c * w->size[0] + z) * w->size[1] + y) * w->size[2] + x;
                    const int32_t code = model_get(data, call->input.type, (uint32_t)index);
                    @TAKE@;
                }
            }
        }
    }
    return found;
}

static void model_@KIND@(uint8_t *arena, const model_pool *call)
{
    const model_window *w = &call->window;
    uint32_t index = 0;
    for (int32_t c = 0; c < call->channels; c++) {
        for (int32_t z = 0; z < w->result[0]; z++) {
            for (int32_t y = 0; y < w->result[1]; y++) {
                for (int32_t x = 0; x < w->result[2]; x++, index++) {
                    const int32_t start[3] = {
                        z * w->stride[0] - w->before[0],
                        y * w->stride[1] - w->before[1],
                        x * w->stride[2] - w->before[2],
                    };
                    const int32_t found =
                        model_@KIND@_at(arena + call->input.offset, call, c, start);
                    model_put(arena + call->output.offset, call->output.type, index,
                        @DONE@);
                }
            }
        }
    }
}
"""
LOOKUP = """\
typedef struct {
    const void *table; /* of the type of the output, from the smallest code of the input on */
    uint32_t size;
    int32_t low;
    model_tensor input, output;
} model_lookup_call;

static void model_lookup(uint8_t *arena, const model_lookup_call *call)
{
    for (uint32_t i = 0; i < call->size; i++) {
        const int32_t code = model_get(arena + call->input.offset, call->input.type, i);
        model_put(arena + call->output.offset, call->output.type, i,
            model_get(call->table, call->output.type, (uint32_t)(code - call->low)));
    }
}
"""
MOVE = """\
/* `repeat` times, each `jump` further: `count` elements of input `source`, from `start` on in steps
   of `step`; zeros where `source` is -1. */
typedef struct {
    model_step source, start, step, count, jump, repeat;
} model_run_of;

typedef struct {
    const model_tensor *inputs;
    const model_run_of *runs;
    uint32_t count;
    model_tensor output;
} model_move_call;

static void model_move(uint8_t *arena, const model_move_call *call)
{
    uint32_t index = 0;
    for (uint32_t n = 0; n < call->count; n++) {
        const model_run_of run = call->runs[n];
        for (int32_t i = 0; i < run.repeat; i++) {
            for (int32_t j = 0; j < run.count; j++, index++) {
                const int32_t at = run.start + i * run.jump + j * run.step;
                int32_t code = 0;
                if (run.source >= 0) {
                    const model_tensor input = call->inputs[run.source];
                    code = model_get(arena + input.offset, input.type, (uint32_t)at);
                }
                model_put(arena + call->output.offset, call->output.type, index, code);
            }
        }
    }
}
"""
PARTS = {  # what each kernel is made of, below element access, in the order of the C file
    "conv": (RESCALE, WEIGHT, LAYER, WINDOW, BYTES, CONV),
    "linear": (RESCALE, WEIGHT, LAYER, LINEAR),
    "add": (RESCALE, MIX),
    "multiply": (RESCALE, MIX),
    "average": (RESCALE, WINDOW, POOL),
    "maximum": (WINDOW, POOL),
    "lookup": (LOOKUP,),
    "move": (MOVE,),
}
FILLED = {
    "add": (MIX_KERNEL, {"START": "0", "TAKE": "sum += call->mantissas[k] * code"}),
    "multiply": (MIX_KERNEL, {"START": "call->mantissas[0]", "TAKE": "sum *= code"}),
    "average": (
        POOL_KERNEL,
        {
            "START": "0",
            "TAKE": "found += code",
            "DONE": "model_rescale((int64_t)found * call->mantissa, call->shift, call->low, "
            "call->high)",
        },
    ),
    "maximum": (
        POOL_KERNEL,
        {"START": "call->low", "TAKE": "found = code > found ? code : found", "DONE": "found"},
    ),
}


def write_kernels(used: Iterable[str], reads: set[str], writes: set[str]) -> str:
    """The C code of some kernels and of all that they need, each function once.

    Args:
        used: "conv_u8", "conv_s8", "conv_any", the same with "linear", "add", "multiply",
            "average", "maximum", "lookup" or "move".
        reads: The types of codes, keys of `TYPES`, that kernels read one by one.
        writes: The types that they write.

    Example:
        >>> "model_maximum(" in write_kernels(["maximum"], {"U8"}, {"U8"})
        True
    """
    needed = sorted(set(used), key=lambda name: [*PARTS].index(name.partition("_")[0]))
    texts = [_kernel(name) for name in needed]
    body = [part for name in needed for part in (TENSOR, *PARTS[name.partition("_")[0]])]
    access = write_access("".join([*texts, *body]), reads, writes)
    return "\n".join(part for part in dict.fromkeys([access, *body, *texts]) if part)


def _kernel(name: str) -> str:
    family, _, codes = name.partition("_")
    if codes:
        return layer_kernel(family, codes)
    text, lines = FILLED.get(family, ("", {}))
    for place, line in {**lines, "KIND": family}.items():
        text = text.replace(f"@{place}@", line)
    return text
