/* Pixel arithmetic of imgprep: area shrinking of a crop, and exact colour moments.
 *
 * Each function has an AVX2 version and a plain C version, which do the same integer operations in
 * the same order and so give the same bytes; the caller chooses one (`use_avx2`). Rounding rules
 * are stated beside the code. The numpy fallback in kernel.py is the exact reference for both.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define WITH_AVX2 1
#include <immintrin.h>
#define AVX2 __attribute__((target("avx2")))
#else
#define WITH_AVX2 0
#endif

/* Sums of weights (at most a source side) times 255 must fit 32 bits. */
#define SIDE_MAX (1 << 24)
/* With more taps than this on an axis, the exact 64-bit version is used. */
#define FIXED_TAPS_MAX 32

/* ---- weights ---------------------------------------------------------------------------- */

/* Output k of an axis is the mean of source samples start[k] .. start[k]+count[k]-1, weighted by
 * the values from weights[k*stride]; the rest of its stride is zero. */
typedef struct {
    int32_t *start, *count;
    uint32_t *weights;
    int64_t stride;
    int64_t begin, end; /* source samples used by any output */
} Axis;

static void axis_free(Axis *axis) {
    free(axis->start);
    free(axis->count);
    free(axis->weights);
}

static int fits_fixed(int64_t n_source, int64_t n_scaled) {
    return n_source <= (FIXED_TAPS_MAX - 1) * n_scaled;
}

/* Weights of outputs first .. first+size-1 when n_source samples shrink to n_scaled.
 *
 * In units of 1/(n_source*n_scaled) of the side, source sample j covers
 * [j*n_scaled, (j+1)*n_scaled) and output i covers [i*n_source, (i+1)*n_source). Exact weights are
 * the lengths of the overlaps; they sum to n_source. Fixed-point weights are in units of 1/65536,
 * rounded cumulatively so that they sum to 65536, and stored twice in 32 bits for a broadcast load.
 * A single tap has weight 65535; the rounding of the sums absorbs the loss of 1/256 level. */
static int axis_build(Axis *axis, int64_t n_source, int64_t n_scaled, int64_t first,
                      int64_t size, int exact) {
    int64_t pos = first * n_source;
    int64_t j = pos / n_scaled, edge = (j + 1) * n_scaled;
    axis->begin = j;
    axis->end = ((first + size) * n_source + n_scaled - 1) / n_scaled;
    axis->stride = (n_source + n_scaled - 1) / n_scaled + 1;
    axis->start = malloc((size_t)size * sizeof(int32_t));
    axis->count = malloc((size_t)size * sizeof(int32_t));
    axis->weights = calloc((size_t)(size * axis->stride), sizeof(uint32_t));
    if (!axis->start || !axis->count || !axis->weights) return -1;
    const uint64_t inverse = ((uint64_t)1 << 48) / (uint64_t)n_source;
    for (int64_t k = 0; k < size; k++) {
        const int64_t from = pos, to = pos + n_source;
        uint32_t *out = axis->weights + k * axis->stride;
        uint32_t before = 0;
        int32_t taps = 0;
        axis->start[k] = (int32_t)j;
        while (pos < to) {
            const int64_t stop = edge < to ? edge : to;
            if (exact) {
                out[taps++] = (uint32_t)(stop - pos);
            } else {
                const uint64_t sum = (uint64_t)(stop - from) * inverse + ((uint64_t)1 << 31);
                const uint32_t upto = (uint32_t)(sum >> 32);
                const uint32_t weight = upto - before > 65535 ? 65535 : upto - before;
                out[taps++] = weight | weight << 16;
                before = upto;
            }
            pos = stop;
            if (stop == edge) {
                j++;
                edge += n_scaled;
            }
        }
        axis->count[k] = taps;
    }
    return 0;
}

/* ---- area shrinking --------------------------------------------------------------------- */

