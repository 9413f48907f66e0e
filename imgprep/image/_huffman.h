/* Huffman decoding of a baseline JPEG scan (ITU-T T.81 annex F.2), faster than libjpeg's.
 *
 * It decodes undamaged data only: on any fault (an unknown code, a run past the end of a block,
 * data that end early or late, a restart marker out of order) it fails, and the caller uses another
 * decoder, which reports the fault. It is fast for two reasons. The stuffed zero bytes are removed
 * beforehand, so eight bytes can be loaded without checking each; and one look-up gives the length
 * of a code together with the number of bits of its value, so the next look-up need not wait for
 * the value.
 */
#ifndef IMGPREP_HUFFMAN_H
#define IMGPREP_HUFFMAN_H
#include <stdint.h>
#include <string.h>

#define LOOK_BITS 10
#define CODE_BITS_MAX 16
/* Zero bytes after the data: 64 coefficients of at most 16 + 15 bits, and an eight-byte load. */
#define OVERREAD_BYTES 512
/* The run length of an end of block: larger than any that a valid run can reach. */
#define RUN_END 128

/* A decoded code: bits of code and value | bits of code << 8 | run of zeros << 16 | bits of value
 * << 24. No code has 0 bits, so 0 means that there is no code. */
typedef uint32_t Code;

typedef struct {
    Code look[1 << LOOK_BITS];
    int32_t code_end[CODE_BITS_MAX + 1]; /* codes of this length are below it; 0: none */
    int32_t shift[CODE_BITS_MAX + 1];    /* code + shift is its index in `codes` */
    Code codes[256];
} HuffmanTable;

static Code huffman_code(int bits, int symbol, int is_dc) {
    const int size = is_dc ? symbol : symbol & 15;
    int run = is_dc ? 0 : symbol >> 4;
    if (!is_dc && size == 0 && run != 15) run = RUN_END;
    return (Code)(bits + size) | (Code)bits << 8 | (Code)run << 16 | (Code)size << 24;
}

/* Build from a DHT segment: the number of codes of each length (1..16), and their symbols.
 * Returns -1 if they are invalid. */
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

/* The code at the top of `bits` if it is longer than LOOK_BITS; 0 if there is none. */
static Code huffman_long(const HuffmanTable *table, uint64_t bits) {
    for (int length = LOOK_BITS + 1; length <= CODE_BITS_MAX; length++) {
        const int32_t code = (int32_t)(bits >> (64 - length));
        if (code < table->code_end[length]) return table->codes[code + table->shift[length]];
    }
    return 0;
}

/* Reads a segment (the data of a scan between two markers) without its stuffed bytes. The next
 * `count` bits, or more, are at the top of `bits`; `next` is the first byte not wholly in it. */
typedef struct {
    const uint8_t *next, *end;
    uint64_t bits;
    int64_t count;
} BitReader;

#define HUFFMAN_INLINE __attribute__((always_inline)) static inline

/* Fill `bits` to at least 56 bits. Bits loaded beyond `count` are loaded again by the next call. */
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

/* Copy the segment at `*raw` to `to`, which has room for it and OVERREAD_BYTES more. Moves `*raw`
 * to the 0xff of the marker that ends it; returns -1 if the file ends first. */
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

/* The number of unused bits of the segment; negative if too many were used. */
static inline int64_t bits_left(const BitReader *reader) {
    return 8 * (reader->end - reader->next) + reader->count;
}

/* The next code; afterwards `bits` has its value too. The look-up uses the at least 25 bits that
 * are present before, so it need not wait for the load. There is no branch on their number, which
 * the processor could not predict. */
HUFFMAN_INLINE Code bits_code(BitReader *reader, const HuffmanTable *table) {
    const Code code = table->look[reader->bits >> (64 - LOOK_BITS)];
    bits_fill(reader);
    return __builtin_expect(code != 0, 1) ? code : huffman_long(table, reader->bits);
}

/* The value after a code (T.81 EXTEND): the upper half of its range is positive, the lower half
 * stands for negative numbers. Branch-free, because the sign cannot be predicted. */
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

/* Decode one block into 64 zeros, or, unless `keep`, only skip it. -1 if the data are damaged. */
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
