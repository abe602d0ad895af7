/* A single-phase module that knows its short name only, with what such modules tend to have:
   statics, a type made by the init function, and state that is looked up by the definition. */
#include <Python.h>

#ifndef STATE_SIZE
#define STATE_SIZE -1
#endif

static long calls = 0;
static PyObject *cached = NULL;
static struct PyModuleDef definition;

static PyObject *
count(PyObject *self, PyObject *ignored)
{
    return PyLong_FromLong(++calls);
}

/* An object that a static holds: with statics shared between interpreters it would be one that
   another interpreter made. */
static PyObject *
cache(PyObject *self, PyObject *value)
{
    PyObject *before = cached ? cached : Py_NewRef(Py_None);
    cached = Py_NewRef(value);
    return before;
}

static PyObject *
is_registered(PyObject *self, PyObject *ignored)
{
    return PyBool_FromLong(PyState_FindModule(&definition) != NULL);
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, NULL},
    {"cache", cache, METH_O, NULL},
    {"is_registered", is_registered, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "single", NULL, STATE_SIZE, methods,
};

PyMODINIT_FUNC
PyInit_single(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL)
        return NULL;
    int64_t interpreter = PyInterpreterState_GetID(PyInterpreterState_Get());
    PyObject *name = PyModule_GetNameObject(module);
    PyObject *kind = PyObject_CallFunction((PyObject *)&PyType_Type, "s(){sO}", "Kind",
                                           "__module__", name);
    if (PyModule_AddIntConstant(module, "made_in", (long)interpreter) < 0
        || PyModule_Add(module, "name_in_init", name) < 0
        || PyModule_Add(module, "Kind", kind) < 0)
        return NULL;
    return module;
}
