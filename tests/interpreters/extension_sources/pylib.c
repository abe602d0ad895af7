/* A library that is no module but calls Python, like pyarrow's libarrow_python.so: its statics
   belong to one interpreter. */
#include <Python.h>

static PyObject *objects = NULL;

PyObject *
pylib_remember(PyObject *value)
{
    if (objects == NULL && (objects = PyList_New(0)) == NULL)
        return NULL;
    if (PyList_Append(objects, value) < 0)
        return NULL;
    return PyList_GetSlice(objects, 0, PyList_GET_SIZE(objects));
}
