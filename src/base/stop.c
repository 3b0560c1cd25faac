/*
 * stop.c: test stop points: a named place in the code where a test makes a
 * process wait, fail or die, so that a race becomes a deterministic test.
 *
 * A small table in shared memory; unarmed, a stop point costs one read of a
 * counter.  The functions are not part of the extension's SQL: a test declares
 *
 *	CREATE FUNCTION orbit_stop_point_set(name text, action text, skip int) RETURNS void
 *		AS 'orbit_fdw' LANGUAGE C STRICT;
 *	CREATE FUNCTION orbit_stop_point_clear(name text) RETURNS void ...
 *	CREATE FUNCTION orbit_stop_point_waiters(name text) RETURNS int ...
 *
 * Where no function can be called yet, a development build takes the name of one point of action
 * "kill" from the environment variable ORBIT_STOP_KILL at every start.
 */
#include "postgres.h"

#include <signal.h>
#include <unistd.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "port/atomics.h"
#include "postmaster/startup.h"
#include "storage/ipc.h"
#include "storage/latch.h"
#include "storage/pmsignal.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"

#include "base/base.h"

#define STOP_POINTS 16
#define STOP_NAME 64

typedef enum StopAction
{
	STOP_NONE,
	STOP_WAIT,
	STOP_ERROR,
	STOP_KILL,
	STOP_FAIL
} StopAction;

typedef struct StopPoint
{
	char		name[STOP_NAME];
	StopAction	action;
	int			skip;			/* hits that still pass by */
	int			waiters;
	uint32		era;			/* raised by each set and clear */
} StopPoint;

typedef struct StopShared
{
	pg_atomic_uint32 armed;		/* number of armed points */
	slock_t		mutex;			/* guards points */
	StopPoint	points[STOP_POINTS];
} StopShared;

static StopShared *stop_shared = NULL;

PG_FUNCTION_INFO_V1(orbit_stop_point_set);
PG_FUNCTION_INFO_V1(orbit_stop_point_clear);
PG_FUNCTION_INFO_V1(orbit_stop_point_waiters);

Size
OrbitStopShmemSize(void)
{
	return MAXALIGN(sizeof(StopShared));
}

static bool SetPoint(const char *name, StopAction action, int skip);

/* What happens while the server starts: the process that comes by kills itself. */
static void
SetFromEnvironment(void)
{
#ifdef ORBIT_DEV
	const char *name = getenv("ORBIT_STOP_KILL");

	if (name != NULL)
		(void) SetPoint(name, STOP_KILL, 0);
#endif
}

void
OrbitStopShmemInit(void)
{
	bool		found;

	stop_shared = ShmemInitStruct("orbit stop points", OrbitStopShmemSize(), &found);
	if (!found)
	{
		memset(stop_shared, 0, sizeof(StopShared));
		pg_atomic_init_u32(&stop_shared->armed, 0);
		SpinLockInit(&stop_shared->mutex);
		SetFromEnvironment();
	}
}

bool
OrbitStopArmed(void)
{
	return stop_shared != NULL && pg_atomic_read_u32(&stop_shared->armed) > 0;
}

static StopPoint *
FindPoint(const char *name)
{
	for (int i = 0; i < STOP_POINTS; i++)
		if (strcmp(stop_shared->points[i].name, name) == 0)
			return &stop_shared->points[i];
	return NULL;
}

/* The action to take at this hit, and the era it belongs to. */
static StopAction
TakeAction(const char *name, uint32 *era)
{
	StopAction	action = STOP_NONE;
	StopPoint  *p;

	SpinLockAcquire(&stop_shared->mutex);
	p = FindPoint(name);
	if (p && p->action != STOP_NONE)
	{
		if (p->skip > 0)
			p->skip--;
		else
		{
			action = p->action;
			*era = p->era;
			if (action == STOP_WAIT)
				p->waiters++;
		}
	}
	SpinLockRelease(&stop_shared->mutex);
	return action;
}

static bool
StillArmed(const char *name, uint32 era)
{
	StopPoint  *p;
	bool		armed;

	SpinLockAcquire(&stop_shared->mutex);
	p = FindPoint(name);
	armed = p && p->action == STOP_WAIT && p->era == era;
	SpinLockRelease(&stop_shared->mutex);
	return armed;
}

