/*
 * tam/tam.h: the table access method: a thin translation of the callbacks of
 * TableAmRoutine into row and store.  SQL: orbit_tableam_handler(internal),
 * orbit_check_preload().
 */
#ifndef ORBIT_TAM_H
#define ORBIT_TAM_H

#include "postgres.h"

#include "access/tableam.h"

extern const TableAmRoutine *TamRoutine(void);
/* _PG_init under preload: hooks (CREATE DATABASE TEMPLATE is refused; idle sessions keep
 * no iterators). */
extern void TamInit(void);

#endif							/* ORBIT_TAM_H */