/* `source` may be a region of an image of `full` height and width; it starts at `origin` (row,
 * column) and has its own height and width. The axes index its samples. */
typedef struct {
    const uint8_t *source;
    int64_t height, width;
    int64_t full[2], origin[2];
    uint8_t *out;
    int64_t tall, wide; /* of `out` */
    Axis rows, columns;
} Shrink;

/* Exact, for any shrink factor: sums of overlap products in 64 bits, then rounded half up. */
static int shrink_exact(const Shrink *job) {
    const Axis *rows = &job->rows, *columns = &job->columns;
    const int64_t begin = columns->begin, values = 3 * (columns->end - begin);
    const uint64_t area = (uint64_t)job->full[0] * (uint64_t)job->full[1];
    uint32_t *line = malloc((size_t)values * sizeof(uint32_t));
    if (!line) return -1;
    for (int64_t i = 0; i < job->tall; i++) {
        memset(line, 0, (size_t)values * sizeof(uint32_t));
        for (int32_t t = 0; t < rows->count[i]; t++) {
            const uint8_t *row = job->source + 3 * ((rows->start[i] + t) * job->width + begin);
            const uint32_t weight = rows->weights[i * rows->stride + t];
            for (int64_t x = 0; x < values; x++) line[x] += weight * row[x];
        }
        for (int64_t k = 0; k < job->wide; k++) {
            const uint32_t *weights = columns->weights + k * columns->stride;
            const uint32_t *tap = line + 3 * (columns->start[k] - begin);
            uint64_t sum[3] = {0, 0, 0};
            for (int32_t t = 0; t < columns->count[k]; t++)
                for (int c = 0; c < 3; c++) sum[c] += (uint64_t)weights[t] * tap[3 * t + c];
            for (int c = 0; c < 3; c++)
                job->out[3 * (i * job->wide + k) + c] = (uint8_t)((sum[c] + area / 2) / area);
        }
    }
    free(line);
    return 0;
}

/* Fixed point, both passes: value (unsigned 16 bits, 8 of them fractional) times weight (1/65536),
 * truncated to the high half of the product, plus half a unit per tap for the truncation. The sums
 * stay below 65536: at most 255*256, plus 16 per pass, plus 128 for the last rounding. */
static inline uint16_t fixed_tap(uint16_t value, uint32_t weight_twice) {
    return (uint16_t)(((uint32_t)value * (weight_twice & 0xffff)) >> 16);
}

static int shrink_fixed_plain(const Shrink *job) {
    const Axis *rows = &job->rows, *columns = &job->columns;
    const int64_t begin = columns->begin, values = 3 * (columns->end - begin);
    uint16_t *line = malloc((size_t)values * sizeof(uint16_t));
    if (!line) return -1;
    for (int64_t i = 0; i < job->tall; i++) {
        for (int64_t x = 0; x < values; x++) line[x] = (uint16_t)(rows->count[i] / 2);
        for (int32_t t = 0; t < rows->count[i]; t++) {
            const uint8_t *row = job->source + 3 * ((rows->start[i] + t) * job->width + begin);
            const uint32_t weight = rows->weights[i * rows->stride + t];
            for (int64_t x = 0; x < values; x++)
                line[x] = (uint16_t)(line[x] + fixed_tap((uint16_t)(row[x] << 8), weight));
        }
        for (int64_t k = 0; k < job->wide; k++) {
            const uint32_t *weights = columns->weights + k * columns->stride;
            const uint16_t *tap = line + 3 * (columns->start[k] - begin);
            uint8_t *out = job->out + 3 * (i * job->wide + k);
            for (int c = 0; c < 3; c++) {
                uint16_t sum = (uint16_t)(columns->count[k] / 2 + 128);
                for (int32_t t = 0; t < columns->count[k]; t++)
                    sum = (uint16_t)(sum + fixed_tap(tap[3 * t + c], weights[t]));
                out[c] = (uint8_t)(sum >> 8);
            }
        }
    }
    free(line);
    return 0;
}

