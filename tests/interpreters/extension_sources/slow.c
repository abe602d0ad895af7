/* Its init function takes a while, without the GIL, then imports another module if it was compiled
   to, and says when it began and ended. */
#include <Python.h>
#include <time.h>

static PyObject *
now(void)
{
    struct timespec at;
    clock_gettime(CLOCK_MONOTONIC, &at);
    return PyFloat_FromDouble((double)at.tv_sec + (double)at.tv_nsec * 1e-9);
}

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "slow", NULL, -1, NULL};

PyMODINIT_FUNC
PyInit_slow(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module == NULL || PyModule_Add(module, "began", now()) < 0)
        return NULL;
    struct timespec pause = {0, 50 * 1000 * 1000};
    Py_BEGIN_ALLOW_THREADS
    nanosleep(&pause, NULL);
    Py_END_ALLOW_THREADS
#ifdef IMPORTS
    if (PyModule_Add(module, "other", PyImport_ImportModule(IMPORTS)) < 0)
        return NULL;
#endif
    if (PyModule_Add(module, "ended", now()) < 0)
        return NULL;
    return module;
}
