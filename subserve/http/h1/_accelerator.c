/* The steps of the HTTP/1.1 lane that take the most time, in C: reading a head, making a response,
   sending it.

   Optional.  `head.py` and `response.py` say what is valid; what is here only recognizes what is
   unremarkable, and answers None to everything else, which they then look at.  So whatever is taken
   here they would have taken too, with the same result; `tests/unit/test_h1_accelerator.py`
   compares the two.

   Any number of interpreters, each with its own GIL, use this at once: what changes is in the state
   of the module, of which each interpreter has its own.  No function runs Python code or waits, so
   nothing that is borrowed can change while it is looked at. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include <errno.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>

enum {
    MAX_FIELDS = 128,       /* of a request or a response; they are noted on the stack */
    MAX_NAME_BYTES = 64,    /* of a header name in a request */
    MAX_LENGTH_DIGITS = 18, /* as in head.py; fits into 64 bits */
    NAME_SLOTS = 256,       /* a power of two, a few times as many as names are known */
};

/* ---- characters */

#define IS_DIGIT(c) ((c) >= '0' && (c) <= '9')
#define IS_UPPER(c) ((c) >= 'A' && (c) <= 'Z')
#define IS_LOWER(c) ((c) >= 'a' && (c) <= 'z')
#define IS_ALNUM(c) (IS_DIGIT(c) || IS_UPPER(c) || IS_LOWER(c))

/* RFC 9110, section 5.6.2. */
#define IS_TOKEN(c)                                                                               \
    (IS_ALNUM(c) || (c) == '!' || ((c) >= '#' && (c) <= '\'') || (c) == '*' || (c) == '+' ||      \
     (c) == '-' || (c) == '.' || ((c) >= '^' && (c) <= '`') || (c) == '|' || (c) == '~')
/* RFC 9110, section 5.5. */
#define IS_VALUE(c) ((c) == '\t' || ((c) >= 0x20 && (c) != 0x7f))
/* What head.py lets a target hold, without a fragment, and a path that need not be decoded. */
#define IS_QUERY(c) ((c) >= '!' && (c) <= '~' && (c) != '#')
#define IS_PATH(c) (IS_QUERY(c) && (c) != '?' && (c) != '%')
/* RFC 3986, section 3.2.2: reg-name, without percent signs, as in head.py. */
#define IS_HOST(c)                                                                                \
    (IS_ALNUM(c) || (c) == '!' || (c) == '$' || ((c) >= '&' && (c) <= '.') || (c) == ';' ||       \
     (c) == '=' || (c) == '_' || (c) == '~')

enum { VALUE = 1, QUERY = 2, PATH = 4, HOST = 8 };

#define CLASS(c)                                                                                  \
    ((IS_VALUE(c) ? VALUE : 0) | (IS_QUERY(c) ? QUERY : 0) | (IS_PATH(c) ? PATH : 0) |            \
     (IS_HOST(c) ? HOST : 0))
#define LOWER(c) (IS_UPPER(c) ? (c) + 0x20 : IS_TOKEN(c) ? (c) : 0)
#define FOUR(of, c) of(c), of((c) + 1), of((c) + 2), of((c) + 3)
#define ROW(of, c) FOUR(of, c), FOUR(of, (c) + 4), FOUR(of, (c) + 8), FOUR(of, (c) + 12)
#define TABLE(of)                                                                                 \
    {                                                                                             \
        ROW(of, 0x00), ROW(of, 0x10), ROW(of, 0x20), ROW(of, 0x30), ROW(of, 0x40), ROW(of, 0x50), \
        ROW(of, 0x60), ROW(of, 0x70), ROW(of, 0x80), ROW(of, 0x90), ROW(of, 0xa0), ROW(of, 0xb0), \
        ROW(of, 0xc0), ROW(of, 0xd0), ROW(of, 0xe0), ROW(of, 0xf0)                                \
    }

typedef unsigned char byte;

static const byte CLASSES[256] = TABLE(CLASS);
static const byte LOWERED[256] = TABLE(LOWER); /* characters of a token in lower case; others 0 */

/* Whether one of 8 bytes is below `bound`, which is 128 at most; and whether one is `value`. */
#define EACH(value) (UINT64_C(0x0101010101010101) * (value))
#define ANY_BELOW(word, bound) (((word) - EACH(bound)) & ~(word) & EACH(0x80))
#define ANY_IS(word, value) ANY_BELOW((word) ^ EACH(value), 1)

static inline uint64_t
load(const byte *at)
{
    uint64_t word;
    memcpy(&word, at, sizeof word);
    return word;
}

/* Return the first byte from `at` on that no field value of a request may hold, or `end`. */
static inline const byte *
skip_value(const byte *at, const byte *end)
{
    while (at < end) {
        while (end - at >= 8) {
            uint64_t word = load(at);
            if (ANY_BELOW(word, 0x20) || ANY_IS(word, 0x7f)) {
                break;
            }
            at += 8;
        }
        /* It is among the next 8, or it is a tab, which is fine. */
        const byte *stop = end - at > 8 ? at + 8 : end;
        for (; at < stop; at++) {
            if (!(CLASSES[*at] & VALUE)) {
                return at;
            }
        }
    }
    return end;
}