#if WITH_AVX2
/* Four output rows at a time. The vertical pass handles eight source pixels per step and writes one
 * 32-byte cell per pixel (row 0 rgb_, row 1 rgb_, row 2 rgb_, row 3 rgb_), so the horizontal pass
 * multiplies a whole cell by one broadcast weight. Both passes use the same number of taps for
 * every output (weight 0 adds nothing): a loop of constant length has no mispredicted branch. */
#define STEP_PIXELS 8
#define STEP_BYTES (3 * STEP_PIXELS)
/* A step loads 16 bytes at 0 and at 12, which reads this many bytes past its own. */
#define STEP_OVERREAD 4
#define ALWAYS_INLINE AVX2 __attribute__((always_inline)) static inline

typedef struct {
    __m256i bias[4], weight[4][FIXED_TAPS_MAX];
    const uint8_t *row[4][FIXED_TAPS_MAX];
} Group;

ALWAYS_INLINE void store_cells(uint16_t *cells, const __m256i half[4]) {
    const __m256i even_01 = _mm256_unpacklo_epi64(half[0], half[1]);
    const __m256i even_23 = _mm256_unpacklo_epi64(half[2], half[3]);
    const __m256i odd_01 = _mm256_unpackhi_epi64(half[0], half[1]);
    const __m256i odd_23 = _mm256_unpackhi_epi64(half[2], half[3]);
    __m256i *to = (__m256i *)cells;
    _mm256_store_si256(to + 0, _mm256_permute2x128_si256(even_01, even_23, 0x20));
    _mm256_store_si256(to + 1, _mm256_permute2x128_si256(odd_01, odd_23, 0x20));
    _mm256_store_si256(to + 4, _mm256_permute2x128_si256(even_01, even_23, 0x31));
    _mm256_store_si256(to + 5, _mm256_permute2x128_si256(odd_01, odd_23, 0x31));
}

ALWAYS_INLINE void vertical_body(const Group *group, int64_t taps, int64_t steps,
                                 uint16_t *cells) {
    /* Pixels 0,1 (4,5 in the upper lane) and 2,3 (6,7). Each byte moves to the high half of its 16
     * bits, which multiplies it by 256; the fourth value of a pixel is zero. */
    const __m256i low = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 0, -1, 1, -1, 2, -1, -1, -1, 3, -1, 4, -1, 5, -1, -1));
    const __m256i high = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 6, -1, 7, -1, 8, -1, -1, -1, 9, -1, 10, -1, 11, -1, -1));
    for (int64_t step = 0; step < steps; step++, cells += 16 * STEP_PIXELS) {
        __m256i first[4], second[4];
#pragma GCC unroll 4
        for (int r = 0; r < 4; r++) {
            __m256i sum_low = group->bias[r], sum_high = sum_low;
#pragma GCC unroll 5
            for (int64_t t = 0; t < taps; t++) {
                const uint8_t *at = group->row[r][t] + STEP_BYTES * step;
                const __m256i weight = group->weight[r][t];
                const __m256i pixels = _mm256_inserti128_si256(
                    _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)at)),
                    _mm_loadu_si128((const __m128i *)(at + 12)), 1);
                sum_low = _mm256_add_epi16(
                    sum_low, _mm256_mulhi_epu16(_mm256_shuffle_epi8(pixels, low), weight));
                sum_high = _mm256_add_epi16(
                    sum_high, _mm256_mulhi_epu16(_mm256_shuffle_epi8(pixels, high), weight));
            }
            first[r] = sum_low;
            second[r] = sum_high;
        }
        store_cells(cells, first);
        store_cells(cells + 2 * 16, second);
    }
}

