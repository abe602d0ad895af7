/* A multi-phase module; what it declares about interpreters is up to the compiler's command line.
   When executed it makes a second module, as Rust extensions do for each of their submodules. */
#define _GNU_SOURCE
#include <Python.h>
#include <dlfcn.h>

long exported = 0;

static PyObject *
count(PyObject *self, PyObject *ignored)
{
    return PyLong_FromLong(++exported);
}

/* The file that this code is in, as libraries find it that look for others beside themselves. */
static PyObject *
where(PyObject *self, PyObject *ignored)
{
    Dl_info info;
    if (dladdr(&exported, &info) == 0)
        return PyErr_Format(PyExc_OSError, "dladdr");
    return PyUnicode_FromString(info.dli_fname);
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, NULL},
    {"where", where, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot inner_slots[] = {
#ifdef DECLARES
    {Py_mod_multiple_interpreters, DECLARES},
#endif
    {0, NULL},
};

static struct PyModuleDef inner_definition = {
    PyModuleDef_HEAD_INIT, "inner", NULL, 0, NULL, inner_slots,
};

static int
execute(PyObject *module)
{
    PyObject *spec = PyObject_GetAttrString(module, "__spec__");
    if (spec == NULL)
        return -1;
    PyObject *inner = PyModule_FromDefAndSpec(&inner_definition, spec);
    Py_DECREF(spec);
    if (PyModule_Add(module, "inner", inner) < 0)
        return -1;
    int64_t interpreter = PyInterpreterState_GetID(PyInterpreterState_Get());
    return PyModule_AddIntConstant(module, "made_in", (long)interpreter);
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef DECLARES
    {Py_mod_multiple_interpreters, DECLARES},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "multi", NULL, 0, methods, slots,
};

PyMODINIT_FUNC
INIT(void)
{
    return PyModuleDef_Init(&definition);
}
