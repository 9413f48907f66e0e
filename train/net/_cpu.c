/* Response normalisation across channels for float32 images in channels-last memory (NHWC), forward
 * and backward. The definition is in norms.py; the caller divides the pixels among threads, and each
 * call runs without the GIL.
 *
 * Compilers vectorise the plain C loops; they are compiled twice, with and without AVX2, and the
 * caller chooses at run time.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define WITH_AVX2 1
#define AVX2 __attribute__((target("avx2,fma")))
#else
#define WITH_AVX2 0
#endif
#define INLINE static inline __attribute__((always_inline))

#define MAX_CHANNELS 4096 /* of a group */
#define MAX_HALF 32       /* neighbours on one side */

typedef struct {
    int64_t pixels, groups, channels; /* channels of a group */
    int64_t half;                     /* neighbours on each side */
    float k, alpha;
    int rectify; /* x is max(x, 0) before everything else */
} Job;

/* 1 / s^0.75 */
INLINE float inverse_power(float s) {
    const float root = sqrtf(s);
    return 1.0f / (root * sqrtf(root));
}

INLINE float taken(float value, int rectify) {
    return rectify && !(value > 0) && value == value ? 0.0f : value; /* a NaN stays */
}

/* sum[i] = padded[i - half] + ... + padded[i + half]; `padded` has `half` zeros on both sides. */
INLINE void window(float *sum, const float *padded, int64_t count, int64_t half) {
    if (half == 2) {
        for (int64_t i = 0; i < count; i++)
            sum[i] = (padded[i - 2] + padded[i + 2]) + (padded[i - 1] + padded[i + 1]) + padded[i];
        return;
    }
    for (int64_t i = 0; i < count; i++) sum[i] = padded[i];
    for (int64_t shift = 1; shift <= half; shift++)
        for (int64_t i = 0; i < count; i++) sum[i] += padded[i - shift] + padded[i + shift];
}

INLINE void forward_body(const Job *job, const float *restrict x, float *restrict y) {
    float storage[MAX_CHANNELS + 2 * MAX_HALF], sum[MAX_CHANNELS];
    float *squares = storage + MAX_HALF;
    const int64_t count = job->channels, half = job->half;
    const float k = job->k, alpha = job->alpha;
    const int rectify = job->rectify;
    for (int64_t i = 1; i <= half; i++) squares[-i] = squares[count - 1 + i] = 0;
    for (int64_t n = job->pixels * job->groups; n > 0; n--, x += count, y += count) {
        for (int64_t i = 0; i < count; i++) {
            const float value = taken(x[i], rectify);
            squares[i] = value * value;
        }
        window(sum, squares, count, half);
        for (int64_t i = 0; i < count; i++)
            y[i] = taken(x[i], rectify) * inverse_power(k + alpha * sum[i]);
    }
}

INLINE void backward_body(const Job *job, const float *restrict x, const float *restrict gradient,
                          float *restrict result) {
    float storage[MAX_CHANNELS + 2 * MAX_HALF], other[MAX_CHANNELS + 2 * MAX_HALF];
    float sum[MAX_CHANNELS], power[MAX_CHANNELS];
    float *squares = storage + MAX_HALF, *inner = other + MAX_HALF;
    const int64_t count = job->channels, half = job->half;
    const float k = job->k, alpha = job->alpha, factor = -1.5f * job->alpha; /* 2 alpha beta */
    const int rectify = job->rectify;
    for (int64_t i = 1; i <= half; i++) {
        squares[-i] = squares[count - 1 + i] = 0;
        inner[-i] = inner[count - 1 + i] = 0;
    }
    for (int64_t n = job->pixels * job->groups; n > 0;
         n--, x += count, gradient += count, result += count) {
        for (int64_t i = 0; i < count; i++) {
            const float value = taken(x[i], rectify);
            squares[i] = value * value;
        }
        window(sum, squares, count, half);
        for (int64_t i = 0; i < count; i++) {
            const float s = k + alpha * sum[i], r = inverse_power(s);
            power[i] = gradient[i] * r;
            inner[i] = power[i] * taken(x[i], rectify) / s;
        }
        window(sum, inner, count, half);
        for (int64_t i = 0; i < count; i++) {
            const float whole = power[i] + factor * taken(x[i], rectify) * sum[i];
            result[i] = rectify && !(x[i] > 0) ? 0.0f : whole;
        }
    }
}

