/*
 * writers.c: how many processes may still publish, so that the worker can outlive all
 * of them at shutdown (K14).
 *
 * A writer counts itself, and only then (full barrier) looks whether the gate is closed; the worker
 * closes the gate, and only then looks at the count.  So no writer slips past a worker
 * that has seen zero.
 */
#include "postgres.h"

#include "miscadmin.h"
#include "replication/walsender.h"

#include "membuf/control.h"

static bool attached = false;

void
MembufAttachWriter(void)
{
	if (likely(attached) || AmStartupProcess())
		return;

	/*
	 * A walsender outlives the shutdown checkpoint, which waits for the worker, which
	 * waits for its writers.
	 */
	if (am_walsender)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot write to tables that use access method \"orbit\" over a replication connection")));
	MembufRegisterCleanup();
	(void) pg_atomic_fetch_add_u32(&membuf_control->writers, 1);
	attached = true;
	pg_memory_barrier();
	if (pg_atomic_read_u32(&membuf_control->gate_closed) != 0)
	{
		MembufDetachWriter();
		ereport(ERROR,
				(errcode(ERRCODE_ADMIN_SHUTDOWN),
				 errmsg("cannot write to tables that use access method \"orbit\" during shutdown")));
	}
}

void
MembufDetachWriter(void)
{
	if (!attached)
		return;
	attached = false;
	(void) pg_atomic_fetch_sub_u32(&membuf_control->writers, 1);
	if (pg_atomic_read_u32(&membuf_control->gate_closed) != 0)
		MembufWakeWorker();
}

int
MembufWriterCount(void)
{
	pg_memory_barrier();
	return (int) pg_atomic_read_u32(&membuf_control->writers);
}

void
MembufCloseGate(void)
{
	pg_atomic_write_u32(&membuf_control->gate_closed, 1);
	pg_memory_barrier();
}