ALWAYS_INLINE void store_pixels(uint8_t *to, __m128i rgb, int64_t pixels) {
    if (pixels == 4) {
        const int32_t tail = _mm_extract_epi32(rgb, 2);
        _mm_storel_epi64((__m128i *)to, rgb);
        memcpy(to + 8, &tail, 4);
    } else {
        uint8_t bytes[16];
        _mm_storeu_si128((__m128i *)bytes, rgb);
        memcpy(to, bytes, (size_t)(3 * pixels));
    }
}

ALWAYS_INLINE void horizontal_body(const uint16_t *cells, const Axis *columns, int64_t taps,
                                   int64_t size, uint8_t *const out[4]) {
    const __m256i pack = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
    for (int64_t k = 0; k < size; k += 4) {
        __m256i pixel[4];
#pragma GCC unroll 4
        for (int q = 0; q < 4; q++) {
            const int64_t at = k + q < size ? k + q : size - 1;
            const uint32_t *weights = columns->weights + at * taps;
            const __m256i *cell =
                (const __m256i *)(cells + 16 * (columns->start[at] - columns->begin));
            __m256i sum = _mm256_set1_epi16((int16_t)(columns->count[at] / 2 + 128));
#pragma GCC unroll 5
            for (int64_t t = 0; t < taps; t++)
                sum = _mm256_add_epi16(
                    sum, _mm256_mulhi_epu16(_mm256_load_si256(cell + t),
                                            _mm256_set1_epi32((int32_t)weights[t])));
            pixel[q] = _mm256_srli_epi16(sum, 8);
        }
        const __m256 left = _mm256_castsi256_ps(_mm256_packus_epi16(pixel[0], pixel[1]));
        const __m256 right = _mm256_castsi256_ps(_mm256_packus_epi16(pixel[2], pixel[3]));
        /* Lanes: rows 0 and 2, rows 1 and 3. */
        const __m256i rows_02 = _mm256_shuffle_epi8(
            _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0x88)), pack);
        const __m256i rows_13 = _mm256_shuffle_epi8(
            _mm256_castps_si256(_mm256_shuffle_ps(left, right, 0xdd)), pack);
        const int64_t pixels = size - k < 4 ? size - k : 4;
        store_pixels(out[0] + 3 * k, _mm256_castsi256_si128(rows_02), pixels);
        store_pixels(out[1] + 3 * k, _mm256_castsi256_si128(rows_13), pixels);
        store_pixels(out[2] + 3 * k, _mm256_extracti128_si256(rows_02, 1), pixels);
        store_pixels(out[3] + 3 * k, _mm256_extracti128_si256(rows_13, 1), pixels);
    }
}

/* The loops for 3, 4 and 5 taps (shrink factors up to 2, 3 and 4) are unrolled. */
AVX2 static void vertical_avx2(const Group *group, int64_t taps, int64_t steps, uint16_t *cells) {
    switch (taps) {
    case 3: vertical_body(group, 3, steps, cells); break;
    case 4: vertical_body(group, 4, steps, cells); break;
    case 5: vertical_body(group, 5, steps, cells); break;
    default: vertical_body(group, taps, steps, cells);
    }
}

AVX2 static void horizontal_avx2(const uint16_t *cells, const Axis *columns, int64_t size,
                                 uint8_t *const out[4]) {
    switch (columns->stride) {
    case 3: horizontal_body(cells, columns, 3, size, out); break;
    case 4: horizontal_body(cells, columns, 4, size, out); break;
    case 5: horizontal_body(cells, columns, 5, size, out); break;
    default: horizontal_body(cells, columns, columns->stride, size, out);
    }
}

/* Set the inputs of the vertical pass for output row `row`, the `r`th of its group. Taps of weight
 * 0 read the row of the first tap, which always exists. */
