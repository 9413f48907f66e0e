/* Random parts of photographs become the images of a batch: each uint8 part (height, width, 3) is
 * resized, mirrored, shifted and divided by channel, and written as float32, in one pass.
 *
 * The resampling is the bilinear one of Pillow, torchvision and DALI: a triangle over all source
 * pixels that a pixel of the result covers, at least two. Nothing is rounded to whole levels. The
 * caller divides the images among threads; each call runs without the GIL.
 *
 * Compilers vectorise the loops. It is compiled without fused multiply-add, so that every machine
 * computes the same bits.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define SIDE_MAX (1 << 15)

typedef float Pixel __attribute__((vector_size(16))); /* red, green, blue and a spare */

/* Output k of an axis is the sum of count[k] source samples from start[k] on, times the weights
 * from weights[k*stride]. */
typedef struct {
    int32_t *start, *count;
    float *weights;
    int64_t stride;
} Axis;

typedef struct {
    const uint8_t *part;
    int64_t height, width, size; /* of the part; side of the result */
    float *out;
    int channels_first;
    Pixel factor, offset; /* result = value * factor + offset */
    Axis rows, columns;
    float *line; /* 3 * width + 1 values */
    float *row;  /* 4 * size values */
} Job;

static void axis_free(Axis *axis) {
    free(axis->start);
    free(axis->count);
    free(axis->weights);
}

static int axis_build(Axis *axis, int64_t source, int64_t size, int mirrored) {
    const double scale = (double)source / (double)size, reach = scale > 1 ? scale : 1;
    axis->stride = (int64_t)ceil(reach) * 2 + 1;
    axis->start = malloc((size_t)size * sizeof(int32_t));
    axis->count = malloc((size_t)size * sizeof(int32_t));
    axis->weights = calloc((size_t)(size * axis->stride), sizeof(float));
    if (!axis->start || !axis->count || !axis->weights) return -1;
    for (int64_t k = 0; k < size; k++) {
        const int64_t at = mirrored ? size - 1 - k : k;
        const double centre = ((double)at + 0.5) * scale;
        int64_t first = (int64_t)(centre - reach + 0.5), end = (int64_t)(centre + reach + 0.5);
        if (centre - reach + 0.5 < 0) first = 0;
        if (end > source) end = source;
        if (end - first > axis->stride) end = first + axis->stride;
        float *weights = axis->weights + k * axis->stride;
        double sum = 0;
        for (int64_t j = first; j < end; j++) {
            const double weight = 1 - fabs((double)j + 0.5 - centre) / reach;
            weights[j - first] = (float)(weight > 0 ? weight : 0);
            sum += weights[j - first];
        }
        for (int64_t t = 0; t < end - first; t++) weights[t] = (float)(weights[t] / sum);
        axis->start[k] = (int32_t)first;
        axis->count[k] = (int32_t)(end - first);
    }
    return 0;
}

static void resize_part(const Job *job) {
    const Axis *rows = &job->rows, *columns = &job->columns;
    const int64_t values = 3 * job->width, size = job->size, plane = size * size;
    float *restrict line = job->line;
    for (int64_t i = 0; i < size; i++) {
        const uint8_t *restrict source = job->part + rows->start[i] * values;
        const float *weights = rows->weights + i * rows->stride;
        for (int64_t x = 0; x < values; x++) line[x] = weights[0] * (float)source[x];
        for (int32_t t = 1; t < rows->count[i]; t++) {
            source += values;
            const float weight = weights[t];
            for (int64_t x = 0; x < values; x++) line[x] += weight * (float)source[x];
        }
        float *restrict row = job->row;
        for (int64_t k = 0; k < size; k++) {
            const float *from = line + 3 * columns->start[k];
            const float *across = columns->weights + k * columns->stride;
            Pixel sum = {0, 0, 0, 0}, value;
            for (int32_t t = 0; t < columns->count[k]; t++, from += 3) {
                memcpy(&value, from, sizeof value);
                sum += value * across[t];
            }
            sum = sum * job->factor + job->offset;
            memcpy(row + (job->channels_first ? 4 : 3) * k, &sum, sizeof sum);
        }
        if (!job->channels_first) {
            memcpy(job->out + 3 * size * i, row, (size_t)(3 * size) * sizeof(float));
            continue;
        }
        float *restrict red = job->out + size * i;
        float *restrict green = red + plane, *restrict blue = green + plane;
        for (int64_t k = 0; k < size; k++) {
            red[k] = row[4 * k];
            green[k] = row[4 * k + 1];
            blue[k] = row[4 * k + 2];
        }
    }
}

