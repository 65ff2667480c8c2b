"""The C kernels of convolutions and linear layers, whose weights stay packed at their widths.

A row is unpacked once, behind the tensors in the arena, and then used at every position. See
`plinio_sweep.ship.c99_kernels` for the language of these texts.
"""

from __future__ import annotations

LAYER = """\
/* Rows of weights are stored by their width, one stream of bits each; `order` holds the output
   channel of each stored row, or is NULL. A word is a mantissa of 24 bits below a shift of 8. */
typedef struct {
    const uint8_t *weights;
    const model_channel *order;
    const int32_t *bias;
    const uint32_t *words;
    uint32_t rows[8]; /* how many there are of 1, 2, ... 8 bits */
    uint32_t room; /* where in the arena one of them is unpacked */
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
    const uint8_t *data, const model_conv *call, const int32_t *start, const int8_t *weights)
{
    const int32_t *size = call->window.size;
    const int32_t *kernel = call->window.kernel;
    const int32_t *dilation = call->window.dilation;
    int32_t from = 0, to = kernel[2], sum = 0;
    while (from < to && start[2] + from * dilation[2] < 0) {
        from++;
    }
    while (from < to && start[2] + (to - 1) * dilation[2] >= size[2]) {
        to--;
    }
    for (int32_t c = 0; c < (int32_t)call->columns; c++) {
        for (int32_t i = 0; i < kernel[0]; i++) {
            const int32_t z = start[0] + i * dilation[0];
            for (int32_t j = 0; j < kernel[1]; j++, weights += kernel[2]) {
                const int32_t y = start[1] + j * dilation[1];
                const int32_t line = ((c * size[0] + z) * size[1] + y) * size[2] + start[2];
                if (z < 0 || z >= size[0] || y < 0 || y >= size[1]) {
                    continue;
                }
                for (int32_t k = from; k < to; k++) {
                    const uint32_t index = (uint32_t)(line + k * dilation[2]);
                    sum += @LOAD@ * weights[k];
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
            const int8_t *codes = model_row(arena + call->layer.room, weights, at, bits, taps);
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
                    + model_taps_@TYPE@(data, call, start, codes);
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
            const int8_t *codes
                = model_row(arena + call->layer.room, weights, at, bits, call->columns);
            for (uint32_t p = 0; p < call->places; p++) {
                int32_t sum = call->layer.bias[channel];
                for (uint32_t c = 0; c < call->columns; c++) {
                    const uint32_t index = p * call->columns + c;
                    sum += @LOAD@ * codes[c];
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
LOADS = {"u8": "(int32_t)data[index]", "s8": "(int32_t)((const int8_t *)data)[index]"}
"""How the inner loop of a layer reads a code; `any` type the slow way."""
ANY = "model_get(data, call->input.type, index)"


def layer_kernel(family: str, codes: str) -> str:
    """The C code of a layer.

    Args:
        family: "conv" or "linear".
        codes: What it reads: a key of `LOADS`, or "any".

    Example:
        >>> "model_conv_s8(" in layer_kernel("conv", "s8")
        True
    """
    text = CONV_KERNEL if family == "conv" else LINEAR_KERNEL
    return text.replace("@TYPE@", codes).replace("@LOAD@", LOADS.get(codes, ANY))