AVX2 static void fill_group(Group *group, int r, int64_t row, const Axis *rows,
                            const uint8_t *const *row_at) {
    group->bias[r] = _mm256_set1_epi16((int16_t)(rows->count[row] / 2));
    for (int64_t t = 0; t < rows->stride; t++) {
        const int64_t y = rows->start[row] + (t < rows->count[row] ? t : 0);
        group->weight[r][t] = _mm256_set1_epi32((int32_t)rows->weights[row * rows->stride + t]);
        group->row[r][t] = row_at[y - rows->begin];
    }
}

AVX2 static int shrink_fixed_avx2(const Shrink *job) {
    const Axis *rows = &job->rows, *columns = &job->columns;
    const int64_t n_rows = rows->end - rows->begin, pitch = 3 * job->width;
    const int64_t steps = (columns->end - columns->begin + STEP_PIXELS - 1) / STEP_PIXELS;
    const int64_t reach = STEP_BYTES * steps + STEP_OVERREAD;
    const uint8_t *corner = job->source + rows->begin * pitch + 3 * columns->begin;
    /* Rows so close to the end of the image that a step would read past it are copied. */
    const int64_t room = job->source + job->height * pitch - corner - reach;
    const int64_t direct = room < 0 ? 0 : room / pitch + 1;
    const int64_t copies = n_rows > direct ? n_rows - direct : 0;
    const size_t cell_bytes = (size_t)(32 * (STEP_PIXELS * steps + columns->stride));
    const size_t table_bytes = (size_t)n_rows * sizeof(uint8_t *);
    uint8_t *scratch = calloc(1, 32 + cell_bytes + table_bytes + (size_t)(copies * reach));
    if (!scratch) return -1;
    uint16_t *cells = (uint16_t *)(((uintptr_t)scratch + 31) & ~(uintptr_t)31);
    const uint8_t **row_at = (const uint8_t **)((uint8_t *)cells + cell_bytes);
    uint8_t *copied = (uint8_t *)row_at + table_bytes;
    for (int64_t y = 0; y < n_rows; y++) {
        row_at[y] = corner + y * pitch;
        if (y < direct) continue;
        const int64_t have = job->source + job->height * pitch - row_at[y];
        memcpy(copied, row_at[y], (size_t)(have < reach ? have : reach));
        row_at[y] = copied;
        copied += reach;
    }
    Group group;
    for (int64_t i = 0; i < job->tall; i += 4) {
        uint8_t *out[4];
        for (int r = 0; r < 4; r++) {
            const int64_t row = i + r < job->tall ? i + r : job->tall - 1;
            fill_group(&group, r, row, rows, row_at);
            out[r] = job->out + 3 * row * job->wide;
        }
        vertical_avx2(&group, rows->stride, steps, cells);
        horizontal_avx2(cells, columns, job->wide, out);
    }
    free(scratch);
    return 0;
}
#endif

/* ---- moments ---------------------------------------------------------------------------- */

/* The order of the six sums is rr, gg, bb, rg, rb, gb everywhere. */
static void moments_plain(const uint8_t *rgb, uint32_t *sum, int64_t pixels, uint64_t second[6]) {
    for (int64_t i = 0; i < pixels; i++, rgb += 3, sum += 3) {
        const uint32_t r = rgb[0], g = rgb[1], b = rgb[2];
        sum[0] += r;
        sum[1] += g;
        sum[2] += b;
        second[0] += r * r;
        second[1] += g * g;
        second[2] += b * b;
        second[3] += r * g;
        second[4] += r * b;
        second[5] += g * b;
    }
}

#if WITH_AVX2
#define BLOCK_PIXELS 32
/* A block adds at most 4*255*255 to a 32-bit lane, so a lane can hold 16512 blocks. */
#define BLOCKS_MAX 16384

AVX2 static inline void add_bytes(uint32_t *sum, const uint8_t *bytes) {
    __m256i *to = (__m256i *)sum;
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)bytes));
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), wide));
}

AVX2 static inline __m256i two_halves(const uint8_t *bytes) {
    return _mm256_inserti128_si256(
        _mm256_castsi128_si256(_mm_loadu_si128((const __m128i *)bytes)),
        _mm_loadu_si128((const __m128i *)(bytes + 48)), 1);
}

