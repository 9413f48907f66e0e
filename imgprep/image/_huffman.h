/* Huffman decoding of a baseline JPEG scan (ITU-T T.81 annex F.2), faster than libjpeg's.
 *
 * It knows sound data only: whatever is out of order (an unknown code, a run past the end of a
 * block, data that end early or late, a restart marker out of turn) makes it give up, and what
 * that means is left to another decoder. Two things make it fast. The stuffed zero bytes are
 * taken out beforehand, so that eight bytes can be loaded without a look at each; and one look-up
 * gives the length of a code together with the bits of its value, so that the next look-up need
 * not wait until the value is known.
 */
#ifndef IMGPREP_HUFFMAN_H
#define IMGPREP_HUFFMAN_H
#include <stdint.h>
#include <string.h>

#define LOOK_BITS 10
#define CODE_BITS_MAX 16
/* 64 coefficients of at most 16 + 15 bits, and the eight bytes of the last load. */
#define OVERREAD_BYTES 512
/* The run of an end of block: past any coefficient, and not to be reached by an honest run. */
#define RUN_END 128

/* A decoded code: bits with its value | bits alone << 8 | run of zeros << 16 | value bits << 24.
 * No code has 0 bits, so 0 means none. */
typedef uint32_t Code;

typedef struct {
    Code look[1 << LOOK_BITS];
    int32_t code_end[CODE_BITS_MAX + 1]; /* codes of a length are below this, which may be 0 */
    int32_t shift[CODE_BITS_MAX + 1];    /* code + shift is its place in `codes` */
    Code codes[256];
} HuffmanTable;

static Code huffman_code(int bits, int symbol, int is_dc) {
    const int size = is_dc ? symbol : symbol & 15;
    int run = is_dc ? 0 : symbol >> 4;
    if (!is_dc && size == 0 && run != 15) run = RUN_END;
    return (Code)(bits + size) | (Code)bits << 8 | (Code)run << 16 | (Code)size << 24;
}

/* From the DHT segment: how many codes of each length (1..16), and their symbols. -1 if wrong. */
static int huffman_build(HuffmanTable *table, const uint8_t counts[CODE_BITS_MAX + 1],
                         const uint8_t symbols[256], int is_dc) {
    int32_t code = 0, n = 0;
    memset(table->look, 0, sizeof(table->look));
    for (int bits = 1; bits <= CODE_BITS_MAX; bits++, code <<= 1) {
        table->shift[bits] = n - code;
        if (code + counts[bits] > (int32_t)1 << bits || n + counts[bits] > 256) return -1;
        for (int k = 0; k < counts[bits]; k++, code++, n++) {
            if (is_dc && symbols[n] > 15) return -1;
            table->codes[n] = huffman_code(bits, symbols[n], is_dc);
            if (bits > LOOK_BITS) continue;
            const int free_bits = LOOK_BITS - bits;
            for (int32_t i = 0; i < (int32_t)1 << free_bits; i++)
                table->look[(code << free_bits) + i] = table->codes[n];
        }
        table->code_end[bits] = counts[bits] ? code : 0;
    }
    return 0;
}

/* The code at the top of `bits` where it is longer than LOOK_BITS; 0 if there is none. */
static Code huffman_long(const HuffmanTable *table, uint64_t bits) {
    for (int length = LOOK_BITS + 1; length <= CODE_BITS_MAX; length++) {
        const int32_t code = (int32_t)(bits >> (64 - length));
        if (code < table->code_end[length]) return table->codes[code + table->shift[length]];
    }
    return 0;
}

/* A stretch of a scan between two markers, without its stuffed bytes. `bits` holds the next
 * `count` bits (or more) at its top; `next` is the first byte that is not wholly in it. */
typedef struct {
    const uint8_t *next, *end;
    uint64_t bits;
    int64_t count;
} BitReader;

#define HUFFMAN_INLINE __attribute__((always_inline)) static inline

/* At least 56 bits; the bits that a load brings beyond `count` are brought again by the next. */
HUFFMAN_INLINE void bits_fill(BitReader *reader) {
    uint64_t word;
    memcpy(&word, reader->next, 8);
#if __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__
    word = __builtin_bswap64(word);
#endif
    reader->bits |= word >> reader->count;
    reader->next += (63 - reader->count) >> 3;
    reader->count |= 56;
}

