/* The steps of the WebSocket lane that take the most time, in C: taking the mask off, and reading a
   message that came in one frame.

   Optional.  `frames.py` and `messages.py` say what is valid; what is here only recognizes what is
   unremarkable, and answers None to everything else, which they then look at.
   `tests/unit/test_ws_accelerator.py` compares the two.

   Any number of interpreters, each with its own GIL, use this at once: there is no state.  No
   function runs Python code or waits. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <stdbool.h>
#include <stdint.h>
#include <string.h>

typedef unsigned char byte;

enum {
    TEXT = 0x81,   /* a whole message, not compressed (RFC 6455, section 5.2) */
    BINARY = 0x82,
    MASKED = 0x80,
    MASK_BYTES = 4,
};

/* Copy `size` bytes and take the mask off; return the bits that are set in any of them. */
static byte
copy_unmasked(byte *to, const byte *from, Py_ssize_t size, const byte *mask)
{
    byte twice[8];
    memcpy(twice, mask, MASK_BYTES);
    memcpy(twice + MASK_BYTES, mask, MASK_BYTES);
    uint64_t masks, seen = 0;
    memcpy(&masks, twice, sizeof masks);
    Py_ssize_t i = 0;
    for (; size - i >= 8; i += 8) {
        uint64_t word;
        memcpy(&word, from + i, sizeof word);
        word ^= masks;
        seen |= word;
        memcpy(to + i, &word, sizeof word);
    }
    byte bits = 0;
    for (int shift = 0; shift < 64; shift += 8) {
        bits |= (byte)(seen >> shift);
    }
    for (; i < size; i++) {
        to[i] = from[i] ^ mask[i % MASK_BYTES];
        bits |= to[i];
    }
    return bits;
}

/* Return the text, NULL with no exception set where it is not UTF-8. */
static PyObject *
make_text(const byte *from, Py_ssize_t size, const byte *mask)
{
    PyObject *text = PyUnicode_New(size, 127);
    if (text == NULL || size == 0) {
        return text;
    }
    byte *into = PyUnicode_1BYTE_DATA(text);
    if (copy_unmasked(into, from, size, mask) < 0x80) {
        return text;
    }
    /* Not ASCII after all: what was made serves as the buffer to decode from. */
    PyObject *decoded = PyUnicode_DecodeUTF8((const char *)into, size, NULL);
    memset(into, 0, (size_t)size);
    Py_DECREF(text);
    if (decoded == NULL && PyErr_ExceptionMatches(PyExc_UnicodeDecodeError)) {
        PyErr_Clear();
    }
    return decoded;
}

static PyObject *
make_unmasked(const byte *from, Py_ssize_t size, const byte *mask)
{
    PyObject *made = PyBytes_FromStringAndSize(NULL, size);
    if (made != NULL && size > 0) {
        copy_unmasked((byte *)PyBytes_AS_STRING(made), from, size, mask);
    }
    return made;
}

static bool
is_size(PyObject *argument, Py_ssize_t *into)
{
    *into = PyLong_AsSsize_t(argument);
    return *into != -1 || !PyErr_Occurred();
}

PyDoc_STRVAR(take_message_doc, "take_message(data, at, max_bytes, /)\n--\n\n"
                               "Read the message that begins at `at`, if it is unremarkable.");

static PyObject *
take_message(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t at, max_bytes;
    if (count != 3 || !PyBytes_Check(args[0])) {
        PyErr_SetString(PyExc_TypeError, "take_message takes bytes and two integers");
        return NULL;
    }
    if (!is_size(args[1], &at) || !is_size(args[2], &max_bytes)) {
        return NULL;
    }
    const byte *data = (const byte *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t end = PyBytes_GET_SIZE(args[0]);
    if (at < 0 || end - at < 2 + MASK_BYTES) {
        Py_RETURN_NONE;
    }
    byte first = data[at], second = data[at + 1];
    if ((first != TEXT && first != BINARY) || !(second & MASKED)) {
        Py_RETURN_NONE;
    }
    at += 2;
    uint64_t size = second & 0x7f;
    if (size > 125) {
        int bytes = size == 126 ? 2 : 8;
        if (end - at < bytes + MASK_BYTES) {
            Py_RETURN_NONE;
        }
        size = 0;
        for (int i = 0; i < bytes; i++) {
            size = size << 8 | data[at++];
        }
        if (size < (bytes == 2 ? 126u : 65536u)) {
            Py_RETURN_NONE;
        }
    }
    if (max_bytes < 0 || size > (uint64_t)max_bytes || size > (uint64_t)(end - at - MASK_BYTES)) {
        Py_RETURN_NONE;
    }
    const byte *mask = data + at;
    at += MASK_BYTES;
    Py_ssize_t length = (Py_ssize_t)size;
    PyObject *message = first == TEXT ? make_text(data + at, length, mask)
                                      : make_unmasked(data + at, length, mask);
    if (message == NULL) {
        if (PyErr_Occurred()) {
            return NULL;
        }
        Py_RETURN_NONE;
    }
    PyObject *place = PyLong_FromSsize_t(at + length);
    PyObject *found = place == NULL ? NULL : PyTuple_Pack(2, message, place);
    Py_XDECREF(place);
    Py_DECREF(message);
    return found;
}

PyDoc_STRVAR(unmask_doc, "unmask(data, start, end, mask, /)\n--\n\n"
                         "Return the bytes from `start` to `end` with `mask` applied.");

static PyObject *
unmask(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t count)
{
    Py_ssize_t start, end;
    if (count != 4 || !PyBytes_Check(args[0]) || !PyBytes_Check(args[3])) {
        PyErr_SetString(PyExc_TypeError, "unmask takes bytes, two integers and bytes");
        return NULL;
    }
    if (!is_size(args[1], &start) || !is_size(args[2], &end)) {
        return NULL;
    }
    if (start < 0 || end < start || end > PyBytes_GET_SIZE(args[0]) ||
        PyBytes_GET_SIZE(args[3]) != MASK_BYTES) {
        PyErr_SetString(PyExc_ValueError, "a place outside of the data, or a mask that is none");
        return NULL;
    }
    const byte *data = (const byte *)PyBytes_AS_STRING(args[0]);
    const byte *mask = (const byte *)PyBytes_AS_STRING(args[3]);
    return make_unmasked(data + start, end - start, mask);
}

static PyMethodDef METHODS[] = {
    {"take_message", (PyCFunction)(void (*)(void))take_message, METH_FASTCALL, take_message_doc},
    {"unmask", (PyCFunction)(void (*)(void))unmask, METH_FASTCALL, unmask_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accelerator",
    .m_doc = "The steps of the WebSocket lane that take the most time.",
    .m_size = 0,
    .m_methods = METHODS,
    .m_slots = SLOTS,
};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    return PyModuleDef_Init(&MODULE);
}
