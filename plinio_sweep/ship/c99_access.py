"""The C code below all kernels: types, reading and writing single codes, rescaling, weights.

No right shift of a negative number is written, since C leaves to the compiler what it does; the
form used instead is one arithmetic shift where the machine has one. Codes wider than a byte are
copied byte by byte, which compilers make one load of, so that no address has to be aligned and no
type is read as another.
"""

from __future__ import annotations

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

/* A row of `count` codes from bit `at` on, unpacked to `room` unless they are bytes already. */
static const int8_t *model_row(
    uint8_t *room, const uint8_t *weights, uint32_t at, uint32_t bits, uint32_t count)
{
    int8_t *row = (int8_t *)room;
    if (bits == 8u) {
        return (const int8_t *)(weights + (at >> 3));
    }
    for (uint32_t i = 0; i < count; i++) {
        row[i] = (int8_t)model_weight(weights, at + i * bits, bits);
    }
    return row;
}
"""
BYTES = """\
#define MODEL_BYTES(type) ((type) <= MODEL_S8 ? 1u : (type) <= MODEL_S16 ? 2u : 4u)
"""


def write_access(code: str, reads: set[str], writes: set[str]) -> str:
    """The functions that read and write single codes, as far as `code` calls them.

    Args:
        code: The kernels.
        reads: The types of codes, keys of `TYPES`, that kernels read by `model_get`.
        writes: The types that they write by `model_put`.

    Example:
        >>> "uint16_t" in write_access("model_put(", set(), {"U16"})
        True
        >>> write_access("", {"U8"}, {"U8"})
        ''
    """
    parts = []
    if "model_get(" in code:
        parts.append(_cases(GET, reads, NEAR, FAR))
    if "model_put(" in code:
        parts.append(_cases(PUT, writes, NARROW, WIDE))
    return "\n".join(parts)


def _cases(text: str, types: set[str], byte: str, wide: str) -> str:
    """A switch over the types that a net has."""
    cases = "".join(
        (byte if name.endswith("8") else wide).replace("@TYPE@", name).replace("@C@", TYPES[name])
        for name in TYPES
        if name in types
    )
    return text.replace("@CASES@", cases)