static void forward_plain(const Job *job, const float *x, float *y) { forward_body(job, x, y); }
static void backward_plain(const Job *job, const float *x, const float *g, float *result) {
    backward_body(job, x, g, result);
}
#if WITH_AVX2
AVX2 static void forward_avx2(const Job *job, const float *x, float *y) { forward_body(job, x, y); }
AVX2 static void backward_avx2(const Job *job, const float *x, const float *g, float *result) {
    backward_body(job, x, g, result);
}
#endif

static int has_avx2(void) {
#if WITH_AVX2
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
    return 0;
#endif
}

/* ---- Python ----------------------------------------------------------------------------- */

static int is_sound(Job *job, int64_t channels, int64_t groups, int64_t size,
                    const Py_buffer *buffers, int count) {
    if (groups < 1 || channels < 1 || channels > PY_SSIZE_T_MAX / 4 || channels % groups ||
        size < 1 || size % 2 == 0 ||
        channels / groups > MAX_CHANNELS || size / 2 > MAX_HALF) {
        PyErr_SetString(PyExc_ValueError, "channels, groups or size cannot be handled");
        return 0;
    }
    for (int i = 0; i < count; i++) {
        if (buffers[i].len != buffers[0].len || buffers[i].len % (channels * 4) ||
            (uintptr_t)buffers[i].buf % sizeof(float)) {
            PyErr_SetString(PyExc_ValueError,
                            "the arrays must be float32, of one size, of whole pixels");
            return 0;
        }
    }
    job->groups = groups;
    job->channels = channels / groups;
    job->half = size / 2;
    job->pixels = buffers[0].len / (channels * 4);
    return 1;
}

static PyObject *lrn_forward(PyObject *module, PyObject *arguments) {
    Py_buffer buffers[2];
    Py_ssize_t channels, groups, size;
    Job job;
    int avx2, sound;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*w*nnnffpp", &buffers[0], &buffers[1], &channels, &groups,
                          &size, &job.k, &job.alpha, &job.rectify, &avx2))
        return NULL;
    sound = is_sound(&job, channels, groups, size, buffers, 2);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
#if WITH_AVX2
        if (avx2 && has_avx2())
            forward_avx2(&job, buffers[0].buf, buffers[1].buf);
        else
#endif
            forward_plain(&job, buffers[0].buf, buffers[1].buf);
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 2; i++) PyBuffer_Release(&buffers[i]);
    if (!sound) return NULL;
    Py_RETURN_NONE;
}

static PyObject *lrn_backward(PyObject *module, PyObject *arguments) {
    Py_buffer buffers[3];
    Py_ssize_t channels, groups, size;
    Job job;
    int avx2, sound;
    (void)module;
    if (!PyArg_ParseTuple(arguments, "y*y*w*nnnffpp", &buffers[0], &buffers[1], &buffers[2],
                          &channels, &groups, &size, &job.k, &job.alpha, &job.rectify, &avx2))
        return NULL;
    sound = is_sound(&job, channels, groups, size, buffers, 3);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
#if WITH_AVX2
        if (avx2 && has_avx2())
            backward_avx2(&job, buffers[0].buf, buffers[1].buf, buffers[2].buf);
        else
#endif
            backward_plain(&job, buffers[0].buf, buffers[1].buf, buffers[2].buf);
        Py_END_ALLOW_THREADS
    }
    for (int i = 0; i < 3; i++) PyBuffer_Release(&buffers[i]);
    if (!sound) return NULL;
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"lrn_forward", lrn_forward, METH_VARARGS,
     "lrn_forward(x, y, channels, groups, size, k, alpha, rectify, use_avx2): y from x"},
    {"lrn_backward", lrn_backward, METH_VARARGS,
     "lrn_backward(x, gradient, result, channels, groups, size, k, alpha, rectify, use_avx2)"},
    {NULL, NULL, 0, NULL}};

static int exec_module(PyObject *module) {
    return PyModule_AddObjectRef(module, "HAS_AVX2", has_avx2() ? Py_True : Py_False);
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, exec_module}, {0, NULL}};

static struct PyModuleDef definition = {
    .m_base = PyModuleDef_HEAD_INIT,
    .m_name = "_cpu",
    .m_doc = "Response normalisation of NHWC float32 images.",
    .m_methods = methods,
    .m_slots = slots,
};

PyMODINIT_FUNC PyInit__cpu(void) { return PyModuleDef_Init(&definition); }