/* Whether no byte would end the line, or be a NUL (RFC 9110, section 5.5). */
static inline bool
stays_on_line(const byte *at, const byte *end)
{
    for (; end - at >= 8; at += 8) {
        uint64_t word = load(at);
        if (ANY_IS(word, '\r') || ANY_IS(word, '\n') || ANY_IS(word, 0)) {
            return false;
        }
    }
    for (; at < end; at++) {
        if (*at == '\r' || *at == '\n' || *at == 0) {
            return false;
        }
    }
    return true;
}

/* Whether the bytes, in lower case, are `lower`, of the same length, which is a token. */
static inline bool
is_lower(const byte *at, const char *lower, size_t size)
{
    for (size_t i = 0; i < size; i++) {
        if (LOWERED[at[i]] != (byte)lower[i]) {
            return false;
        }
    }
    return true;
}

/* Return the number that 1 to 18 digits make, or -1. */
static int64_t
read_length(const byte *at, Py_ssize_t size)
{
    if (size < 1 || size > MAX_LENGTH_DIGITS) {
        return -1;
    }
    int64_t length = 0;
    for (Py_ssize_t i = 0; i < size; i++) {
        if (!IS_DIGIT(at[i])) {
            return -1;
        }
        length = length * 10 + (at[i] - '0');
    }
    return length;
}

/* ---- names */

/* A header, in memory that belongs to somebody else. */
typedef struct {
    const byte *name;
    const byte *value;
    Py_ssize_t name_size;
    Py_ssize_t value_size;
} Line;

/* What a header name says about a request. */
typedef enum {
    ORDINARY,
    IS_HOST_NAME,
    IS_LENGTH,
    IS_TYPE,
    IS_CONNECTION,
    IS_REMARKABLE, /* for the other path, whatever its value */
} Meaning;

static const struct {
    char name[18];
    Meaning meaning;
} MEANT[] = {
    {"host", IS_HOST_NAME},
    {"content-length", IS_LENGTH},
    {"content-type", IS_TYPE},
    {"connection", IS_CONNECTION},
    {"expect", IS_REMARKABLE},
    {"te", IS_REMARKABLE},
    {"transfer-encoding", IS_REMARKABLE},
    {"upgrade", IS_REMARKABLE},
    /* Not what they look like, and refused for that: see head.py. */
    {"content_length", IS_REMARKABLE},
    {"transfer_encoding", IS_REMARKABLE},
};
enum { MEANT_COUNT = sizeof MEANT / sizeof MEANT[0] };

/* Names that clients, and the proxies in front of us, send often: made once, not each time. */
static const char COMMON[][32] = {
    "accept", "accept-charset", "accept-encoding", "accept-language",
    "access-control-request-headers", "access-control-request-method", "authorization", "baggage",
    "cache-control", "cdn-loop", "cf-connecting-ip", "cf-ipcountry", "cf-ray", "cf-visitor",
    "content-encoding", "cookie", "dnt", "forwarded", "if-match", "if-modified-since",
    "if-none-match", "if-range", "keep-alive", "origin", "pragma", "priority", "range", "referer",
    "sec-ch-ua", "sec-ch-ua-mobile", "sec-ch-ua-platform", "sec-fetch-dest", "sec-fetch-mode",
    "sec-fetch-site", "sec-fetch-user", "sec-gpc", "traceparent", "tracestate",
    "upgrade-insecure-requests", "user-agent", "via", "x-amzn-trace-id", "x-api-key",
    "x-correlation-id", "x-csrf-token", "x-csrftoken", "x-forwarded-for", "x-forwarded-host",
    "x-forwarded-port", "x-forwarded-prefix", "x-forwarded-proto", "x-real-ip", "x-request-id",
    "x-requested-with",
};
enum { COMMON_COUNT = sizeof COMMON / sizeof COMMON[0] };

/* The methods that are common; the space is looked for with them. */
static const char METHODS[][9] = {"GET ", "POST ", "HEAD ", "PUT ", "PATCH ", "DELETE ", "OPTIONS "};
enum { METHOD_COUNT = sizeof METHODS / sizeof METHODS[0] };

typedef struct {
    PyObject *name; /* bytes, lower case; NULL where the slot is free */
    Meaning meaning;
} Slot;

typedef struct {
    Slot names[NAME_SLOTS]; /* open addressing; most of it is free */
    PyObject *methods[METHOD_COUNT];
} State;

/* Where a name, in lower case and not empty, is looked for first. */
static inline size_t
slot_of(const byte *name, size_t size)
{
    return (size * 5 + name[0] + name[size / 2] * 3u + name[size - 1] * 7u) & (NAME_SLOTS - 1);
}

