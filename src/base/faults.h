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
	ORBIT_FAULT_WAIT			/* the call waits until the fault is cleared */
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

#endif							/* ORBIT_FAULTS_H */
