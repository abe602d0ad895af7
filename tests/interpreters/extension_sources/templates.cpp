// A C++ module with a static in an inline function, of which a process has one (STB_GNU_UNIQUE).
#include <Python.h>

template <typename T> struct Registry {
    static long &calls()
    {
        static long count = 0;
        return count;
    }
};

inline PyObject *&remembered()
{
    static PyObject *object = nullptr;
    return object;
}

static PyObject *
count(PyObject *, PyObject *)
{
    return PyLong_FromLong(++Registry<long>::calls());
}

static PyObject *
remember(PyObject *, PyObject *value)
{
    PyObject *before = remembered() ? remembered() : Py_NewRef(Py_None);
    remembered() = Py_NewRef(value);
    return before;
}

static PyMethodDef methods[] = {
    {"count", count, METH_NOARGS, nullptr},
    {"remember", remember, METH_O, nullptr},
    {nullptr, nullptr, 0, nullptr},
};

static PyModuleDef_Slot slots[] = {{0, nullptr}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "templates", nullptr, 0, methods, slots, nullptr, nullptr, nullptr,
};

PyMODINIT_FUNC
PyInit_templates(void)
{
    return PyModuleDef_Init(&definition);
}
