"""The C code that does not depend on a net: element access, rescaling, one kernel a kind.

All names begin with `model_` or `MODEL_`, for which the name of the net is put in. A kernel reads
one record of constants, so that a call costs its numbers and no code. Kernels of one family come
from one text, with the lines in which they differ filled in at `@...@`.

No right shift of a negative number is written, since C leaves to the compiler what it does; the
form used instead is one arithmetic shift where the machine has one. Codes wider than a byte are
copied byte by byte, which compilers make one load of, so that no address has to be aligned and no
type is read as another.
"""

from __future__ import annotations

from collections.abc import Iterable

TYPES = {"U8": "uint8_t", "S8": "int8_t", "U16": "uint16_t", "S16": "int16_t", "S32": "int32_t"}
"""The types of codes, by the name that each has in the C code."""

TENSOR = """\
/* A tensor in the arena: where it starts [byte], and the type of its codes. */
typedef struct {
    uint32_t offset;
    uint8_t type;
} model_tensor;
"""

NEAR = "    case MODEL_@TYPE@:\n        return ((const @C@ *)data)[index];\n"
FAR = """\
    case MODEL_@TYPE@: {
        @C@ code;
        memcpy(&code, (const uint8_t *)data + sizeof code * index, sizeof code);
        return code;
    }
"""
GET = """\
static int32_t model_get(const void *data, uint8_t type, uint32_t index)
{
    switch (type) {
@CASES@    default:
        return 0;
    }
}
"""
NARROW = (
    "    case MODEL_@TYPE@:\n        ((uint8_t *)data)[index] = (uint8_t)code;\n        break;\n"
)
WIDE = """\
    case MODEL_@TYPE@: {
        const @C@ value = (@C@)code;
        memcpy((uint8_t *)data + sizeof value * index, &value, sizeof value);
        break;
    }
"""
PUT = """\
static void model_put(void *data, uint8_t type, uint32_t index, int32_t code)
{
    switch (type) {
@CASES@    default:
        break;
    }
}
"""
RESCALE = """\
/* floor((product + 2^(shift - 1)) / 2^shift), clamped: rounds to nearest, halves upwards. */
static int32_t model_rescale(int64_t product, uint32_t shift, int32_t low, int32_t high)
{
    const int64_t sum = product + ((int64_t)1 << (shift - 1));
    const int64_t value = sum >= 0 ? sum >> shift : ~(~sum >> shift);
    return value < low ? low : value > high ? high : (int32_t)value;
}
"""
WEIGHT = """\
/* The code of `bits` bits that starts at bit `at`; of one bit, 0 is -1 and 1 is +1. */
static int32_t model_weight(const uint8_t *weights, uint32_t at, uint32_t bits)
{
    const uint32_t first = at & 7u;
    const uint32_t half = (uint32_t)1 << (bits - 1u);
    uint32_t code = (uint32_t)weights[at >> 3] >> first;
    if (first + bits > 8u) {
        code |= (uint32_t)weights[(at >> 3) + 1u] << (8u - first);
    }
    code &= 2u * half - 1u;
    return bits == 1u ? 2 * (int32_t)code - 1 : (int32_t)(code ^ half) - (int32_t)half;
}
"""
LAYER = """\
/* Rows of weights are stored by their width, one stream of bits each; `order` holds the output
   channel of each stored row, or is NULL. A word is a mantissa of 24 bits below a shift of 8. */
typedef struct {
    const uint8_t *weights;
    const model_channel *order;
    const int32_t *bias;
    const uint32_t *words;
    uint32_t rows[8]; /* how many there are of 1, 2, ... 8 bits */
    int32_t low, high;
} model_layer;

static int32_t model_scale(const model_layer *layer, uint32_t channel, int32_t sum)
{
    const uint32_t word = layer->words[channel];
    const int64_t product = (int64_t)sum * (int32_t)(word & 0xffffffu);
    return model_rescale(product, word >> 24, layer->low, layer->high);
}
"""
WINDOW = """\
/* Windows over three axes, the first of which have size 1 where a tensor has fewer. */
typedef struct {
    int32_t size[3], result[3], kernel[3], stride[3], before[3], dilation[3];
} model_window;
"""
CONV = """\
/* A convolution, `columns` input channels and `group` output channels a group. */
typedef struct {
    model_layer layer;
    model_window window;
    uint32_t columns, group;
    model_tensor input, output;
} model_conv;
"""
CONV_KERNEL = """\
static int32_t model_taps_@TYPE@(
    const uint8_t *data, const model_conv *call, const int32_t *start, const uint8_t *weights,
    uint32_t at, uint32_t bits)
{
    const int32_t *size = call->window.size;
    const int32_t *kernel = call->window.kernel;
    const int32_t *dilation = call->window.dilation;
    int32_t sum = 0;
    for (int32_t c = 0; c < (int32_t)call->columns; c++) {
        for (int32_t i = 0; i < kernel[0]; i++) {
            const int32_t z = start[0] + i * dilation[0];
            for (int32_t j = 0; j < kernel[1]; j++) {
                const int32_t y = start[1] + j * dilation[1];
                const int32_t line = ((c * size[0] + z) * size[1] + y) * size[2];
                if (z < 0 || z >= size[0] || y < 0 || y >= size[1]) {
                    at += bits * (uint32_t)kernel[2];
                    continue;
                }
                for (int32_t k = 0; k < kernel[2]; k++, at += bits) {
                    const int32_t x = start[2] + k * dilation[2];
                    if (x >= 0 && x < size[2]) {
                        const uint32_t index = (uint32_t)(line + x);
                        sum += @LOAD@ * model_weight(weights, at, bits);
                    }
                }
            }
        }
    }
    return sum;
}

static void model_conv_@TYPE@(uint8_t *arena, const model_conv *call)
{
    const model_window *w = &call->window;
    const uint32_t plane = (uint32_t)(w->size[0] * w->size[1] * w->size[2]) * call->columns;
    const uint32_t taps = (uint32_t)(w->kernel[0] * w->kernel[1] * w->kernel[2]) * call->columns;
    const uint32_t places = (uint32_t)(w->result[0] * w->result[1] * w->result[2]);
    const uint8_t *weights = call->layer.weights;
    uint32_t row = 0;
    for (uint32_t bits = 1; bits <= 8u; bits++) {
        uint32_t at = 0;
        for (uint32_t n = 0; n < call->layer.rows[bits - 1u]; n++, row++, at += taps * bits) {
            const uint32_t channel = call->layer.order ? call->layer.order[row] : row;
            const uint32_t first = channel / call->group * plane * MODEL_BYTES(call->input.type);
            const uint8_t *data = arena + call->input.offset + first;
            for (uint32_t p = 0; p < places; p++) {
                const int32_t x = (int32_t)p % w->result[2];
                const int32_t y = (int32_t)p / w->result[2] % w->result[1];
                const int32_t z = (int32_t)p / w->result[2] / w->result[1];
                const int32_t start[3] = {
                    z * w->stride[0] - w->before[0],
                    y * w->stride[1] - w->before[1],
                    x * w->stride[2] - w->before[2],
                };
                const int32_t sum = call->layer.bias[channel]
                    + model_taps_@TYPE@(data, call, start, weights, at, bits);
                model_put(arena + call->output.offset, call->output.type,
                    channel * places + p, model_scale(&call->layer, channel, sum));
            }
        }
        weights += (at + 7u) / 8u;
    }
}
"""
LINEAR = """\
/* A linear layer over the last axis of `places` vectors. */
typedef struct {
    model_layer layer;
    uint32_t columns, channels, places;
    model_tensor input, output;
} model_linear;
"""
LINEAR_KERNEL = """\
static void model_linear_@TYPE@(uint8_t *arena, const model_linear *call)
{
    const uint8_t *data = arena + call->input.offset;
    const uint8_t *weights = call->layer.weights;
    uint32_t row = 0;
    for (uint32_t bits = 1; bits <= 8u; bits++) {
        uint32_t at = 0;
        for (uint32_t n = 0; n < call->layer.rows[bits - 1u]; n++, row++) {
            const uint32_t channel = call->layer.order ? call->layer.order[row] : row;
            for (uint32_t p = 0; p < call->places; p++) {
                int32_t sum = call->layer.bias[channel];
                for (uint32_t c = 0; c < call->columns; c++) {
                    const uint32_t index = p * call->columns + c;
                    sum += @LOAD@ * model_weight(weights, at + c * bits, bits);
                }
                model_put(arena + call->output.offset, call->output.type,
                    p * call->channels + channel, model_scale(&call->layer, channel, sum));
            }
            at += call->columns * bits;
        }
        weights += (at + 7u) / 8u;
    }
}
"""
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
BYTES = """\
#define MODEL_BYTES(type) ((type) <= MODEL_S8 ? 1u : (type) <= MODEL_S16 ? 2u : 4u)
"""

