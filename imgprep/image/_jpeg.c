/* Decode a region of a JPEG image to RGB: the pixels that a centre crop needs.
 *
 * libjpeg-turbo does everything except the entropy decoding, which _huffman.h replaces. The pixels
 * are bit for bit those of a decode of the whole image: accurate integer DCT, "fancy" upsampling.
 * The data of the whole image are read, so damage outside the region is noticed too. Any image that
 * is not an undamaged baseline image of one scan is declined, and the caller uses another decoder.
 * For a fault in the data there is a message, since libjpeg does not report all faults.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define JPEG_INTERNALS /* for access to the entropy decoder, `cinfo->entropy` */
#include <jpeglib.h>

#include "_huffman.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is required: older versions do not skip and crop exactly"
#endif

#define ROWS_AT_ONCE 16
/* Fancy upsampling of a pixel reads the chroma samples beside it. */
#define MARGIN_PX 2
/* Bytes after the compressed data that are no fault: libjpeg does not count the 8 that it may have
 * loaded, and jpegwhole.py accepts one more. */
#define STRAY_BYTES_MAX 9
/* A narrower region is not cropped: libjpeg upsamples very narrow images differently. */
#define CROP_WIDTH_MIN 64

/* The tables and the DC prediction for one block of an MCU. */
typedef struct {
    const HuffmanTable *dc, *ac;
    int32_t *last_dc;
} BlockCoding;

typedef struct {
    struct jpeg_decompress_struct cinfo; /* must be first: libjpeg passes a pointer to it */
    struct jpeg_error_mgr errors;
    jmp_buf declined;
    const uint8_t *data;
    size_t data_bytes;
    uint8_t *out;
    size_t out_bytes;
    int64_t height, width, top, bottom, left, right; /* left and right become those of `out` */
    HuffmanTable dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    BlockCoding blocks[D_MAX_BLOCKS_IN_MCU];
    BitReader reader;
    const uint8_t *raw, *raw_end; /* the next marker in the scan, and the end of the file */
    uint8_t *segment;
    int32_t last_dc[MAX_COMPS_IN_SCAN];
    uint32_t restart_in, restart_number;
    char fault[JMSG_LENGTH_MAX]; /* in the data; empty if there is none or another reason */
} Job;

/* ---- errors ----------------------------------------------------------------------------- */

__attribute__((noreturn)) static void decline(j_common_ptr cinfo) {
    longjmp(((Job *)cinfo)->declined, 1);
}

__attribute__((noinline, cold, noreturn)) static void decline_fault(Job *job, const char *fault) {
    snprintf(job->fault, sizeof(job->fault), "%s", fault);
    decline((j_common_ptr)job);
}

static void on_message(j_common_ptr cinfo, int level) {
    if (level >= 0) return; /* not a warning */
    cinfo->err->format_message(cinfo, ((Job *)cinfo)->fault);
    decline(cinfo);
}

static void on_output(j_common_ptr cinfo) { (void)cinfo; }

/* ---- entropy decoding ------------------------------------------------------------------- */

static void open_segment(Job *job) {
    if (bits_open(&job->reader, &job->raw, job->raw_end, job->segment) < 0)
        decline((j_common_ptr)job);
    memset(job->last_dc, 0, sizeof(job->last_dc));
    job->restart_in = job->cinfo.restart_interval;
}

/* Everything except the padding of the last byte must have been used. */
static void close_segment(Job *job) {
    const int64_t stray_bytes = bits_left(&job->reader) / 8;
    if (stray_bytes > STRAY_BYTES_MAX) decline_fault(job, "unused bytes after the image data");
    if (stray_bytes > 0) decline((j_common_ptr)job);
}

static void restart(Job *job) {
    close_segment(job);
    while (job->raw[1] == 0xff && job->raw + 2 < job->raw_end) job->raw++; /* fill bytes */
    if (job->raw[1] != JPEG_RST0 + job->restart_number)
        decline_fault(job, "a restart marker is missing or out of order");
    job->raw += 2;
    job->restart_number = (job->restart_number + 1) & 7;
    open_segment(job);
}

HUFFMAN_INLINE int decode_blocks(Job *job, BitReader *reader, JBLOCKROW *blocks, int keep) {
    for (int i = 0; i < job->cinfo.blocks_in_MCU; i++) {
        const BlockCoding *coding = &job->blocks[i];
        if (huffman_block(reader, coding->dc, coding->ac, coding->last_dc,
                          keep ? blocks[i][0] : NULL, keep) < 0)
            return -1;
    }
    return 0;
}

/* libjpeg passes no blocks (NULL) for the rows that it skips. */
HUFFMAN_INLINE boolean decode_mcu_body(Job *job, JBLOCKROW *blocks) {
    if (job->cinfo.restart_interval) {
        if (job->restart_in == 0) restart(job);
        job->restart_in--;
    }
    BitReader reader = job->reader;
    const int bad = blocks ? decode_blocks(job, &reader, blocks, 1)
                           : decode_blocks(job, &reader, NULL, 0);
    if (__builtin_expect(bad, 0)) /* without the hint the loop is 3 % slower */
        decline_fault(job, "the image data ends early or has an invalid Huffman code or run");
    job->reader = reader;
    return TRUE;
}