static void
LeavePoint(const char *name, uint32 era)
{
	StopPoint  *p;

	SpinLockAcquire(&stop_shared->mutex);
	p = FindPoint(name);
	if (p && p->era == era && p->waiters > 0)
		p->waiters--;
	SpinLockRelease(&stop_shared->mutex);
}

static void
WaitAtPoint(const char *name, uint32 era)
{
	while (StillArmed(name, era))
	{
		if (CritSectionCount > 0 || InterruptHoldoffCount > 0)
			pg_usleep(5000L);
		else if (AmStartupProcess())
		{
			HandleStartupProcInterrupts();
			pg_usleep(5000L);
		}
		else
		{
			if (InterruptPending)
			{
				LeavePoint(name, era);
				CHECK_FOR_INTERRUPTS();
			}
			pg_usleep(5000L);
		}
		if (!PostmasterIsAlive())
		{
			if (CritSectionCount > 0)
				_exit(1);
			proc_exit(1);
		}
	}
	LeavePoint(name, era);
}

void
OrbitStopHit(const char *name)
{
	uint32		era = 0;

	switch (TakeAction(name, &era))
	{
		case STOP_NONE:
		case STOP_FAIL:
			break;
		case STOP_WAIT:
			WaitAtPoint(name, era);
			break;
		case STOP_ERROR:
			Assert(CritSectionCount == 0);
			ereport(ERROR,
					(errcode(ERRCODE_INTERNAL_ERROR),
					 errmsg("stop point \"%s\"", name)));
			break;
		case STOP_KILL:
			kill(MyProcPid, SIGKILL);
			pg_usleep(1000000L);
			break;
	}
}

bool
OrbitStopFails(const char *name)
{
	uint32		era;

	return unlikely(OrbitStopArmed()) && TakeAction(name, &era) == STOP_FAIL;
}

static StopAction
ParseAction(const char *action)
{
	static const struct
	{
		const char *name;
		StopAction	action;
	}			actions[] = {
		{"wait", STOP_WAIT}, {"error", STOP_ERROR}, {"kill", STOP_KILL}, {"fail", STOP_FAIL}
	};

	for (int i = 0; i < lengthof(actions); i++)
		if (strcmp(action, actions[i].name) == 0)
			return actions[i].action;
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown stop point action \"%s\"", action)));
}

static void
RequireSuperuser(void)
{
	OrbitRequirePreload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to use stop points")));
}

/* Sets the named point (action STOP_NONE frees it); false: the table is full. */
static bool
SetPoint(const char *name, StopAction action, int skip)
{
	StopPoint  *p;

	SpinLockAcquire(&stop_shared->mutex);
	p = FindPoint(name);
	if (p == NULL && action != STOP_NONE)
		p = FindPoint("");
	if (p != NULL)
	{
		if (p->action != STOP_NONE)
			pg_atomic_fetch_sub_u32(&stop_shared->armed, 1);
		if (action != STOP_NONE)
			pg_atomic_fetch_add_u32(&stop_shared->armed, 1);
		strlcpy(p->name, action == STOP_NONE ? "" : name, STOP_NAME);
		p->action = action;
		p->skip = skip;
		p->waiters = 0;
		p->era++;
	}
	SpinLockRelease(&stop_shared->mutex);
	return p != NULL || action == STOP_NONE;
}

Datum
orbit_stop_point_set(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	StopAction	action = ParseAction(text_to_cstring(PG_GETARG_TEXT_PP(1)));

	RequireSuperuser();
	if (name[0] == '\0' || strlen(name) >= STOP_NAME ||
		!SetPoint(name, action, PG_GETARG_INT32(2)))
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot set stop point \"%s\"", name)));
	PG_RETURN_VOID();
}

Datum
orbit_stop_point_clear(PG_FUNCTION_ARGS)
{
	RequireSuperuser();
	SetPoint(text_to_cstring(PG_GETARG_TEXT_PP(0)), STOP_NONE, 0);
	PG_RETURN_VOID();
}

Datum
orbit_stop_point_waiters(PG_FUNCTION_ARGS)
{
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));
	StopPoint  *p;
	int			waiters;

	RequireSuperuser();
	SpinLockAcquire(&stop_shared->mutex);
	p = FindPoint(name);
	waiters = p ? p->waiters : 0;
	SpinLockRelease(&stop_shared->mutex);
	PG_RETURN_INT32(waiters);
}
