/* A window of a JPEG image as RGB: what a centre crop needs of it, and no more.
 *
 * libjpeg-turbo does all but the entropy decoding, which is _huffman.h's and put in the place of
 * libjpeg's own. Pixels are those of a decode of the whole image, bit for bit: accurate integer
 * DCT, "fancy" upsampling. The data of the whole image are read nonetheless, so damage is noticed
 * wherever it is. There are no messages: anything but a sound baseline image with one scan is
 * declined, and the caller takes another decoder.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#define JPEG_INTERNALS /* for the entropy decoder's place, `cinfo->entropy` */
#include <jpeglib.h>

#include "_huffman.h"

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is needed: older ones do not skip and crop exactly"
#endif

#define ROWS_AT_ONCE 16
/* Fancy upsampling of a pixel looks at the chroma samples beside it. */
#define MARGIN_PX 2
/* A narrower window is not cut out: libjpeg upsamples very narrow images in another way. */
#define CUT_WIDTH_MIN 64

/* What a block of an MCU is decoded with. */
typedef struct {
    const HuffmanTable *dc, *ac;
    int32_t *last_dc;
} Part;

typedef struct {
    struct jpeg_decompress_struct cinfo; /* first: libjpeg hands back a pointer to it */
    struct jpeg_error_mgr errors;
    jmp_buf declined;
    const uint8_t *data;
    size_t data_bytes;
    uint8_t *out;
    size_t out_bytes;
    int64_t height, width, top, bottom, left, right; /* left and right: then those of `out` */
    HuffmanTable dc[NUM_HUFF_TBLS], ac[NUM_HUFF_TBLS];
    Part parts[D_MAX_BLOCKS_IN_MCU];
    BitReader reader;
    const uint8_t *raw, *raw_end; /* the next marker of the scan, and the end of the file */
    uint8_t *stretch;
    int32_t last_dc[MAX_COMPS_IN_SCAN];
    uint32_t restart_in, restart_number;
} Job;

/* ---- errors ----------------------------------------------------------------------------- */

static void decline(j_common_ptr cinfo) { longjmp(((Job *)cinfo)->declined, 1); }

static void on_message(j_common_ptr cinfo, int level) {
    if (level < 0) decline(cinfo); /* a warning */
}

static void on_output(j_common_ptr cinfo) { (void)cinfo; }

/* ---- entropy decoding ------------------------------------------------------------------- */

static void open_stretch(Job *job) {
    if (bits_open(&job->reader, &job->raw, job->raw_end, job->stretch) < 0)
        decline((j_common_ptr)job);
    memset(job->last_dc, 0, sizeof(job->last_dc));
    job->restart_in = job->cinfo.restart_interval;
}

/* All but the padding of the last byte must have been used. */
static void close_stretch(Job *job) {
    if (bits_left(&job->reader) >= 8) decline((j_common_ptr)job);
}

static void restart(Job *job) {
    close_stretch(job);
    if (job->raw[1] != JPEG_RST0 + job->restart_number) decline((j_common_ptr)job);
    job->raw += 2;
    job->restart_number = (job->restart_number + 1) & 7;
    open_stretch(job);
}

HUFFMAN_INLINE int decode_blocks(Job *job, BitReader *reader, JBLOCKROW *blocks, int keep) {
    for (int i = 0; i < job->cinfo.blocks_in_MCU; i++) {
        const Part *part = &job->parts[i];
        if (huffman_block(reader, part->dc, part->ac, part->last_dc,
                          keep ? blocks[i][0] : NULL, keep) < 0)
            return -1;
    }
    return 0;
}

/* libjpeg wants no coefficients (blocks is NULL) where it skips rows. */
HUFFMAN_INLINE boolean decode_mcu_body(Job *job, JBLOCKROW *blocks) {
    if (job->cinfo.restart_interval) {
        if (job->restart_in == 0) restart(job);
        job->restart_in--;
    }
    BitReader reader = job->reader;
    const int bad = blocks ? decode_blocks(job, &reader, blocks, 1)
                           : decode_blocks(job, &reader, NULL, 0);
    if (bad) decline((j_common_ptr)job);
    job->reader = reader;
    return TRUE;
}

static boolean decode_mcu(j_decompress_ptr cinfo, JBLOCKROW *blocks) {
    return decode_mcu_body((Job *)cinfo, blocks);
}

#if defined(__x86_64__)
/* Shifts by a variable amount take one operation instead of three. */
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
        job->parts[i] = (Part){&job->dc[component->dc_tbl_no], &job->ac[component->ac_tbl_no],
                               &job->last_dc[c]};
    }
}