/* Return the slot of a name, or a free one if it is not among those that are common. */
static inline Slot *
find_name(State *state, const byte *name, size_t size)
{
    size_t i = slot_of(name, size);
    while (state->names[i].name != NULL &&
           ((size_t)PyBytes_GET_SIZE(state->names[i].name) != size ||
            memcmp(PyBytes_AS_STRING(state->names[i].name), name, size) != 0)) {
        i = (i + 1) & (NAME_SLOTS - 1);
    }
    return &state->names[i];
}

/* ---- reading the head of a request */

typedef struct {
    PyObject *method; /* borrowed from the state */
    const byte *target;
    const byte *path_end;
    const byte *query;
    const byte *target_end;
    const byte *end;
    Py_ssize_t count;
    int64_t length;
    bool keep_alive;
    bool forwarded;
    Line lines[MAX_FIELDS];
    PyObject *names[MAX_FIELDS]; /* borrowed from the state; NULL for those it does not have */
} Head;

/* Whether a Host is a name and perhaps a port; an address in brackets is for the other path. */
static bool
is_host(const byte *at, const byte *end)
{
    const byte *start = at;
    while (at < end && CLASSES[*at] & HOST) {
        at++;
    }
    if (at == start || at - start > 255) {
        return false;
    }
    if (at < end && *at == ':') {
        at++;
        for (int i = 0; i < 5 && at < end && IS_DIGIT(*at); i++) {
            at++;
        }
    }
    return at == end;
}

/* Read the request line and return the place behind it; NULL if it is not unremarkable. */
static const byte *
read_request_line(State *state, const byte *at, const byte *end, Head *into)
{
    into->method = NULL;
    for (size_t i = 0; i < METHOD_COUNT; i++) {
        size_t size = strlen(METHODS[i]);
        if ((size_t)(end - at) > size && memcmp(at, METHODS[i], size) == 0) {
            into->method = state->methods[i];
            at += size;
            break;
        }
    }
    if (into->method == NULL || *at != '/') {
        return NULL;
    }
    into->target = at;
    while (at < end && CLASSES[*at] & PATH) {
        at++;
    }
    into->path_end = into->query = at;
    if (at < end && *at == '?') {
        into->query = ++at;
        while (at < end && CLASSES[*at] & QUERY) {
            at++;
        }
    }
    into->target_end = at;
    static const char VERSION[] = " HTTP/1.1\r\n";
    if ((size_t)(end - at) < sizeof VERSION - 1 || memcmp(at, VERSION, sizeof VERSION - 1) != 0) {
        return NULL;
    }
    return at + sizeof VERSION - 1;
}

/* Take note of a field that says how the request is to be read; false if it is remarkable. */
static bool
interpret(Head *into, unsigned *seen, Meaning meaning, const byte *value, Py_ssize_t size)
{
    /* Each of them once; the other path knows of which two may do. */
    if (meaning == IS_REMARKABLE || *seen & 1u << meaning) {
        return false;
    }
    *seen |= 1u << meaning;
    switch (meaning) {
    case IS_HOST_NAME:
        return is_host(value, value + size);
    case IS_LENGTH:
        into->length = read_length(value, size);
        return into->length >= 0;
    case IS_CONNECTION:
        into->keep_alive = size == 10 && is_lower(value, "keep-alive", 10);
        return into->keep_alive || (size == 5 && is_lower(value, "close", 5));
    default:
        return true;
    }
}

/* Whether a name, in lower case, is one that proxies write; `forwarded.py` looks at those. */
static inline bool
is_about_forwarding(const byte *name, size_t size)
{
    return (size >= 12 && memcmp(name, "x-forwarded-", 12) == 0) ||
           (size == 9 && memcmp(name, "forwarded", 9) == 0);
}

/* Read the header fields up to the empty line; false if they are not unremarkable. */
static bool
read_fields(State *state, const byte *at, const byte *end, Py_ssize_t max_count, Head *into)
{
    unsigned seen = 0;
    into->count = 0;
    into->length = -1;
    into->keep_alive = true;
    into->forwarded = false;
    for (;;) {
        if (end - at < 2) {
            return false;
        }
        if (*at == '\r') {
            into->end = at + 2;
            return at[1] == '\n' && seen & 1u << IS_HOST_NAME;
        }
        if (into->count >= max_count) {
            return false;
        }
        Line *found = &into->lines[into->count];
        byte lower[MAX_NAME_BYTES];
        size_t size = 0;
        found->name = at;
        while (at < end && size < MAX_NAME_BYTES && LOWERED[*at]) {
            lower[size++] = LOWERED[*at++];
        }
        if (size == 0 || at == end || *at++ != ':') {
            return false;
        }
        found->name_size = (Py_ssize_t)size;
        while (at < end && (*at == ' ' || *at == '\t')) {
            at++;
        }
        const byte *line_end = skip_value(at, end);
        if (end - line_end < 2 || line_end[0] != '\r' || line_end[1] != '\n') {
            return false;
        }
        const byte *value_end = line_end;
        while (value_end > at && (value_end[-1] == ' ' || value_end[-1] == '\t')) {
            value_end--;
        }
        found->value = at;
        found->value_size = value_end - at;
        const Slot *known = find_name(state, lower, size);
        into->names[into->count++] = known->name;
        into->forwarded |= is_about_forwarding(lower, size);
        if (known->meaning != ORDINARY &&
            !interpret(into, &seen, known->meaning, found->value, found->value_size)) {
            return false;
        }
        at = line_end + 2;
    }
}