static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
    return decode_mcu_body((Job *)cinfo, blocks);
}

#if defined(__x86_64__)
/* With BMI2 a shift by a variable amount takes one operation instead of three. */
__attribute__((target("bmi2"))) static boolean decode_mcu_bmi2(j_decompress_ptr cinfo,
                                                              JBLOCKROW *blocks) {
    return decode_mcu_body((Job *)cinfo, blocks);
}
#endif

static void build_tables(Job *job) {
    for (int c = 0; c < job->cinfo.comps_in_scan; c++) {
        const jpeg_component_info *component = job->cinfo.cur_comp_info[c];
        const JHUFF_TBL *dc = job->cinfo.dc_huff_tbl_ptrs[component->dc_tbl_no];
        const JHUFF_TBL *ac = job->cinfo.ac_huff_tbl_ptrs[component->ac_tbl_no];
        if (!dc || !ac ||
            huffman_build(&job->dc[component->dc_tbl_no], dc->bits, dc->huffval, 1) < 0 ||
            huffman_build(&job->ac[component->ac_tbl_no], ac->bits, ac->huffval, 0) < 0)
            decline((j_common_ptr)job);
    }
    for (int i = 0; i < job->cinfo.blocks_in_MCU; i++) {
        const int c = job->cinfo.MCU_membership[i];
        const jpeg_component_info *component = job->cinfo.cur_comp_info[c];
        job->blocks[i] = (BlockCoding){&job->dc[component->dc_tbl_no],
                                       &job->ac[component->ac_tbl_no], &job->last_dc[c]};
    }
}

/* Call it after jpeg_start_decompress, which reads the scan header and checks its tables. */
static void replace_entropy_decoder(Job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    if (cinfo->unread_marker) decline((j_common_ptr)job);
    build_tables(job);
    job->raw = cinfo->src->next_input_byte;
    job->raw_end = job->raw + cinfo->src->bytes_in_buffer;
    job->segment = malloc(cinfo->src->bytes_in_buffer + OVERREAD_BYTES);
    if (!job->segment) decline((j_common_ptr)job);
    open_segment(job);
    cinfo->entropy->decode_mcu = decode_mcu;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("bmi2")) cinfo->entropy->decode_mcu = decode_mcu_bmi2;
#endif
}

/* Let libjpeg continue after the scan, where it looks for the end of the image. */
static void finish_entropy_decoder(Job *job) {
    close_segment(job);
    job->cinfo.src->next_input_byte = job->raw;
    job->cinfo.src->bytes_in_buffer = (size_t)(job->raw_end - job->raw);
}

/* ---- the region ------------------------------------------------------------------------- */

static void read_header(Job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    jpeg_create_decompress(cinfo);
    jpeg_mem_src(cinfo, job->data, (unsigned long)job->data_bytes);
    jpeg_save_markers(cinfo, JPEG_APP0 + 2, 0xffff);
    jpeg_read_header(cinfo, TRUE);
    JOCTET *profile = NULL;
    unsigned int profile_bytes = 0;
    /* TurboJPEG does this too: libjpeg then warns of a malformed colour profile. */
    if (jpeg_read_icc_profile(cinfo, &profile, &profile_bytes)) free(profile);
    const int known = cinfo->jpeg_color_space == JCS_YCbCr ||
                      cinfo->jpeg_color_space == JCS_GRAYSCALE;
    if (cinfo->image_height != job->height || cinfo->image_width != job->width || !known ||
        cinfo->data_precision != 8 || cinfo->progressive_mode || cinfo->arith_code ||
        jpeg_has_multiple_scans(cinfo))
        decline((j_common_ptr)job);
    cinfo->out_color_space = JCS_RGB;
    cinfo->dct_method = JDCT_ISLOW;
    cinfo->do_fancy_upsampling = TRUE;
}

/* Crop columns, which libjpeg does in whole MCUs. Sets the columns that `out` gets. */
static void crop_columns(Job *job) {
    int64_t left = job->left - MARGIN_PX, right = job->right + MARGIN_PX;
    if (left < 0) left = 0;
    if (right > job->width) right = job->width;
    JDIMENSION offset = 0, width = (JDIMENSION)job->width;
    if (right - left < job->width && right - left >= CROP_WIDTH_MIN) {
        offset = (JDIMENSION)left;
        width = (JDIMENSION)(right - left);
        jpeg_crop_scanline(&job->cinfo, &offset, &width);
    }
    job->left = offset;
    job->right = (int64_t)offset + job->cinfo.output_width;
}

