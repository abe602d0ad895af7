/* A module that declares own-GIL support, but keeps what it got from another one in a static, as
   those of SciPy do. */
#include <Python.h>

static long (*provided)(void) = NULL;

static PyObject *
count(PyObject *self, PyObject *ignored)
{
    return PyLong_FromLong(provided());
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static int
execute(PyObject *module)
{
    PyObject *module_with_it = PyImport_ImportModule("provider");
    if (module_with_it == NULL)
        return -1;
    PyObject *capsule = PyObject_GetAttrString(module_with_it, "_C_API");
    Py_DECREF(module_with_it);
    if (capsule == NULL)
        return -1;
    provided = PyCapsule_GetPointer(capsule, "provider._C_API");
    Py_DECREF(capsule);
    return provided == NULL ? -1 : 0;
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "consumer", NULL, 0, methods, slots,
};

PyMODINIT_FUNC
INIT(void)
{
    return PyModuleDef_Init(&definition);
}