static PyObject *
make_name(PyObject *known, const Line *from)
{
    if (known != NULL) {
        return Py_NewRef(known);
    }
    PyObject *name = PyBytes_FromStringAndSize(NULL, from->name_size);
    if (name != NULL) {
        byte *to = (byte *)PyBytes_AS_STRING(name);
        for (Py_ssize_t i = 0; i < from->name_size; i++) {
            to[i] = LOWERED[from->name[i]];
        }
    }
    return name;
}

static PyObject *
make_bytes(const byte *start, const byte *end)
{
    return PyBytes_FromStringAndSize((const char *)start, end - start);
}

static PyObject *
make_headers(const Head *from)
{
    PyObject *headers = PyList_New(from->count);
    if (headers == NULL) {
        return NULL;
    }
    for (Py_ssize_t i = 0; i < from->count; i++) {
        const Line *line = &from->lines[i];
        PyObject *pair = PyTuple_New(2);
        if (pair == NULL) {
            goto failed;
        }
        PyList_SET_ITEM(headers, i, pair);
        PyObject *name = make_name(from->names[i], line);
        if (name == NULL) {
            goto failed;
        }
        PyTuple_SET_ITEM(pair, 0, name);
        PyObject *value = make_bytes(line->value, line->value + line->value_size);
        if (value == NULL) {
            goto failed;
        }
        PyTuple_SET_ITEM(pair, 1, value);
    }
    return headers;
failed:
    Py_DECREF(headers);
    return NULL;
}

static PyObject *
make_path(const Head *from)
{
    Py_ssize_t size = from->path_end - from->target;
    PyObject *path = PyUnicode_New(size, 0x7f);
    if (path != NULL) {
        memcpy(PyUnicode_1BYTE_DATA(path), from->target, (size_t)size);
    }
    return path;
}

PyDoc_STRVAR(parse_head_doc,
"parse_head($module, data, max_bytes, max_count, /)\n--\n\n"
"Read the head of a request that `data` begins with, if it is complete and unremarkable.\n\n"
"Returns (end, method, path, raw_path, query, headers, length, keep_alive, forwarded), or None.");

static PyObject *
parse_head(PyObject *module, PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3) {
        PyErr_SetString(PyExc_TypeError, "parse_head takes data, max_bytes and max_count");
        return NULL;
    }
    Py_ssize_t max_bytes = PyLong_AsSsize_t(args[1]);
    Py_ssize_t max_count = PyLong_AsSsize_t(args[2]);
    if ((max_bytes == -1 || max_count == -1) && PyErr_Occurred()) {
        return NULL;
    }
    if (!PyBytes_CheckExact(args[0])) {
        Py_RETURN_NONE;
    }
    State *state = PyModule_GetState(module);
    const byte *data = (const byte *)PyBytes_AS_STRING(args[0]);
    Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
    const byte *end = data + (size < max_bytes ? size : max_bytes < 0 ? 0 : max_bytes);
    Head read;
    const byte *fields = read_request_line(state, data, end, &read);
    if (fields == NULL ||
        !read_fields(state, fields, end, max_count < MAX_FIELDS ? max_count : MAX_FIELDS, &read)) {
        Py_RETURN_NONE;
    }
    PyObject *parts[] = {
        PyLong_FromSsize_t(read.end - data),
        Py_NewRef(read.method),
        make_path(&read),
        make_bytes(read.target, read.path_end),
        make_bytes(read.query, read.target_end),
        make_headers(&read),
        PyLong_FromLongLong(read.length),
        Py_NewRef(read.keep_alive ? Py_True : Py_False),
        Py_NewRef(read.forwarded ? Py_True : Py_False),
    };
    enum { PARTS = sizeof parts / sizeof parts[0] };
    PyObject *result = PyTuple_New(PARTS);
    bool complete = result != NULL;
    for (int i = 0; i < PARTS; i++) {
        complete = complete && parts[i] != NULL;
    }
    if (!complete) {
        for (int i = 0; i < PARTS; i++) {
            Py_XDECREF(parts[i]);
        }
        Py_XDECREF(result);
        return NULL;
    }
    for (int i = 0; i < PARTS; i++) {
        PyTuple_SET_ITEM(result, i, parts[i]);
    }
    return result;
}

/* ---- writing a whole response */

