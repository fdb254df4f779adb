/*
 * kqueue.c - a web server on one kqueue, as on FreeBSD and F-Stack.
 *
 *     cc -O2 $(ffloop preload --cflags) kqueue.c -o kqueue $(ffloop preload --libs)
 *     ffloop preload -- ./kqueue 8080
 *     curl http://127.0.0.1:8080/
 */
#define _GNU_SOURCE
#include "kqueue_loop.h"

int main(int argc, char **argv)
{
    int listener = listen_at(INADDR_ANY, argc > 1 ? atoi(argv[1]) : 8080, 0);
    say_port(port_of(listener));
    serve(listener);
}
