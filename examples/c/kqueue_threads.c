/*
 * kqueue_threads.c - each thread has a listener, a kqueue and a session of its own: nothing is
 * shared, and FF_THREAD_SOCKET=1 takes the shim's lock away. Of several instances
 * (FF_NB_FSTACK_INSTANCE) each thread attaches to the next one.
 *
 *     cc -O2 -pthread $(ffloop preload --cflags) kqueue_threads.c -o kqueue_threads \
 *         $(ffloop preload --libs)
 *     FF_THREAD_SOCKET=1 ffloop preload -- ./kqueue_threads 8080 2
 *     curl http://127.0.0.1:8080/
 */
#define _GNU_SOURCE
#include "kqueue_loop.h"
#include "threads.h"

static void *body(void *arg)
{
    serve(thread_listener());
    return arg;
}

int main(int argc, char **argv)
{
    return run_threads(argc, argv, body);
}