typedef struct {
    Py_ssize_t count;
    size_t size; /* of all lines, with their line breaks */
    bool dated;
    Line lines[MAX_FIELDS];
} Block;

/* What becomes of a header of the app's. */
typedef enum { KEPT, DATES, GIVES_LENGTH, UNWELCOME } Role;

/* Return the role of a header; UNWELCOME, for the other path, if its name is not valid. */
static Role
role_of(const byte *name, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < size; i++) {
        if (!LOWERED[name[i]]) {
            return UNWELCOME;
        }
    }
    switch (size) {
    case 0:
        return UNWELCOME;
    case 4:
        return is_lower(name, "date", 4) ? DATES : KEPT;
    case 10:
        if (is_lower(name, "connection", 10) || is_lower(name, "keep-alive", 10)) {
            return UNWELCOME;
        }
        return KEPT;
    case 14:
        return is_lower(name, "content-length", 14) ? GIVES_LENGTH : KEPT;
    case 16:
        return is_lower(name, "proxy-connection", 16) ? UNWELCOME : KEPT;
    case 17:
        return is_lower(name, "transfer-encoding", 17) ? UNWELCOME : KEPT;
    default:
        return KEPT;
    }
}

/* Point at the two bytes objects of a tuple or a list of two; false if it is anything else. */
static inline bool
read_pair(PyObject *pair, Line *into)
{
    PyObject *name, *value;
    if (PyTuple_CheckExact(pair) && PyTuple_GET_SIZE(pair) == 2) {
        name = PyTuple_GET_ITEM(pair, 0);
        value = PyTuple_GET_ITEM(pair, 1);
    } else if (PyList_CheckExact(pair) && PyList_GET_SIZE(pair) == 2) {
        name = PyList_GET_ITEM(pair, 0);
        value = PyList_GET_ITEM(pair, 1);
    } else {
        return false;
    }
    if (!PyBytes_CheckExact(name) || !PyBytes_CheckExact(value)) {
        return false;
    }
    into->name = (const byte *)PyBytes_AS_STRING(name);
    into->name_size = PyBytes_GET_SIZE(name);
    into->value = (const byte *)PyBytes_AS_STRING(value);
    into->value_size = PyBytes_GET_SIZE(value);
    return true;
}

/* Check the app's headers and note those that are sent; false if one is not unremarkable. */
static bool
read_block(PyObject *headers, Py_ssize_t body_size, Block *into)
{
    bool listed = PyList_CheckExact(headers);
    if (!listed && !PyTuple_CheckExact(headers)) {
        return false;
    }
    Py_ssize_t count = listed ? PyList_GET_SIZE(headers) : PyTuple_GET_SIZE(headers);
    if (count > MAX_FIELDS) {
        return false;
    }
    into->count = 0;
    into->size = 0;
    into->dated = false;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *pair = listed ? PyList_GET_ITEM(headers, i) : PyTuple_GET_ITEM(headers, i);
        Line *next = &into->lines[into->count];
        if (!read_pair(pair, next)) {
            return false;
        }
        Role role = role_of(next->name, next->name_size);
        if (role == UNWELCOME) {
            return false;
        }
        if (role == GIVES_LENGTH) {
            if (read_length(next->value, next->value_size) != body_size) {
                return false;
            }
            continue; /* it is written with the framing, where the lane writes it */
        }
        if (!stays_on_line(next->value, next->value + next->value_size)) {
            return false;
        }
        into->dated = into->dated || role == DATES;
        into->size += (size_t)next->name_size + (size_t)next->value_size + 4;
        into->count++;
        /* Values may be the same object over and over, so that sizes add up to anything. */
        if (into->size > PY_SSIZE_T_MAX / 4) {
            return false;
        }
    }
    return true;
}

static const char LENGTH_NAME[] = "content-length: ";

/* Write the line of Content-Length into `buffer` and return its size, 38 at most. */
static Py_ssize_t
write_length(char buffer[40], Py_ssize_t length)
{
    char digits[20]; /* of 64 bits */
    int count = 0;
    do {
        digits[count++] = (char)('0' + length % 10);
        length /= 10;
    } while (length != 0);
    char *at = buffer + sizeof LENGTH_NAME - 1;
    memcpy(buffer, LENGTH_NAME, sizeof LENGTH_NAME - 1);
    while (count > 0) {
        *at++ = digits[--count];
    }
    *at++ = '\r';
    *at++ = '\n';
    return at - buffer;
}

static inline byte *
put(byte *at, const void *from, Py_ssize_t size)
{
    memcpy(at, from, (size_t)size);
    return at + size;
}

static inline byte *
put_object(byte *at, PyObject *bytes)
{
    return put(at, PyBytes_AS_STRING(bytes), PyBytes_GET_SIZE(bytes));
}

PyDoc_STRVAR(whole_response_doc,
"whole_response($module, status_line, headers, body, date, closing, bodiless, /)\n--\n\n"
"Return a response in one piece, if what the app gave is unremarkable, or None.");

