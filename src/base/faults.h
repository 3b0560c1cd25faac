/*
 * base/faults.h: faults that tests give the file system under RocksDB, in development builds
 * only.  Plain C: RocksDB's threads read the table, which lies in shared memory and
 * is written by faults.c.
 *
 * A fault is: of the calls on files whose path fits a pattern, made by the storage worker or by the
 * backends, `skip` go well, and then `times` fail (0: all, until it is cleared).  Whoever
 * writes the table fills a fault in before it raises `armed`; nothing is reused before it is cleared.
 */
#ifndef ORBIT_FAULTS_H
#define ORBIT_FAULTS_H

#include <errno.h>

/* Calls, as bits. */
#define ORBIT_FAULT_OPEN		0x01	/* of a file that is to be read */
#define ORBIT_FAULT_READ		0x02
#define ORBIT_FAULT_CREATE		0x04
#define ORBIT_FAULT_WRITE		0x08
#define ORBIT_FAULT_SYNC		0x10	/* of a file or a directory */
#define ORBIT_FAULT_LINK		0x20	/* the new name counts */
#define ORBIT_FAULT_RENAME		0x40	/* the same */
#define ORBIT_FAULT_DELETE		0x80

typedef enum OrbitFaultAction
{
	ORBIT_FAULT_NONE = 0,
	ORBIT_FAULT_NO_SPACE,		/* ENOSPC */
	ORBIT_FAULT_IO,				/* EIO */
	ORBIT_FAULT_SHORT,			/* ENOSPC after half of the bytes */
	ORBIT_FAULT_KILL,			/* SIGKILL to the process, before the call */
	ORBIT_FAULT_KILL_AFTER,		/* and after it */
	ORBIT_FAULT_WAIT,			/* the call waits until the fault is cleared */
	ORBIT_FAULT_EXDEV,			/* of a link: as of other file systems, ... */
	ORBIT_FAULT_EPERM,			/* of those that have none, ... */
	ORBIT_FAULT_EMLINK			/* or no more of this file */
} OrbitFaultAction;

#define ORBIT_FAULTS			8
#define ORBIT_FAULT_PATTERN		64

typedef struct OrbitFault
{
	int			armed;			/* atomic */
	int			hits;			/* atomic: calls that fitted */
	int			calls;
	int			backends;		/* those of the backends, not the worker's */
	int			action;			/* OrbitFaultAction */
	int			skip;
	int			times;
	char		pattern[ORBIT_FAULT_PATTERN];	/* of fnmatch(), for the whole path */
} OrbitFault;

typedef struct OrbitFaultTable
{
	int			armed;			/* atomic: how many are */
	OrbitFault	faults[ORBIT_FAULTS];
} OrbitFaultTable;

/* Does the call, which its fault's pattern and process fit, meet it?  It counts in any case. */
static inline int
OrbitFaultHits(OrbitFault *f)
{
	int			hit = __atomic_fetch_add(&f->hits, 1, __ATOMIC_RELAXED);

	return hit >= f->skip && (f->times == 0 || hit - f->skip < f->times);
}

/* What errno says after a call that failed by this action; 0: of no such action. */
static inline int
OrbitFaultErrno(int action)
{
	switch (action)
	{
		case ORBIT_FAULT_NO_SPACE:
		case ORBIT_FAULT_SHORT:
			return ENOSPC;
		case ORBIT_FAULT_IO:
			return EIO;
		case ORBIT_FAULT_EXDEV:
			return EXDEV;
		case ORBIT_FAULT_EPERM:
			return EPERM;
		case ORBIT_FAULT_EMLINK:
			return EMLINK;
		default:
			return 0;
	}
}

#endif							/* ORBIT_FAULTS_H */