static void read_rows(Job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    const size_t pitch = 3 * (size_t)cinfo->output_width;
    if (pitch > job->out_bytes / (size_t)(job->bottom - job->top)) decline((j_common_ptr)job);
    if (job->top > 0) jpeg_skip_scanlines(cinfo, (JDIMENSION)job->top);
    while (cinfo->output_scanline < job->bottom) {
        JSAMPROW rows[ROWS_AT_ONCE];
        const int64_t left = job->bottom - cinfo->output_scanline;
        const int64_t n = left < ROWS_AT_ONCE ? left : ROWS_AT_ONCE;
        uint8_t *at = job->out + pitch * (size_t)(cinfo->output_scanline - job->top);
        for (int64_t i = 0; i < n; i++) rows[i] = at + pitch * (size_t)i;
        jpeg_read_scanlines(cinfo, rows, (JDIMENSION)n);
    }
    if (cinfo->output_scanline == cinfo->output_height) return;
    /* libjpeg reads nothing if it skips to the end, so skip to the last row and read that. */
    JSAMPROW last = cinfo->mem->alloc_small((j_common_ptr)cinfo, JPOOL_IMAGE, pitch);
    jpeg_skip_scanlines(cinfo, cinfo->output_height - 1 - cinfo->output_scanline);
    jpeg_read_scanlines(cinfo, &last, 1);
}

/* Whether the region was decoded. `done` is volatile because it is read after the longjmp. */
static int run(Job *job) {
    volatile int done = 0;
    job->cinfo.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = decline;
    job->errors.emit_message = on_message;
    job->errors.output_message = on_output;
    if (setjmp(job->declined) == 0) {
        read_header(job);
        jpeg_start_decompress(&job->cinfo);
        replace_entropy_decoder(job);
        crop_columns(job);
        read_rows(job);
        finish_entropy_decoder(job);
        jpeg_finish_decompress(&job->cinfo);
        done = 1;
    }
    jpeg_destroy_decompress(&job->cinfo);
    free(job->segment);
    return done;
}

/* ---- Python ----------------------------------------------------------------------------- */

static int parse(PyObject *const *args, Job *job) {
    int64_t *const values[6] = {&job->height, &job->width, &job->top,
                                &job->bottom, &job->left,  &job->right};
    for (int i = 0; i < 6; i++) {
        *values[i] = PyLong_AsLongLong(args[i]);
        if (*values[i] == -1 && PyErr_Occurred()) return -1;
    }
    if (job->height <= JPEG_MAX_DIMENSION && job->width <= JPEG_MAX_DIMENSION && job->top >= 0 &&
        job->top < job->bottom && job->bottom <= job->height && job->left >= 0 &&
        job->left < job->right && job->right <= job->width)
        return 0;
    PyErr_SetString(PyExc_ValueError, "the region must be inside the image, and the image no "
                                      "larger than a JPEG can be");
    return -1;
}

static PyObject *decode_region(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 8) {
        PyErr_SetString(PyExc_TypeError, "decode_region(data, out, height, width, top, bottom, "
                                         "left, right) takes 8 arguments");
        return NULL;
    }
    Py_buffer data, out;
    PyObject *result = NULL;
    Job *job = calloc(1, sizeof(Job));
    if (!job) return PyErr_NoMemory();
    if (parse(args + 2, job) < 0) goto no_buffers;
    if (PyObject_GetBuffer(args[0], &data, PyBUF_SIMPLE) < 0) goto no_buffers;
    if (PyObject_GetBuffer(args[1], &out, PyBUF_WRITABLE) < 0) goto no_out;
    job->data = data.buf;
    job->data_bytes = (size_t)data.len;
    job->out = out.buf;
    job->out_bytes = (size_t)out.len;
    int done;
    Py_BEGIN_ALLOW_THREADS
    done = run(job);
    Py_END_ALLOW_THREADS
    if (done)
        result = Py_BuildValue("(LL)", (long long)job->left, (long long)job->right);
    else if (job->fault[0])
        result = PyUnicode_DecodeLatin1(job->fault, (Py_ssize_t)strlen(job->fault), NULL);
    else
        result = Py_NewRef(Py_None);
    PyBuffer_Release(&out);
no_out:
    PyBuffer_Release(&data);
no_buffers:
    free(job);
    return result;
}

static PyMethodDef methods[] = {
    {"decode_region", (PyCFunction)(void (*)(void))decode_region, METH_FASTCALL,
     "decode_region(data, out, height, width, top, bottom, left, right)\n"
     "    -> (left, right), a fault or None\n\n"
     "Decode rows top to bottom of an undamaged baseline JPEG of height x width to RGB, one row\n"
     "after the other, into the buffer out. Each row has the columns of the result, which include\n"
     "those from left to right. If the decoder declines the image, out has undefined content, and\n"
     "the result is the fault in the data (str), or None for another reason."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "imgprep.image._jpeg",
                                        .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModuleDef_Init(&definition); }
