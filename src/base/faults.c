/*
 * faults.c: the table of faults that tests give the file system under RocksDB (faults.h).
 *
 * In development builds only, and no part of the extension's SQL.  A test declares
 *
 *	CREATE FUNCTION orbit_fault_set(who text, calls text, pattern text, action text,
 *									skip int, times int) RETURNS int		-- its number
 *		AS 'orbit_fdw' LANGUAGE C STRICT;
 *	CREATE FUNCTION orbit_fault_hits(number int) RETURNS int ...
 *	CREATE FUNCTION orbit_fault_clear(number int) RETURNS void ...	-- -1: all of them
 *
 * who: worker, backends.  calls: names separated by commas.  A server that is to meet faults while it
 * starts finds them in the environment: ORBIT_FAULTS="who calls pattern action skip times; ..."
 */
#include "postgres.h"

#include "base/base.h"

#ifdef ORBIT_DEV

#include <fnmatch.h>

#include "fmgr.h"
#include "miscadmin.h"
#include "storage/shmem.h"
#include "storage/spin.h"
#include "utils/builtins.h"

#include "base/faults.h"

typedef struct FaultShared
{
	slock_t		mutex;			/* for those who write the table */
	OrbitFaultTable table;
} FaultShared;

typedef struct FaultName
{
	const char *name;
	int			value;
} FaultName;

static const FaultName calls[] = {
	{"open", ORBIT_FAULT_OPEN}, {"read", ORBIT_FAULT_READ}, {"create", ORBIT_FAULT_CREATE},
	{"write", ORBIT_FAULT_WRITE}, {"sync", ORBIT_FAULT_SYNC}, {"link", ORBIT_FAULT_LINK},
	{"rename", ORBIT_FAULT_RENAME}, {"delete", ORBIT_FAULT_DELETE}, {NULL, 0}
};

static const FaultName actions[] = {
	{"enospc", ORBIT_FAULT_NO_SPACE}, {"eio", ORBIT_FAULT_IO}, {"short", ORBIT_FAULT_SHORT},
	{"kill", ORBIT_FAULT_KILL}, {"kill-after", ORBIT_FAULT_KILL_AFTER},
	{"wait", ORBIT_FAULT_WAIT}, {"exdev", ORBIT_FAULT_EXDEV}, {"eperm", ORBIT_FAULT_EPERM},
	{"emlink", ORBIT_FAULT_EMLINK}, {NULL, 0}
};

static const FaultName processes[] = {{"worker", 0}, {"backends", 1}, {NULL, 0}};

static FaultShared *fault_shared = NULL;

PG_FUNCTION_INFO_V1(orbit_fault_set);
PG_FUNCTION_INFO_V1(orbit_fault_hits);
PG_FUNCTION_INFO_V1(orbit_fault_clear);

static int
Parse(const FaultName *names, const char *name)
{
	for (; names->name != NULL; names++)
	{
		if (strcmp(names->name, name) == 0)
			return names->value;
	}
	ereport(ERROR,
			(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
			 errmsg("unknown part of a fault: \"%s\"", name)));
}

static int
ParseCalls(char *list)
{
	char	   *rest;
	int			set = 0;

	for (char *name = strtok_r(list, ",", &rest); name != NULL; name = strtok_r(NULL, ",", &rest))
		set |= Parse(calls, name);
	return set;
}

/* Its number; -1: the table is full. */
static int
SetFault(const OrbitFault *fault)
{
	OrbitFaultTable *table = &fault_shared->table;
	int			found = -1;

	SpinLockAcquire(&fault_shared->mutex);
	for (int i = 0; i < ORBIT_FAULTS && found < 0; i++)
	{
		if (table->faults[i].armed)
			continue;
		found = i;
		table->faults[i] = *fault;
		__atomic_store_n(&table->faults[i].armed, 1, __ATOMIC_RELEASE);
		__atomic_fetch_add(&table->armed, 1, __ATOMIC_RELEASE);
	}
	SpinLockRelease(&fault_shared->mutex);
	return found;
}