static PyObject *
whole_response(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 6 || !PyBytes_CheckExact(args[0]) || !PyBytes_CheckExact(args[3]) ||
        !PyBytes_CheckExact(args[4]) || !PyBool_Check(args[5])) {
        PyErr_SetString(PyExc_TypeError, "whole_response takes status_line (bytes), headers, body, "
                                         "date (bytes), closing (bytes) and bodiless (bool)");
        return NULL;
    }
    PyObject *status_line = args[0], *body = args[2], *date = args[3], *closing = args[4];
    Block block;
    if (args[5] == Py_True || !PyBytes_CheckExact(body) ||
        !read_block(args[1], PyBytes_GET_SIZE(body), &block)) {
        Py_RETURN_NONE;
    }
    char length[40];
    Py_ssize_t length_size = write_length(length, PyBytes_GET_SIZE(body));
    Py_ssize_t date_size = block.dated ? 0 : PyBytes_GET_SIZE(date);
    Py_ssize_t sizes[] = {
        PyBytes_GET_SIZE(status_line), date_size, PyBytes_GET_SIZE(closing), PyBytes_GET_SIZE(body),
    };
    Py_ssize_t size = (Py_ssize_t)block.size + length_size;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        if (sizes[i] > PY_SSIZE_T_MAX / 2 - size) {
            Py_RETURN_NONE;
        }
        size += sizes[i];
    }
    PyObject *response = PyBytes_FromStringAndSize(NULL, size);
    if (response == NULL) {
        return NULL;
    }
    byte *at = put_object((byte *)PyBytes_AS_STRING(response), status_line);
    for (Py_ssize_t i = 0; i < block.count; i++) {
        const Line *next = &block.lines[i];
        at = put(at, next->name, next->name_size);
        at = put(at, ": ", 2);
        at = put(at, next->value, next->value_size);
        at = put(at, "\r\n", 2);
    }
    at = put(at, PyBytes_AS_STRING(date), date_size);
    at = put(at, length, length_size);
    at = put_object(at, closing);
    at = put_object(at, body);
    assert(at == (byte *)PyBytes_AS_STRING(response) + size);
    return response;
}

/* ---- WSGI */

/* Whether a str is ASCII without control characters; points at its characters if it is. */
static inline bool
read_text(PyObject *text, const byte **at, Py_ssize_t *size)
{
    if (!PyUnicode_CheckExact(text) || !PyUnicode_IS_COMPACT_ASCII(text)) {
        return false;
    }
    *at = PyUnicode_1BYTE_DATA(text);
    *size = PyUnicode_GET_LENGTH(text);
    for (Py_ssize_t i = 0; i < *size; i++) {
        if ((*at)[i] < 0x20 || (*at)[i] == 0x7f) {
            return false;
        }
    }
    return true;
}

/* Whether a name is among those that an app must not send (RFC 2616, section 13.5.1, which PEP 3333
   goes by) beside those that `role_of` knows. */
static bool
is_hop_by_hop(const byte *name, Py_ssize_t size)
{
    switch (size) {
    case 2:
        return is_lower(name, "te", 2);
    case 7:
        return is_lower(name, "upgrade", 7) || is_lower(name, "trailer", 7);
    case 8:
        return is_lower(name, "trailers", 8);
    case 18:
        return is_lower(name, "proxy-authenticate", 18);
    case 19:
        return is_lower(name, "proxy-authorization", 19);
    default:
        return false;
    }
}

/* Return the code of a status line of WSGI, "200 OK"; -1 if it is not that of a response. */
static int
read_status(PyObject *status)
{
    const byte *at;
    Py_ssize_t size;
    if (!read_text(status, &at, &size) || size < 4 || at[0] < '2' || at[0] > '9' ||
        !IS_DIGIT(at[1]) || !IS_DIGIT(at[2]) || at[3] != ' ') {
        return -1;
    }
    return (at[0] - '0') * 100 + (at[1] - '0') * 10 + (at[2] - '0');
}

/* Note what `start_response` was given, and what it says about the body's length (-1: nothing);
   false if it is not unremarkable. */
static bool
read_wsgi_headers(PyObject *headers, Block *into, int64_t *length)
{
    if (!PyList_CheckExact(headers) || PyList_GET_SIZE(headers) > MAX_FIELDS) {
        return false;
    }
    into->count = 0;
    into->size = 0;
    into->dated = false;
    *length = -1;
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(headers); i++) {
        PyObject *pair = PyList_GET_ITEM(headers, i);
        Line *next = &into->lines[into->count];
        if (!PyTuple_CheckExact(pair) || PyTuple_GET_SIZE(pair) != 2 ||
            !read_text(PyTuple_GET_ITEM(pair, 0), &next->name, &next->name_size) ||
            !read_text(PyTuple_GET_ITEM(pair, 1), &next->value, &next->value_size)) {
            return false;
        }
        Role role = role_of(next->name, next->name_size);
        if (role == UNWELCOME || is_hop_by_hop(next->name, next->name_size)) {
            return false;
        }
        while (next->value_size > 0 && *next->value == ' ') {
            next->value++;
            next->value_size--;
        }
        while (next->value_size > 0 && next->value[next->value_size - 1] == ' ') {
            next->value_size--;
        }
        if (role == GIVES_LENGTH) {
            if (*length >= 0 || (*length = read_length(next->value, next->value_size)) < 0) {
                return false;
            }
            continue; /* it is written with the framing */
        }
        into->dated = into->dated || role == DATES;
        into->size += (size_t)next->name_size + (size_t)next->value_size + 4;
        into->count++;
        if (into->size > PY_SSIZE_T_MAX / 4) {
            return false;
        }
    }
    return true;
}

