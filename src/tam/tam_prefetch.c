/*
 * tam_prefetch.c: ANALYZE and bitmap heap scans ask PostgreSQL's storage manager to
 * prefetch block n of scan->rs_rd.  Our page numbers are not blocks of its one-page file:
 * beyond the first segment (page 131071) the request would raise "could not open file".
 *
 * Such scans therefore carry a copy of the relation's descriptor whose storage manager
 * entry is private to us, stands in no hash table, and claims to have every possible segment
 * open: each of them is one descriptor of a small file.  A prefetch then ends in a
 * posix_fadvise far behind that file's end, which does nothing.
 *
 * Even so each request is a system call.  A bitmap heap scan makes none if it is told so before it begins,
 * which an executor hook does.
 *
 * The copy is good for what PostgreSQL does with scan->rs_rd: calling the table access method
 * through rd_tableam, reading the oid and rd_rel (which the relation cache updates in
 * place), prefetching.  It must not be used for anything else.
 */
#include "postgres.h"

#include <fcntl.h>

#include "catalog/pg_tablespace_d.h"
#include "executor/executor.h"
#include "nodes/nodeFuncs.h"
#include "storage/fd.h"
#include "storage/smgr.h"

#include "tam/tam_internal.h"

/* The layout of struct _MdfdVec, private to md.c, has to be looked up for each version. */
#if PG_VERSION_NUM < 150000 || PG_VERSION_NUM >= 160000
#error "check struct _MdfdVec and SMgrRelationData of this PostgreSQL version"
#endif

typedef struct PrefetchSegment
{
	File		file;
	BlockNumber segno;
} PrefetchSegment;

#define PREFETCH_SEGMENTS	((int) (((uint64) MaxBlockNumber + 1) / RELSEG_SIZE + 1))
#define PREFETCH_FILE		"PG_VERSION"	/* always there, never written */

static ExecutorStart_hook_type prev_ExecutorStart = NULL;
static SMgrRelationData prefetch_smgr;
static PrefetchSegment *prefetch_segments = NULL;

static void
PreparePrefetch(void)
{
	PrefetchSegment *segments;
	File		file;

	segments = MemoryContextAlloc(TopMemoryContext,
								  PREFETCH_SEGMENTS * sizeof(PrefetchSegment));
	file = PathNameOpenFile(PREFETCH_FILE, O_RDONLY | PG_BINARY);
	if (file < 0)
	{
		pfree(segments);
		ereport(ERROR,
				(errcode_for_file_access(),
				 errmsg("could not open file \"%s\": %m", PREFETCH_FILE)));
	}
	for (int i = 0; i < PREFETCH_SEGMENTS; i++)
	{
		segments[i].file = file;
		segments[i].segno = i;
	}

	memset(&prefetch_smgr, 0, sizeof(prefetch_smgr));
	prefetch_smgr.smgr_rnode.node.spcNode = DEFAULTTABLESPACE_OID;
	prefetch_smgr.smgr_rnode.node.dbNode = InvalidOid;	/* no buffer has this tag */
	prefetch_smgr.smgr_rnode.node.relNode = InvalidOid;
	prefetch_smgr.smgr_rnode.backend = InvalidBackendId;
	prefetch_smgr.smgr_targblock = InvalidBlockNumber;
	for (int fork = 0; fork <= MAX_FORKNUM; fork++)
		prefetch_smgr.smgr_cached_nblocks[fork] = InvalidBlockNumber;
	prefetch_smgr.smgr_which = 0;	/* md.c */
	prefetch_smgr.md_num_open_segs[MAIN_FORKNUM] = PREFETCH_SEGMENTS;
	prefetch_smgr.md_seg_fds[MAIN_FORKNUM] = (struct _MdfdVec *) segments;
	prefetch_segments = segments;
}

Relation
TamPrefetchProxy(Relation rel)
{
	Relation	proxy;

	if (prefetch_segments == NULL)
		PreparePrefetch();
	proxy = palloc(sizeof(RelationData));
	*proxy = *rel;
	proxy->rd_smgr = &prefetch_smgr;
	return proxy;
}

/* ---- bitmap heap scans --------------------------------------------------------------- */

static bool
StopPrefetch(PlanState *state, void *context)
{
	if (IsA(state, BitmapHeapScanState))
	{
		BitmapHeapScanState *scan = (BitmapHeapScanState *) state;

		if (scan->ss.ss_currentRelation->rd_tableam == TamRoutine())
			scan->prefetch_maximum = 0;
	}
	return planstate_tree_walker(state, StopPrefetch, context);
}

static void
TamExecutorStart(QueryDesc *queryDesc, int eflags)
{
	if (prev_ExecutorStart)
		prev_ExecutorStart(queryDesc, eflags);
	else
		standard_ExecutorStart(queryDesc, eflags);
	if (queryDesc->planstate != NULL)
		(void) StopPrefetch(queryDesc->planstate, NULL);
}

void
TamPrefetchInit(void)
{
	prev_ExecutorStart = ExecutorStart_hook;
	ExecutorStart_hook = TamExecutorStart;
}