AVX2 static inline uint64_t lanes_total(__m256i lanes) {
    uint32_t values[8];
    uint64_t total = 0;
    _mm256_storeu_si256((__m256i *)values, lanes);
    for (int i = 0; i < 8; i++) total += values[i];
    return total;
}

AVX2 static inline __m256i dot(__m256i sum, __m256i a_low, __m256i b_low, __m256i a_high,
                               __m256i b_high) {
    return _mm256_add_epi32(sum, _mm256_add_epi32(_mm256_madd_epi16(a_low, b_low),
                                                  _mm256_madd_epi16(a_high, b_high)));
}

/* Three loads of 16 bytes hold 16 pixels (32 in both lanes). No two of them have a colour at the
 * same byte position, so two blends gather a colour. Rotating green by one byte and blue by two
 * aligns the three colours of a pixel. The pixels are out of order, which does not affect sums. */
AVX2 static void moments_avx2(const uint8_t *rgb, uint32_t *sum, int64_t pixels,
                              uint64_t second[6]) {
    const __m256i third_0 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(-1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1));
    const __m256i third_1 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0));
    const __m256i third_2 = _mm256_broadcastsi128_si256(
        _mm_setr_epi8(0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0, 0, -1, 0));
    const __m256i zero = _mm256_setzero_si256();
    int64_t blocks = pixels / BLOCK_PIXELS;
    while (blocks > 0) {
        int64_t run = blocks < BLOCKS_MAX ? blocks : BLOCKS_MAX;
        __m256i rr = zero, gg = zero, bb = zero, rg = zero, rb = zero, gb = zero;
        blocks -= run;
        pixels -= run * BLOCK_PIXELS;
        for (; run > 0; run--, rgb += 3 * BLOCK_PIXELS, sum += 3 * BLOCK_PIXELS) {
            for (int k = 0; k < 3 * BLOCK_PIXELS; k += 8) add_bytes(sum + k, rgb + k);
            const __m256i a = two_halves(rgb), b = two_halves(rgb + 16), c = two_halves(rgb + 32);
            const __m256i red =
                _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, third_2), c, third_1);
            __m256i green = _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, third_0), c, third_2);
            __m256i blue = _mm256_blendv_epi8(_mm256_blendv_epi8(a, b, third_1), c, third_0);
            green = _mm256_alignr_epi8(green, green, 1);
            blue = _mm256_alignr_epi8(blue, blue, 2);
            const __m256i r0 = _mm256_unpacklo_epi8(red, zero), r1 = _mm256_unpackhi_epi8(red, zero);
            const __m256i g0 = _mm256_unpacklo_epi8(green, zero),
                          g1 = _mm256_unpackhi_epi8(green, zero);
            const __m256i b0 = _mm256_unpacklo_epi8(blue, zero),
                          b1 = _mm256_unpackhi_epi8(blue, zero);
            rr = dot(rr, r0, r0, r1, r1);
            gg = dot(gg, g0, g0, g1, g1);
            bb = dot(bb, b0, b0, b1, b1);
            rg = dot(rg, r0, g0, r1, g1);
            rb = dot(rb, r0, b0, r1, b1);
            gb = dot(gb, g0, b0, g1, b1);
        }
        second[0] += lanes_total(rr);
        second[1] += lanes_total(gg);
        second[2] += lanes_total(bb);
        second[3] += lanes_total(rg);
        second[4] += lanes_total(rb);
        second[5] += lanes_total(gb);
    }
    moments_plain(rgb, sum, pixels, second);
}
#endif

/* ---- Python ----------------------------------------------------------------------------- */

static int has_avx2(void) {
#if WITH_AVX2
    return __builtin_cpu_supports("avx2") != 0;
#else
    return 0;
#endif
}

