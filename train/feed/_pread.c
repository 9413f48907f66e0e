/* Reads many parts of a file in one call, without the GIL: a loop in Python would release and take
 * the GIL for every record, each time in competition with the training step. records.py has the
 * same in Python, for installations without a compiler.
 */
#define PY_SSIZE_T_CLEAN
#define _GNU_SOURCE
#include <Python.h>
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <unistd.h>

typedef struct {
    int64_t offset, size, place; /* bytes: in the file, of the part, in the buffer */
} Span;

/* Whether spans `first` to `end` (excluded) exist and lie in the buffer. */
static int are_sound(const Py_buffer *spans, Py_ssize_t first, Py_ssize_t end, Py_ssize_t length) {
    const Span *span = spans->buf;
    if (spans->len % (Py_ssize_t)sizeof(Span) != 0 || first < 0 || end < first ||
        end > spans->len / (Py_ssize_t)sizeof(Span))
        return 0;
    for (Py_ssize_t i = first; i < end; i++)
        if (span[i].offset < 0 || span[i].size < 0 || span[i].place < 0 ||
            span[i].size > length || span[i].place > length - span[i].size ||
            span[i].offset > INT64_MAX - span[i].size)
            return 0;
    return 1;
}

/* Returns the number of the span that could not be read, or `end`; *error is 0 at the file's end. */
static Py_ssize_t read_all(int file, const Span *spans, Py_ssize_t first, Py_ssize_t end,
                           char *buffer, int *error) {
    for (Py_ssize_t i = first; i < end; i++) {
        int64_t done = 0;
        while (done < spans[i].size) {
            const ssize_t got = pread(file, buffer + spans[i].place + done,
                                      (size_t)(spans[i].size - done), spans[i].offset + done);
            if (got < 0 && errno == EINTR) continue;
            if (got <= 0) {
                *error = got < 0 ? errno : 0;
                return i;
            }
            done += got;
        }
    }
    return end;
}

static PyObject *read_spans(PyObject *Py_UNUSED(module), PyObject *arguments) {
    int file, error = 0;
    Py_buffer spans, buffer;
    Py_ssize_t first, end, stopped = 0;
    if (!PyArg_ParseTuple(arguments, "iy*nnw*", &file, &spans, &first, &end, &buffer)) return NULL;
    const int sound = are_sound(&spans, first, end, buffer.len);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
        stopped = read_all(file, spans.buf, first, end, buffer.buf, &error);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&spans);
    PyBuffer_Release(&buffer);
    if (!sound) {
        PyErr_SetString(PyExc_ValueError, "a span is outside the buffer or the list of spans");
        return NULL;
    }
    return Py_BuildValue("(ni)", stopped, error);
}

static PyObject *will_need(PyObject *Py_UNUSED(module), PyObject *arguments) {
    int file;
    Py_buffer spans;
    Py_ssize_t first, end;
    if (!PyArg_ParseTuple(arguments, "iy*nn", &file, &spans, &first, &end)) return NULL;
    const int sound = are_sound(&spans, first, end, PY_SSIZE_T_MAX);
    if (sound) {
        Py_BEGIN_ALLOW_THREADS
#ifdef POSIX_FADV_WILLNEED
        const Span *span = spans.buf;
        for (Py_ssize_t i = first; i < end; i++)
            posix_fadvise(file, span[i].offset, span[i].size, POSIX_FADV_WILLNEED);
#endif
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&spans);
    if (!sound) {
        PyErr_SetString(PyExc_ValueError, "a span is outside the list of spans");
        return NULL;
    }
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"read_spans", read_spans, METH_VARARGS,
     "read_spans(file, spans, first, end, buffer) -> (span, errno)\n\n"
     "Read spans (int64 rows: offset, size, place in the buffer) of an open file. Returns `end` if\n"
     "all were read, else the span that was not, with errno, or 0 if the file ends before it does."},
    {"will_need", will_need, METH_VARARGS,
     "will_need(file, spans, first, end): ask the system to read spans into its cache"},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "train.feed._pread",
    .m_doc = "Reads many parts of a file in one call.",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__pread(void) { return PyModuleDef_Init(&definition); }