LOADS = {"u8": "(int32_t)data[index]", "s8": "(int32_t)((const int8_t *)data)[index]"}
"""How the inner loop of a layer reads a code; `any` type the slow way."""
ANY = "model_get(data, call->input.type, index)"

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
    parts: dict[str, None] = {TENSOR: None} if needed else {}
    texts = [_kernel(name) for name in needed]
    body = [part for name in needed for part in PARTS[name.partition("_")[0]]]
    everything = "".join([*texts, *body])
    if "model_get(" in everything:
        parts[_cases(GET, reads, NEAR, FAR)] = None
    if "model_put(" in everything:
        parts[_cases(PUT, writes, NARROW, WIDE)] = None
    parts |= dict.fromkeys(body)
    parts |= dict.fromkeys(texts)
    return "\n".join(part for part in parts if part)


def _kernel(name: str) -> str:
    family, _, codes = name.partition("_")
    if codes:
        text = CONV_KERNEL if family == "conv" else LINEAR_KERNEL
        return text.replace("@TYPE@", codes).replace("@LOAD@", LOADS.get(codes, ANY))
    text, lines = FILLED.get(family, ("", {}))
    for place, line in {**lines, "KIND": family}.items():
        text = text.replace(f"@{place}@", line)
    return text


def _cases(text: str, types: set[str], byte: str, wide: str) -> str:
    """A switch over the types that a net has."""
    cases = "".join(
        (byte if name.endswith("8") else wide).replace("@TYPE@", name).replace("@C@", TYPES[name])
        for name in TYPES
        if name in types
    )
    return text.replace("@CASES@", cases)