static int wants_avx2(PyObject *flag) {
    const int wanted = PyObject_IsTrue(flag);
    return wanted < 0 ? -1 : wanted && has_avx2();
}

/* Get a C-contiguous (height, width, 3) buffer of the given item type. Returns -1 with an
 * exception, and without a buffer, if the object is something else. */
static int get_image(PyObject *object, Py_buffer *view, int flags, char item, const char *what) {
    if (PyObject_GetBuffer(object, view, PyBUF_C_CONTIGUOUS | PyBUF_FORMAT | flags) < 0) return -1;
    const char *format = view->format ? view->format : "B";
    if (format[0] == '@' || format[0] == '=') format++;
    if (view->ndim == 3 && view->shape[2] == 3 && view->shape[0] >= 1 && view->shape[1] >= 1 &&
        format[0] == item && format[1] == 0)
        return 0;
    PyBuffer_Release(view);
    PyErr_Format(PyExc_ValueError, "%s must be a (height, width, 3) array of type '%c'", what,
                 (int)item);
    return -1;
}

static int get_integers(PyObject *const *args, int count, int64_t *values) {
    for (int i = 0; i < count; i++) {
        values[i] = PyLong_AsLongLong(args[i]);
        if (values[i] == -1 && PyErr_Occurred()) return -1;
    }
    return 0;
}

/* Whether the sizes of one axis are valid, and the source has the samples that it needs. */
static int is_valid(const Shrink *job, int axis, int64_t n_given, int64_t n_scaled, int64_t first) {
    const int64_t n_full = job->full[axis], origin = job->origin[axis];
    const int64_t size = axis ? job->wide : job->tall;
    if (n_full < 1 || n_full >= SIDE_MAX || n_scaled < 1 || n_scaled > n_full || first < 0 ||
        first > n_scaled - size || origin < 0 || origin >= SIDE_MAX)
        return 0;
    const int64_t begin = first * n_full / n_scaled;
    const int64_t end = ((first + size) * n_full + n_scaled - 1) / n_scaled;
    return origin <= begin && end <= origin + n_given && origin + n_given <= n_full;
}

/* Index samples from the first one of the given pixels. */
static void axis_move(Axis *axis, int64_t size, int64_t origin) {
    axis->begin -= origin;
    axis->end -= origin;
    for (int64_t k = 0; k < size; k++) axis->start[k] -= (int32_t)origin;
}

static int run_shrink(Shrink *job, const int64_t scaled[2], const int64_t corner[2], int avx2) {
    const int64_t *full = job->full;
    const int exact = !fits_fixed(full[0], scaled[0]) || !fits_fixed(full[1], scaled[1]);
    int bad = axis_build(&job->rows, full[0], scaled[0], corner[0], job->tall, exact) < 0 ||
              axis_build(&job->columns, full[1], scaled[1], corner[1], job->wide, exact) < 0;
    if (!bad) {
        axis_move(&job->rows, job->tall, job->origin[0]);
        axis_move(&job->columns, job->wide, job->origin[1]);
    }
    if (!bad && exact)
        bad = shrink_exact(job);
#if WITH_AVX2
    else if (!bad && avx2)
        bad = shrink_fixed_avx2(job);
#endif
    else if (!bad)
        bad = shrink_fixed_plain(job);
    (void)avx2;
    axis_free(&job->rows);
    axis_free(&job->columns);
    return bad;
}