PyDoc_STRVAR(wsgi_head_doc,
"wsgi_head($module, status, headers, /)\n--\n\n"
"Read what an app gives to start_response, if it is unremarkable, or return None.");

static PyObject *
wsgi_head(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "wsgi_head takes status and headers");
        return NULL;
    }
    Block block;
    int64_t length;
    int status = read_status(args[0]);
    if (status < 0 || !read_wsgi_headers(args[1], &block, &length)) {
        Py_RETURN_NONE;
    }
    PyObject *lines = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)block.size);
    if (lines == NULL) {
        return NULL;
    }
    byte *at = (byte *)PyBytes_AS_STRING(lines);
    for (Py_ssize_t i = 0; i < block.count; i++) {
        const Line *next = &block.lines[i];
        for (Py_ssize_t j = 0; j < next->name_size; j++) {
            *at++ = LOWERED[next->name[j]];
        }
        at = put(at, ": ", 2);
        at = put(at, next->value, next->value_size);
        at = put(at, "\r\n", 2);
    }
    return Py_BuildValue("iNLO", status, lines, (long long)length,
                         block.dated ? Py_True : Py_False);
}

PyDoc_STRVAR(add_headers_doc,
"add_headers($module, environ, headers, keys, /)\n--\n\n"
"Put headers into a WSGI environ up to the first that is remarkable; return how many.");

static PyObject *
add_headers(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 3 || !PyDict_CheckExact(args[0]) || !PyList_CheckExact(args[1]) ||
        !PyDict_CheckExact(args[2])) {
        PyErr_SetString(PyExc_TypeError, "add_headers takes environ (dict), headers (list) and keys");
        return NULL;
    }
    PyObject *environ = args[0], *headers = args[1], *keys = args[2];
    Py_ssize_t done = 0;
    for (; done < PyList_GET_SIZE(headers); done++) {
        Line line;
        PyObject *pair = PyList_GET_ITEM(headers, done);
        if (!read_pair(pair, &line)) {
            break;
        }
        /* `read_pair` has seen that it is a tuple or a list of two; bytes hash without Python code. */
        PyObject *name = PyTuple_CheckExact(pair) ? PyTuple_GET_ITEM(pair, 0)
                                                  : PyList_GET_ITEM(pair, 0);
        PyObject *key = PyDict_GetItemWithError(keys, name);
        if (key == NULL) {
            if (PyErr_Occurred()) {
                return NULL;
            }
            break;
        }
        if (!PyUnicode_CheckExact(key) || PyUnicode_GET_LENGTH(key) == 0) {
            break;
        }
        PyObject *value = PyUnicode_DecodeLatin1((const char *)line.value, line.value_size, NULL);
        if (value == NULL) {
            return NULL;
        }
        PyObject *there;
        int outcome = PyDict_SetDefaultRef(environ, key, value, &there);
        Py_DECREF(value);
        Py_XDECREF(there);
        if (outcome < 0) {
            return NULL;
        }
        if (outcome == 1) {
            break; /* there is one of that name already: how they are joined is not said here */
        }
    }
    return PyLong_FromSsize_t(done);
}

/* ---- receiving and sending */

PyDoc_STRVAR(receive_now_doc,
"receive_now($module, descriptor, size, /)\n--\n\n"
"Receive what is there, at most `size` bytes, without giving up the GIL.");

enum { MAX_RECEIVED = 256 * 1024, ON_STACK = 16 * 1024 };

static PyObject *
receive_now(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2) {
        PyErr_SetString(PyExc_TypeError, "receive_now takes a descriptor and a size");
        return NULL;
    }
    int descriptor = PyLong_AsInt(args[0]);
    int size = PyLong_AsInt(args[1]);
    if (PyErr_Occurred()) {
        return NULL;
    }
    if (size < 1 || size > MAX_RECEIVED) {
        PyErr_SetString(PyExc_ValueError, "receive_now takes a size from 1 to 262144");
        return NULL;
    }
    char small[ON_STACK];
    PyObject *large = NULL;
    char *into = small;
    if (size > ON_STACK) {
        large = PyBytes_FromStringAndSize(NULL, size);
        if (large == NULL) {
            return NULL;
        }
        into = PyBytes_AS_STRING(large);
    }
    ssize_t received;
    do {
        received = recv(descriptor, into, (size_t)size, MSG_DONTWAIT);
    } while (received < 0 && errno == EINTR);
    if (received < 0) {
        PyErr_SetFromErrno(PyExc_OSError);
        Py_XDECREF(large);
        return NULL;
    }
    if (large == NULL) {
        return PyBytes_FromStringAndSize(small, received);
    }
    if (_PyBytes_Resize(&large, received) < 0) {
        return NULL;
    }
    return large;
}

