/* A module that is linked against the libraries above. */
#include <Python.h>

#ifdef WITH_CLIB
extern long clib_count(void);
#endif
#ifdef WITH_PYLIB
extern PyObject *pylib_remember(PyObject *value);
#endif

static PyObject *
count(PyObject *self, PyObject *ignored)
{
#ifdef WITH_CLIB
    return PyLong_FromLong(clib_count());
#else
    Py_RETURN_NONE;
#endif
}

static PyObject *
remember(PyObject *self, PyObject *value)
{
#ifdef WITH_PYLIB
    return pylib_remember(value);
#else
    Py_RETURN_NONE;
#endif
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, NULL},
    {"remember", remember, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot slots[] = {{0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "linked", NULL, 0, methods, slots,
};

PyMODINIT_FUNC
INIT(void)
{
    return PyModuleDef_Init(&definition);
}
