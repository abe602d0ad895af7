/* A module that lets others call a function of it directly, by a capsule, as NumPy does. */
#include <Python.h>

static long calls = 0;

static long
count(void)
{
    return ++calls;
}

static int
execute(PyObject *module)
{
    return PyModule_Add(module, "_C_API", PyCapsule_New((void *)count, "provider._C_API", NULL));
}

static PyModuleDef_Slot slots[] = {
    {Py_mod_exec, execute},
#ifdef DECLARES
    {Py_mod_multiple_interpreters, DECLARES},
#endif
    {0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "provider", NULL, 0, NULL, slots,
};

PyMODINIT_FUNC
INIT(void)
{
    return PyModuleDef_Init(&definition);
}