PyDoc_STRVAR(send_now_doc,
"send_now($module, descriptor, data, /)\n--\n\n"
"Send what the kernel takes at once of `data`, without giving up the GIL; return how much.");

/* A system call that never waits is over sooner than another thread could be woken, so the GIL is
   kept: giving it up hands the CPU to and fro between the loop and the threads of a pool. */
static PyObject *
send_now(PyObject *Py_UNUSED(module), PyObject *const *args, Py_ssize_t nargs)
{
    if (nargs != 2 || !PyBytes_CheckExact(args[1])) {
        PyErr_SetString(PyExc_TypeError, "send_now takes a descriptor and bytes");
        return NULL;
    }
    int descriptor = PyLong_AsInt(args[0]);
    if (descriptor == -1 && PyErr_Occurred()) {
        return NULL;
    }
    ssize_t sent;
    do {
        sent = send(descriptor, PyBytes_AS_STRING(args[1]), (size_t)PyBytes_GET_SIZE(args[1]),
                    MSG_DONTWAIT | MSG_NOSIGNAL);
    } while (sent < 0 && errno == EINTR);
    return sent < 0 ? PyErr_SetFromErrno(PyExc_OSError) : PyLong_FromSsize_t(sent);
}

/* ---- the module */

static int
add_name(State *state, const char *name, Meaning meaning)
{
    Slot *to = find_name(state, (const byte *)name, strlen(name));
    to->name = PyBytes_FromString(name);
    to->meaning = meaning;
    return to->name == NULL ? -1 : 0;
}

static int
execute(PyObject *module)
{
    State *state = PyModule_GetState(module);
    for (size_t i = 0; i < METHOD_COUNT; i++) {
        const char *method = METHODS[i];
        PyObject *text = PyUnicode_FromStringAndSize(method, (Py_ssize_t)strlen(method) - 1);
        if (text == NULL) {
            return -1;
        }
        /* The same object as the one that apps compare with. */
        PyUnicode_InternInPlace(&text);
        state->methods[i] = text;
    }
    for (size_t i = 0; i < MEANT_COUNT; i++) {
        if (add_name(state, MEANT[i].name, MEANT[i].meaning) < 0) {
            return -1;
        }
    }
    for (size_t i = 0; i < COMMON_COUNT; i++) {
        if (add_name(state, COMMON[i], ORDINARY) < 0) {
            return -1;
        }
    }
    return 0;
}

/* No `clear` and no `traverse`: what the state holds, bytes and str, refers to nothing, and is used
   for as long as there is a function that belongs to the module. */
static void
release(void *module)
{
    State *state = PyModule_GetState((PyObject *)module);
    for (size_t i = 0; i < METHOD_COUNT; i++) {
        Py_CLEAR(state->methods[i]);
    }
    for (size_t i = 0; i < NAME_SLOTS; i++) {
        Py_CLEAR(state->names[i].name);
    }
}

static PyMethodDef METHODS_OF_MODULE[] = {
    {"parse_head", (PyCFunction)(void (*)(void))parse_head, METH_FASTCALL, parse_head_doc},
    {"whole_response", (PyCFunction)(void (*)(void))whole_response, METH_FASTCALL,
     whole_response_doc},
    {"wsgi_head", (PyCFunction)(void (*)(void))wsgi_head, METH_FASTCALL, wsgi_head_doc},
    {"add_headers", (PyCFunction)(void (*)(void))add_headers, METH_FASTCALL, add_headers_doc},
    {"receive_now", (PyCFunction)(void (*)(void))receive_now, METH_FASTCALL, receive_now_doc},
    {"send_now", (PyCFunction)(void (*)(void))send_now, METH_FASTCALL, send_now_doc},
    {NULL, NULL, 0, NULL},
};

static PyModuleDef_Slot SLOTS[] = {
    {Py_mod_exec, execute},
    {Py_mod_multiple_interpreters, Py_MOD_PER_INTERPRETER_GIL_SUPPORTED},
    {0, NULL},
};

static struct PyModuleDef MODULE = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_accelerator",
    .m_doc = "The steps of the HTTP/1.1 lane that take the most time.",
    .m_size = sizeof(State),
    .m_methods = METHODS_OF_MODULE,
    .m_slots = SLOTS,
    .m_free = release,
};

PyMODINIT_FUNC
PyInit__accelerator(void)
{
    return PyModuleDef_Init(&MODULE);
}