static PyObject *area_shrink(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 11) {
        PyErr_SetString(PyExc_TypeError,
                        "area_shrink(image, out, full_height, full_width, origin_top, "
                        "origin_left, scaled_height, scaled_width, top, left, use_avx2) takes 11 "
                        "arguments");
        return NULL;
    }
    int64_t numbers[8];
    const int avx2 = wants_avx2(args[10]);
    if (avx2 < 0 || get_integers(args + 2, 8, numbers) < 0) return NULL;
    const int64_t *scaled = numbers + 4, *corner = numbers + 6;
    Py_buffer image, out;
    if (get_image(args[0], &image, 0, 'B', "image") < 0) return NULL;
    if (get_image(args[1], &out, PyBUF_WRITABLE, 'B', "out") < 0) {
        PyBuffer_Release(&image);
        return NULL;
    }
    Shrink job = {.source = image.buf,
                  .height = image.shape[0],
                  .width = image.shape[1],
                  .full = {numbers[0], numbers[1]},
                  .origin = {numbers[2], numbers[3]},
                  .out = out.buf,
                  .tall = out.shape[0],
                  .wide = out.shape[1]};
    const int valid = is_valid(&job, 0, job.height, scaled[0], corner[0]) &&
                      is_valid(&job, 1, job.width, scaled[1], corner[1]);
    int bad = 0;
    if (valid) {
        Py_BEGIN_ALLOW_THREADS
        bad = run_shrink(&job, scaled, corner, avx2);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&image);
    PyBuffer_Release(&out);
    if (!valid) {
        PyErr_SetString(PyExc_ValueError,
                        "the scaled size must be from 1 to the source size in both axes, and the "
                        "crop must be inside it and inside the given pixels");
        return NULL;
    }
    if (bad) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static void run_moments(const Py_buffer *image, const Py_buffer *sum, uint64_t second[6],
                        int avx2) {
    const int64_t pixels = (int64_t)image->shape[0] * image->shape[1];
#if WITH_AVX2
    if (avx2) {
        moments_avx2(image->buf, sum->buf, pixels, second);
        return;
    }
#endif
    (void)avx2;
    moments_plain(image->buf, sum->buf, pixels, second);
}

static PyObject *add_moments(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 3) {
        PyErr_SetString(PyExc_TypeError,
                        "add_moments(image, pixel_sum, use_avx2) takes 3 arguments");
        return NULL;
    }
    const int avx2 = wants_avx2(args[2]);
    Py_buffer image, sum;
    if (avx2 < 0 || get_image(args[0], &image, 0, 'B', "image") < 0) return NULL;
    if (get_image(args[1], &sum, PyBUF_WRITABLE, 'I', "pixel_sum") < 0) {
        PyBuffer_Release(&image);
        return NULL;
    }
    uint64_t second[6] = {0, 0, 0, 0, 0, 0};
    const int valid = sum.shape[0] == image.shape[0] && sum.shape[1] == image.shape[1] &&
                      sum.itemsize == sizeof(uint32_t);
    if (valid) {
        Py_BEGIN_ALLOW_THREADS
        run_moments(&image, &sum, second, avx2);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&image);
    PyBuffer_Release(&sum);
    if (!valid) {
        PyErr_SetString(PyExc_ValueError, "pixel_sum must have the same shape as the image");
        return NULL;
    }
    return Py_BuildValue("(KKKKKK)", second[0], second[1], second[2], second[3], second[4],
                         second[5]);
}

static PyMethodDef methods[] = {
    {"area_shrink", (PyCFunction)(void (*)(void))area_shrink, METH_FASTCALL,
     "area_shrink(image, out, full_height, full_width, origin_top, origin_left, scaled_height, "
     "scaled_width, top, left, use_avx2)"},
    {"add_moments", (PyCFunction)(void (*)(void))add_moments, METH_FASTCALL,
     "add_moments(image, pixel_sum, use_avx2) -> (rr, gg, bb, rg, rb, gb)"},
    {NULL, NULL, 0, NULL},
};

static int module_exec(PyObject *module) {
    return PyModule_AddObjectRef(module, "HAS_AVX2", has_avx2() ? Py_True : Py_False);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, module_exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "imgprep.image._kernel", .m_size = 0, .m_methods = methods,
    .m_slots = slots};

PyMODINIT_FUNC PyInit__kernel(void) { return PyModuleDef_Init(&definition); }
