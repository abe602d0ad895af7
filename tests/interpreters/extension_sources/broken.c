/* Init functions that go wrong, each in its own way. */
#include <Python.h>

static struct PyModuleDef uninitialized = {PyModuleDef_HEAD_INIT, "uninitialized", NULL, 0, NULL};
static struct PyModuleDef shared_name = {PyModuleDef_HEAD_INIT, "bad_name", NULL, -1, NULL};

PyMODINIT_FUNC
PyInit_raises(void)
{
    PyErr_SetString(PyExc_ZeroDivisionError, "from the init function");
    return NULL;
}

PyMODINIT_FUNC
PyInit_silent(void)
{
    return NULL;
}

PyMODINIT_FUNC
PyInit_no_module(void)
{
    return PyLong_FromLong(12345678);
}

PyMODINIT_FUNC
PyInit_uninitialized(void)
{
    return (PyObject *)&uninitialized;
}

/* PyModule_Create fails: a single-phase definition must not have slots. */
PyMODINIT_FUNC
PyInit_bad_name(void)
{
    static PyModuleDef_Slot slots[] = {{0, NULL}};
    shared_name.m_slots = slots;
    return PyModule_Create(&shared_name);
}