static int
AddFault(const char *who, char *call_list, const char *pattern, const char *action,
		 int skip, int times)
{
	OrbitFault	fault = {0};
	int			number;

	fault.backends = Parse(processes, who);
	fault.calls = ParseCalls(call_list);
	fault.action = Parse(actions, action);
	fault.skip = skip;
	fault.times = times;
	if (strlcpy(fault.pattern, pattern, sizeof(fault.pattern)) >= sizeof(fault.pattern) ||
		(number = SetFault(&fault)) < 0)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("cannot set a fault for files \"%s\"", pattern)));
	return number;
}

/* After a crash of the server the postmaster does this again. */
static void
AddFromEnvironment(void)
{
	const char *set = getenv("ORBIT_FAULTS");
	char		who[20];
	char		call_list[100];
	char		pattern[ORBIT_FAULT_PATTERN];
	char		action[20];
	int			skip;
	int			times;

	while (set != NULL && *set != '\0')
	{
		if (sscanf(set, " %19s %99s %63s %19s %d %d", who, call_list, pattern, action, &skip, &times) != 6)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("cannot understand ORBIT_FAULTS: \"%s\"", set)));
		(void) AddFault(who, call_list, pattern, action, skip, times);
		set = strchr(set, ';');
		if (set != NULL)
			set++;
	}
}

Size
OrbitFaultShmemSize(void)
{
	return MAXALIGN(sizeof(FaultShared));
}

struct OrbitFaultTable *
OrbitFaultShmemInit(void)
{
	bool		found;

	fault_shared = ShmemInitStruct("orbit faults", OrbitFaultShmemSize(), &found);
	if (!found)
	{
		memset(fault_shared, 0, sizeof(FaultShared));
		SpinLockInit(&fault_shared->mutex);
		AddFromEnvironment();
	}
	return &fault_shared->table;
}

int
OrbitFileFault(int call, const char *path)
{
	OrbitFaultTable *table = fault_shared != NULL ? &fault_shared->table : NULL;

	if (table == NULL || __atomic_load_n(&table->armed, __ATOMIC_ACQUIRE) == 0)
		return 0;
	for (int i = 0; i < ORBIT_FAULTS; i++)
	{
		OrbitFault *f = &table->faults[i];

		if (__atomic_load_n(&f->armed, __ATOMIC_ACQUIRE) && (f->calls & call) != 0 && !f->backends &&
			fnmatch(f->pattern, path, 0) == 0 && OrbitFaultHits(f))
			return OrbitFaultErrno(f->action);
	}
	return 0;
}

static void
RequireSuperuser(void)
{
	OrbitRequirePreload();
	if (!superuser())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("must be superuser to use faults")));
}

Datum
orbit_fault_set(PG_FUNCTION_ARGS)
{
	RequireSuperuser();
	PG_RETURN_INT32(AddFault(text_to_cstring(PG_GETARG_TEXT_PP(0)),
							 text_to_cstring(PG_GETARG_TEXT_PP(1)),
							 text_to_cstring(PG_GETARG_TEXT_PP(2)),
							 text_to_cstring(PG_GETARG_TEXT_PP(3)),
							 PG_GETARG_INT32(4), PG_GETARG_INT32(5)));
}

Datum
orbit_fault_hits(PG_FUNCTION_ARGS)
{
	int			number = PG_GETARG_INT32(0);

	RequireSuperuser();
	if (number < 0 || number >= ORBIT_FAULTS)
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
				 errmsg("there is no fault %d", number)));
	PG_RETURN_INT32(__atomic_load_n(&fault_shared->table.faults[number].hits, __ATOMIC_RELAXED));
}

Datum
orbit_fault_clear(PG_FUNCTION_ARGS)
{
	OrbitFaultTable *table = &fault_shared->table;
	int			number = PG_GETARG_INT32(0);

	RequireSuperuser();
	SpinLockAcquire(&fault_shared->mutex);
	for (int i = 0; i < ORBIT_FAULTS; i++)
	{
		if (!table->faults[i].armed || (number >= 0 && number != i))
			continue;
		__atomic_store_n(&table->faults[i].armed, 0, __ATOMIC_RELEASE);
		__atomic_fetch_sub(&table->armed, 1, __ATOMIC_RELEASE);
	}
	SpinLockRelease(&fault_shared->mutex);
	PG_RETURN_VOID();
}

#endif							/* ORBIT_DEV */
