/*
 * attacker.h - an application that does much of what is allowed, and what an iteration took.
 *
 * Callers: slices.c, counts.c, burden.c. The instance is stepped; each call submits, and iterates
 * when there is no room.
 */
#ifndef FFL_TEST_ATTACKER_H
#define FFL_TEST_ATTACKER_H

#include "lab.h"

#include "../../ffloop/_native/instance/internal.h"

#define SLICE_NS 200000

extern uint32_t many; /* sockets: 10,000, or as many as the limits of this process allow */
extern struct raw bad;
extern struct ffl_ticket ticket; /* closed by all_gone */
extern int64_t worst;            /* of the iterations: CPU time, ns */

void start_lab(const char *stack);
void all_gone(unsigned sessions); /* the attacker dies, and all but these sessions are gone */

void make_room(uint32_t n); /* in the SQ, for so many entries */
void make_buffers(int cls); /* until two of the class are free */
void settle(void);          /* until all is executed; what it answers is dropped */
void with_block(enum ffl_op op, uint32_t h, const void *block, size_t len);
void plain(enum ffl_op op, uint32_t h, int32_t arg, uint8_t flags);
void open_socket(uint32_t h, int type);
void listeners(void); /* many of them, at as many ports */

#endif
