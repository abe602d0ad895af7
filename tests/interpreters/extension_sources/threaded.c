/* Starts threads that Python knows nothing of, as many C and Rust libraries do: one that never
   touches Python, one that calls a Python function, one that asks for a call by the interpreter. */
#include <Python.h>
#include <pthread.h>
#include <unistd.h>

static void *
write_byte(void *argument)
{
    int descriptor = (int)(intptr_t)argument;
    return (void *)(intptr_t)write(descriptor, "x", 1);
}

static void
call(void *callable)
{
    int64_t interpreter = PyInterpreterState_GetID(PyInterpreterState_Get());
    PyObject *result = PyObject_CallFunction(callable, "L", (long long)interpreter);
    if (result == NULL)
        PyErr_WriteUnraisable(callable);
    Py_XDECREF(result);
}

static void *
call_python(void *callable)
{
    for (int round = 0; round < 10; round++) {
        PyGILState_STATE outer = PyGILState_Ensure();
        PyGILState_STATE inner = PyGILState_Ensure();
        call(callable);
        PyGILState_Release(inner);
        PyGILState_Release(outer);
    }
    return NULL;
}

static int
pending(void *callable)
{
    call(callable);
    Py_DECREF((PyObject *)callable);
    return 0;
}

static void *
add_pending(void *callable)
{
    return (void *)(intptr_t)Py_AddPendingCall(pending, callable);
}

/* greenlet does this when a thread ends, here the one that the interpreter ran in. */
static pthread_key_t at_thread_end;

static int
never_called_without_interpreter(void *ignored)
{
    fputs("a pending call of a closed interpreter was made\n", stderr);
    abort();
}

static void
add_pending_at_thread_end(void *ignored)
{
    if (Py_AddPendingCall(never_called_without_interpreter, NULL) != 0)
        abort();
    /* Also asked for by cleanups; the thread must not hang, somebody waits for its end. */
    PyGILState_Release(PyGILState_Ensure());
}

static PyObject *
start(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    if (pthread_create(&thread, NULL, function, argument) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyLong_FromUnsignedLong((unsigned long)thread);
}

static PyObject *
join(PyObject *self, PyObject *thread)
{
    pthread_t number = (pthread_t)PyLong_AsUnsignedLong(thread);
    Py_BEGIN_ALLOW_THREADS
    pthread_join(number, NULL);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *
write_from_thread(PyObject *self, PyObject *descriptor)
{
    return start(write_byte, (void *)(intptr_t)PyLong_AsLong(descriptor));
}

static PyObject *
call_from_thread(PyObject *self, PyObject *callable)
{
    return start(call_python, callable); /* the caller joins, and keeps it until then */
}

static PyObject *
add_pending_from_thread(PyObject *self, PyObject *callable)
{
    return start(add_pending, Py_NewRef(callable));
}

static PyObject *
clean_up_at_thread_end(PyObject *self, PyObject *ignored)
{
    if (pthread_setspecific(at_thread_end, &at_thread_end) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"write_from_thread", write_from_thread, METH_O, NULL},
    {"call_from_thread", call_from_thread, METH_O, NULL},
    {"add_pending_from_thread", add_pending_from_thread, METH_O, NULL},
    {"join", join, METH_O, NULL},
    {"clean_up_at_thread_end", clean_up_at_thread_end, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "threaded", NULL, -1, methods};

PyMODINIT_FUNC
PyInit_threaded(void)
{
    if (pthread_key_create(&at_thread_end, add_pending_at_thread_end) != 0)
        return PyErr_SetFromErrno(PyExc_OSError);
    return PyModule_Create(&definition);
}
