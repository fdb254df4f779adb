/*
 * epoll_kernel.c - one epoll with sockets of both kinds: the service is on the stack, a health
 * check on the kernel's loopback, whatever the routes say.
 *
 *     cc -O2 $(ffloop preload --cflags) epoll_kernel.c -o epoll_kernel
 *     ffloop preload -- ./epoll_kernel 8080 8081
 *     curl http://127.0.0.1:8080/ http://127.0.0.1:8081/
 */
#define _GNU_SOURCE
#include "epoll_loop.h"

#include <ff_syscall.h>

int main(int argc, char **argv)
{
    int service = listen_at(INADDR_ANY, argc > 1 ? atoi(argv[1]) : 8080, SOCK_FSTACK);
    int health = listen_at(INADDR_LOOPBACK, argc > 2 ? atoi(argv[2]) : 8081, SOCK_KERNEL);
    say_port(port_of(service));
    say_port(port_of(health));
    serve((const int[]){service, health}, 2);
}
