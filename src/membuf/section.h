/*
 * section.h: the reservation that a write section uses.  Private to membuf.
 */
#ifndef ORBIT_SECTION_H
#define ORBIT_SECTION_H

#include "membuf/membuf.h"

/* reserve.c: r is being published from; its rest is taken back by MembufLeaveWrite. */
extern void MembufUseReservation(MembufReservation *r);

#endif							/* ORBIT_SECTION_H */
