/*
 * epoll_threads.c - each thread has a listener, an epoll and a session of its own: nothing is
 * shared, and FF_THREAD_SOCKET=1 takes the shim's lock away. Of several instances
 * (FF_NB_FSTACK_INSTANCE) each thread attaches to the next one.
 *
 *     cc -O2 -pthread epoll_threads.c -o epoll_threads
 *     FF_THREAD_SOCKET=1 ffloop preload -- ./epoll_threads 8080 2
 *     curl http://127.0.0.1:8080/
 */
#define _GNU_SOURCE
#include "epoll_loop.h"
#include "threads.h"

static void *body(void *arg)
{
    int listener = thread_listener();
    serve(&listener, 1);
    return arg;
}

int main(int argc, char **argv)
{
    return run_threads(argc, argv, body);
}
