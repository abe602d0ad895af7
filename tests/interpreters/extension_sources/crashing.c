/* Crashes on purpose: when it is loaded (AT_LOAD), or when `crash` is called. */
#include <Python.h>
#include <signal.h>

static PyObject *
crash(PyObject *module, PyObject *unused)
{
    raise(SIGSEGV);
    Py_RETURN_NONE;
}

static int
execute(PyObject *module)
{
#ifdef AT_LOAD
    crash(module, NULL);
#endif
    return 0;
}

static PyMethodDef methods[] = {{"crash", crash, METH_NOARGS, NULL}, {NULL}};
static PyModuleDef_Slot slots[] = {{Py_mod_exec, execute}, {0, NULL}};
static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "crashing", NULL, 0, methods, slots};

PyMODINIT_FUNC
INIT(void)
{
    return PyModuleDef_Init(&definition);
}
