/* A module with an export function instead of an init function (PEP 793, Python 3.15). */
#include <Python.h>

static long calls = 0;

static PyObject *
count(PyObject *self, PyObject *ignored)
{
    return PyLong_FromLong(++calls);
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

PyABIInfo_VAR(abi_info);

PyMODEXPORT_FUNC
EXPORT(void)
{
    static PySlot slots[] = {
        PySlot_STATIC_DATA(Py_mod_abi, &abi_info),
        PySlot_STATIC_DATA(Py_mod_name, "export"),
        PySlot_STATIC_DATA(Py_mod_methods, methods),
#ifdef DECLARES
        PySlot_DATA(Py_mod_multiple_interpreters, DECLARES),
#endif
        PySlot_END,
    };
    return slots;
}