/* Take the stretch at `*raw` into `to`, which has room for it and OVERREAD_BYTES more. Moves
 * `*raw` to the 0xff of the marker that ends it; -1 if the file ends first. */
static int bits_open(BitReader *reader, const uint8_t **raw, const uint8_t *raw_end, uint8_t *to) {
    const uint8_t *from = *raw;
    reader->next = to;
    reader->bits = 0;
    reader->count = 0;
    for (;;) {
        const uint8_t *mark = memchr(from, 0xff, (size_t)(raw_end - from));
        if (!mark || mark + 1 >= raw_end) return -1;
        const size_t run = (size_t)(mark - from);
        memcpy(to, from, run);
        to += run;
        if (mark[1] != 0) {
            *raw = mark;
            break;
        }
        *to++ = 0xff;
        from = mark + 2;
    }
    reader->end = to;
    memset(to, 0, OVERREAD_BYTES);
    bits_fill(reader);
    return 0;
}

/* Bits of the stretch not yet used, less than 0 when too many were. */
static inline int64_t bits_left(const BitReader *reader) {
    return 8 * (reader->end - reader->next) + reader->count;
}

/* The next code; afterwards there are bits for its value too. At least 25 bits are there before,
 * which the look-up takes as they are: so it need not wait for the load. There is no branch on
 * how many, which could not be foretold. */
HUFFMAN_INLINE Code bits_code(BitReader *reader, const HuffmanTable *table) {
    const Code code = table->look[reader->bits >> (64 - LOOK_BITS)];
    bits_fill(reader);
    return __builtin_expect(code != 0, 1) ? code : huffman_long(table, reader->bits);
}

/* The value after a code (T.81 EXTEND): its upper half stands for itself, its lower half for the
 * negative numbers. Without a branch: which half it is cannot be foretold. */
HUFFMAN_INLINE int32_t bits_value(uint64_t bits, Code code) {
    const uint64_t at = bits << (code >> 8 & 0xff);
    const int size = (int)(code >> 24);
    const int32_t lower = (int32_t)~((int64_t)at >> 63);
    return (int32_t)(at >> 1 >> (63 - size)) + (lower & (int32_t)(1 - ((uint32_t)1 << size)));
}

HUFFMAN_INLINE void bits_drop(BitReader *reader, Code code) {
    reader->bits <<= code & 0xff;
    reader->count -= code & 0xff;
}

static const uint8_t NATURAL_ORDER[64] = {
    0,  1,  8,  16, 9,  2,  3,  10, 17, 24, 32, 25, 18, 11, 4,  5,  12, 19, 26, 33, 40, 48,
    41, 34, 27, 20, 13, 6,  7,  14, 21, 28, 35, 42, 49, 56, 57, 50, 43, 36, 29, 22, 15, 23,
    30, 37, 44, 51, 58, 59, 52, 45, 38, 31, 39, 46, 53, 60, 61, 54, 47, 55, 62, 63};

/* One block into 64 zeros, or nowhere unless `keep`. -1 if the data are not sound. */
HUFFMAN_INLINE int huffman_block(BitReader *reader, const HuffmanTable *dc, const HuffmanTable *ac,
                                 int32_t *last_dc, int16_t *block, int keep) {
    Code code = bits_code(reader, dc);
    if (code == 0) return -1;
    *last_dc = (int32_t)((uint32_t)*last_dc + (uint32_t)bits_value(reader->bits, code));
    if (keep) block[0] = (int16_t)*last_dc;
    bits_drop(reader, code);
    for (uint32_t k = 1; k < 64; k++) {
        code = bits_code(reader, ac);
        if (code == 0) return -1;
        k += code >> 16 & 0xff;
        if (k > 63) {
            if (k < RUN_END) return -1;
            bits_drop(reader, code);
            break;
        }
        if (keep) block[NATURAL_ORDER[k]] = (int16_t)bits_value(reader->bits, code);
        bits_drop(reader, code);
    }
    return bits_left(reader) < 0 ? -1 : 0;
}
#endif
