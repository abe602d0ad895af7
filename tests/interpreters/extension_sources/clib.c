/* A plain C library, as wheels vendor it: knows nothing of Python. */
static long calls = 0;

long
clib_count(void)
{
    return ++calls;
}
