/*
 * threads.h - N threads that share nothing, each with a listener of the same port (SO_REUSEPORT).
 */
#ifndef THREADS_H
#define THREADS_H

#include "hello.h"

#include <pthread.h>
#include <semaphore.h>

static int port;
static sem_t listens;

/* The thread's listener, made in the thread that uses it, as FF_THREAD_SOCKET=1 demands. */
static int thread_listener(void)
{
    int fd = listen_at(INADDR_ANY, port, 0);
    port = port_of(fd);
    sem_post(&listens);
    return fd;
}

/* ./program PORT THREADS */
static int run_threads(int argc, char **argv, void *(*body)(void *))
{
    int threads = argc > 2 ? atoi(argv[2]) : 2;
    port = argc > 1 ? atoi(argv[1]) : 8080;
    sem_init(&listens, 0, 0);
    for (int i = 0; i < threads; i++) { /* one by one: port 0 becomes the first's */
        pthread_t t;
        if (pthread_create(&t, NULL, body, NULL))
            die("pthread_create");
        sem_wait(&listens);
    }
    say_port(port);
    return pause();
}

#endif