static int run(Job *job, const int mirrored[2]) {
    int bad = axis_build(&job->rows, job->height, job->size, mirrored[0]) < 0 ||
              axis_build(&job->columns, job->width, job->size, mirrored[1]) < 0;
    job->line = bad ? NULL : malloc((size_t)(3 * job->width + 1) * sizeof(float));
    job->row = bad ? NULL : malloc((size_t)(4 * job->size + 1) * sizeof(float));
    bad = bad || !job->line || !job->row;
    if (!bad) {
        job->line[3 * job->width] = 0; /* read as the spare of the last pixel */
        resize_part(job);
    }
    free(job->line);
    free(job->row);
    axis_free(&job->rows);
    axis_free(&job->columns);
    return bad;
}

/* ---- Python ----------------------------------------------------------------------------- */

static int is_sound(const Py_buffer *part, const Py_buffer *out, Py_ssize_t size) {
    const int sides = part->ndim == 3 && part->itemsize == 1 && part->shape[2] == 3 &&
                      part->shape[0] >= 1 && part->shape[0] <= SIDE_MAX && part->shape[1] >= 1 &&
                      part->shape[1] <= SIDE_MAX && size >= 1 && size <= SIDE_MAX;
    return sides && out->len == 3 * size * size * (Py_ssize_t)sizeof(float) &&
           (uintptr_t)out->buf % sizeof(float) == 0;
}

static PyObject *resize(PyObject *Py_UNUSED(module), PyObject *arguments) {
    PyObject *array;
    Py_buffer part, out;
    int mirrored[2], channels_first, bad = 0;
    float factor[3], offset[3];
    Py_ssize_t size;
    if (!PyArg_ParseTuple(arguments, "Ow*n(pp)(fff)(fff)p", &array, &out, &size, &mirrored[0],
                          &mirrored[1], &factor[0], &factor[1], &factor[2], &offset[0],
                          &offset[1], &offset[2], &channels_first))
        return NULL;
    if (PyObject_GetBuffer(array, &part, PyBUF_C_CONTIGUOUS) < 0) {
        PyBuffer_Release(&out);
        return NULL;
    }
    const int sound = is_sound(&part, &out, size);
    if (sound) {
        Job job = {.part = part.buf,
                   .height = part.shape[0],
                   .width = part.shape[1],
                   .size = size,
                   .out = out.buf,
                   .channels_first = channels_first,
                   .factor = {factor[0], factor[1], factor[2], 0},
                   .offset = {offset[0], offset[1], offset[2], 0}};
        Py_BEGIN_ALLOW_THREADS
        bad = run(&job, mirrored);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&part);
    PyBuffer_Release(&out);
    if (!sound) {
        PyErr_SetString(PyExc_ValueError,
                        "the part must be uint8 (height, width, 3), and the result float32 of "
                        "3 * size * size values");
        return NULL;
    }
    if (bad) return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"resize", resize, METH_VARARGS,
     "resize(part, out, size, (upside_down, mirrored), factor_rgb, offset_rgb, channels_first): "
     "out is the resized part times the factor, plus the offset"},
    {NULL, NULL, 0, NULL}};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_resize",
    .m_doc = "Parts of photographs, resized to the images of a batch.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__resize(void) { return PyModuleDef_Init(&definition); }