/* After jpeg_start_decompress, which has read the header of the scan and checked its tables. */
static void take_over_entropy(Job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    if (cinfo->unread_marker) decline((j_common_ptr)job);
    build_tables(job);
    job->raw = cinfo->src->next_input_byte;
    job->raw_end = job->raw + cinfo->src->bytes_in_buffer;
    job->stretch = malloc(cinfo->src->bytes_in_buffer + OVERREAD_BYTES);
    if (!job->stretch) decline((j_common_ptr)job);
    open_stretch(job);
    cinfo->entropy->decode_mcu = decode_mcu;
#if defined(__x86_64__)
    if (__builtin_cpu_supports("bmi2")) cinfo->entropy->decode_mcu = decode_mcu_bmi2;
#endif
}

/* libjpeg goes on behind the scan, where it looks for the end of the image. */
static void give_back_entropy(Job *job) {
    close_stretch(job);
    job->cinfo.src->next_input_byte = job->raw;
    job->cinfo.src->bytes_in_buffer = (size_t)(job->raw_end - job->raw);
}

/* ---- the window ------------------------------------------------------------------------- */

static void read_header(Job *job) {
    struct jpeg_decompress_struct *cinfo = &job->cinfo;
    jpeg_create_decompress(cinfo);
    jpeg_mem_src(cinfo, job->data, (unsigned long)job->data_bytes);
    jpeg_save_markers(cinfo, JPEG_APP0 + 2, 0xffff);
    jpeg_read_header(cinfo, TRUE);
    JOCTET *profile = NULL;
    unsigned int profile_bytes = 0;
    /* As TurboJPEG does: it warns of a colour profile in wrong pieces. */
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

/* Leave out columns; libjpeg does so in whole MCUs. Sets what columns `out` gets. */
static void cut_columns(Job *job) {
    int64_t left = job->left - MARGIN_PX, right = job->right + MARGIN_PX;
    if (left < 0) left = 0;
    if (right > job->width) right = job->width;
    JDIMENSION offset = 0, width = (JDIMENSION)job->width;
    if (right - left < job->width && right - left >= CUT_WIDTH_MIN) {
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
    /* libjpeg reads nothing when it is told to skip up to the end: so all but the last row. */
    JSAMPROW last = cinfo->mem->alloc_small((j_common_ptr)cinfo, JPOOL_IMAGE, pitch);
    jpeg_skip_scanlines(cinfo, cinfo->output_height - 1 - cinfo->output_scanline);
    jpeg_read_scanlines(cinfo, &last, 1);
}

/* Whether the window was decoded. `volatile` holds across the jump what is freed after it. */
static int run(Job *job) {
    volatile int done = 0;
    job->cinfo.err = jpeg_std_error(&job->errors);
    job->errors.error_exit = decline;
    job->errors.emit_message = on_message;
    job->errors.output_message = on_output;
    if (setjmp(job->declined) == 0) {
        read_header(job);
        jpeg_start_decompress(&job->cinfo);
        take_over_entropy(job);
        cut_columns(job);
        read_rows(job);
        give_back_entropy(job);
        jpeg_finish_decompress(&job->cinfo);
        done = 1;
    }
    jpeg_destroy_decompress(&job->cinfo);
    free(job->stretch);
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
    PyErr_SetString(PyExc_ValueError, "the window must lie inside an image that a JPEG can hold");
    return -1;
}

static PyObject *decode_window(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t n) {
    if (n != 8) {
        PyErr_SetString(PyExc_TypeError, "decode_window(data, out, height, width, top, bottom, "
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
    result = done ? Py_BuildValue("(LL)", (long long)job->left, (long long)job->right)
                  : Py_NewRef(Py_None);
    PyBuffer_Release(&out);
no_out:
    PyBuffer_Release(&data);
no_buffers:
    free(job);
    return result;
}

static PyMethodDef methods[] = {
    {"decode_window", (PyCFunction)(void (*)(void))decode_window, METH_FASTCALL,
     "decode_window(data, out, height, width, top, bottom, left, right) -> (left, right) or None\n\n"
     "Rows top to bottom of a sound baseline JPEG of height x width as RGB into the buffer out,\n"
     "one behind the other; of each row the columns that the result names, which hold those\n"
     "from left to right. None, and anything in out, if this decoder does not do the image, or\n"
     "if out is too small."},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "imgprep.image._jpeg",
                                        .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModuleDef_Init(&definition); }
