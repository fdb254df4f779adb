/*
 * epoll.c - a web server on one epoll: a program for Linux, unchanged.
 *
 *     cc -O2 epoll.c -o epoll
 *     ffloop preload -- ./epoll 8080
 *     curl http://127.0.0.1:8080/
 */
#define _GNU_SOURCE
#include "epoll_loop.h"

int main(int argc, char **argv)
{
    int listener = listen_at(INADDR_ANY, argc > 1 ? atoi(argv[1]) : 8080, 0);
    say_port(port_of(listener));
    serve(&listener, 1);
}
