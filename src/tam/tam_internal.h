/*
 * tam_internal.h: private to tam.  The scan descriptor and the callbacks, by file.
 */
#ifndef ORBIT_TAM_INTERNAL_H
#define ORBIT_TAM_INTERNAL_H

#include "postgres.h"

#include "access/relscan.h"
#include "access/tableam.h"
#include "access/transam.h"
#include "access/xact.h"
#include "commands/vacuum.h"
#include "nodes/execnodes.h"
#include "pgstat.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "codec/codec.h"
#include "row/row.h"
#include "store/store.h"
#include "tam/tam.h"

/*
 * When an error unwinds past scan_end, the page goes with the resource owner, as a buffer pin
 * would, and the store's scan with the memory context.
 *
 * base.rs_rd is a proxy in bitmap and ANALYZE scans (tam_prefetch.c), so nothing here
 * reads it; rel is the relation.
 */
typedef struct TamScan
{
	TableScanDescData base;
	Relation	rel;
	MemoryContext context;		/* of this struct */
	OrbitStorageId storage;
	BlockNumber npages;			/* pages begun when the scan (re)started */

	/* pages [first, end) are to be visited */
	BlockNumber first;
	BlockNumber end;
	ParallelBlockTableScanWorkerData worker;

	/* position */
	bool		inited;			/* the first page has been asked for */
	bool		backward;		/* direction of pages */
	StoreScan  *pages;			/* NULL: none open */
	bool		once;			/* see StoreScanOnce */
	RowPage    *page;			/* image of page `pageno` if page_valid */
	BlockNumber pageno;
	bool		page_valid;
	int			chain;			/* index of the row last looked at in page */
	bool		plain;			/* all of page's rows are seen */
	RowVersion *visible;		/* else: what the snapshot sees of page, by chain; NULL: not yet needed */
	int			nvisible;
	TransactionId seen_xid;		/* committed before the snapshot; 0: none known */

	/* bitmap scan */
	int			bitmap_next;	/* next of tbmres->offsets */
	bool		bitmap_single;	/* few rows wanted: fetched one by one, without the page */

	/* ANALYZE */
	struct TamAnalyze *analyze; /* NULL before the first page */
} TamScan;

/* ---- tam_scan.c ------------------------------------------------------------- */

extern TableScanDesc TamScanBegin(Relation rel, Snapshot snapshot, int nkeys,
								  struct ScanKeyData *key,
								  ParallelTableScanDesc parallel, uint32 flags);
extern void TamScanEnd(TableScanDesc scan);
extern void TamScanRescan(TableScanDesc scan, struct ScanKeyData *key, bool set_params,
						  bool allow_strat, bool allow_sync, bool allow_pagemode);
extern bool TamScanGetNextSlot(TableScanDesc scan, ScanDirection direction,
							   TupleTableSlot *slot);
extern void TamScanSetTidRange(TableScanDesc scan, ItemPointer mintid, ItemPointer maxtid);
extern bool TamScanGetNextSlotTidRange(TableScanDesc scan, ScanDirection direction,
									   TupleTableSlot *slot);
extern Size TamParallelScanInitialize(Relation rel, ParallelTableScanDesc pscan);

/*
 * Used by the other files.  TamNextPage loads the next page that exists (in a parallel
 * scan: of this process's share) and sets chain before its first row; false at the end.
 * TamLoadPage loads this one; false when it does not exist.  No slot may still refer to
 * the page before (else a new image is allocated).  Pages are checked.
 */
extern void TamSetRange(TamScan *s, BlockNumber first, BlockNumber end);
extern bool TamNextPage(TamScan *s, bool backward);
extern bool TamLoadPage(TamScan *s, BlockNumber pageno);
/* The same if the page lies in shared memory as it is; false: it may exist all the same. */
extern bool TamTryPage(TamScan *s, BlockNumber pageno);
/* The chain of the page's row number `chain`; returns its slot number. */
extern int	TamOpenRow(TamScan *s, int chain, StoreChain *c);
/* The version of that row which the scan's snapshot sees. */
extern bool TamRowVisible(TamScan *s, int chain, RowVersion *v);
/* Puts those that are seen into visible. */
extern void TamDecideBegin(TamScan *s);
extern void TamDecideRow(TamScan *s, int chain);
extern void TamDecidePage(TamScan *s);	/* all of them */
/* That row, of a plain page. */
extern void TamStorePlain(TamScan *s, int chain, TupleTableSlot *slot);

/*
 * The short way for nearly every row of a page: its newest entry decides, for it is a version or a delete
 * mark that everybody sees, or one of a transaction found committed before (*seen; 0: none yet, for this
 * snapshot), or has ended the row for everybody.  The row is seen if that entry is a version.  To a
 * serializable transaction all that is not frozen is of concern, for it locks what it reads.
 */
static inline bool
TamDecidedAtOnce(Snapshot snapshot, const CodecEntry *e, TransactionId *seen)
{
	CodecKind	kind = CodecEntryKind(e);

	if (kind == CODEC_LOCK || kind == CODEC_CONFIRM || snapshot->snapshot_type != SNAPSHOT_MVCC)
		return false;
	if (kind == CODEC_DEADSLOT || kind == CODEC_KILL || (e->kind_flags & CODEC_FROZEN))
		return true;
	if (IsolationIsSerializable())
		return false;
	if (e->xid == *seen)
		return true;
	/* not to be remembered: what depends on the command */
	if (!TransactionIdPrecedes(e->xid, snapshot->xmin) || !RowEndsAt(e, snapshot))
		return false;
	*seen = e->xid;
	return true;
}

/* A version seen at once: nothing stands above it, so it has no xmax. */
static inline void
TamSeenVersion(const CodecEntry *e, BlockNumber page, int slot, RowVersion *v)
{
	*v = (RowVersion) {.entry = e, .cmax = InvalidCommandId};
	OrbitTidSet(&v->tid, page, slot, CodecEntryKind(e) == CODEC_UPDATE ? e->tag : 0);
}

/* ---- tam_fetch.c: rows by index entry -------------------------------------------- */

extern IndexFetchTableData *TamFetchBegin(Relation rel);
extern void TamFetchReset(IndexFetchTableData *fetch);
extern void TamFetchEnd(IndexFetchTableData *fetch);
extern bool TamFetchTuple(IndexFetchTableData *fetch, ItemPointer tid, Snapshot snapshot,
						  TupleTableSlot *slot, bool *call_again, bool *all_dead);

/* ---- tam_sample.c: bitmap, sample and ANALYZE ---------------------------------- */

extern bool TamBitmapNextBlock(TableScanDesc scan, struct TBMIterateResult *tbmres);
extern bool TamBitmapNextTuple(TableScanDesc scan, struct TBMIterateResult *tbmres,
							   TupleTableSlot *slot);
extern bool TamSampleNextBlock(TableScanDesc scan, SampleScanState *scanstate);
extern bool TamSampleNextTuple(TableScanDesc scan, SampleScanState *scanstate,
							   TupleTableSlot *slot);
extern bool TamAnalyzeNextBlock(TableScanDesc scan, BlockNumber blockno,
								BufferAccessStrategy bstrategy);
extern bool TamAnalyzeNextTuple(TableScanDesc scan, TransactionId oldest_xmin,
								double *liverows, double *deadrows,
								TupleTableSlot *slot);
extern void TamAnalyzeEnd(TamScan *s);
/* A table that never had more pages is sampled as it is: PostgreSQL looks at all of it. */
#define TAM_MAP_MIN_PAGES	1024
/* Where to draw a sample from; false: most page numbers have a page, the table is taken as it is. */
extern bool TamSampleMap(TamScan *s, StorePageMap *map);

/* ---- tam_prefetch.c --------------------------------------------------------------- */

/* A stand-in for rel, palloc'ed, whose blocks may all be prefetched. */
extern Relation TamPrefetchProxy(Relation rel);
extern void TamPrefetchInit(void);	/* TamInit */

/* ---- tam_index.c ------------------------------------------------------------------- */

extern double TamIndexBuildRangeScan(Relation table, Relation index,
									 struct IndexInfo *index_info, bool allow_sync,
									 bool anyvisible, bool progress,
									 BlockNumber start_blockno, BlockNumber numblocks,
									 IndexBuildCallback callback, void *callback_state,
									 TableScanDesc scan);
extern void TamIndexValidateScan(Relation table, Relation index,
								 struct IndexInfo *index_info, Snapshot snapshot,
								 struct ValidateIndexState *state);

/* ---- tam_index_delete.c ---------------------------------------------------------------- */

extern TransactionId TamIndexDeleteTuples(Relation rel, TM_IndexDeleteOp *delstate);

/* ---- tam_relation.c ---------------------------------------------------------------------- */

extern void TamSetNewFilenode(Relation rel, const RelFileNode *newrnode, char persistence,
							  TransactionId *freeze_xid, MultiXactId *minmulti);
extern void TamNontransactionalTruncate(Relation rel);
extern void TamCopyData(Relation rel, const RelFileNode *newrnode);
extern uint64 TamRelationSize(Relation rel, ForkNumber fork);
extern bool TamNeedsToastTable(Relation rel);
extern Oid	TamToastAm(Relation rel);
extern void TamEstimateSize(Relation rel, int32 *attr_widths, BlockNumber *pages,
							double *tuples, double *allvisfrac);

/* ---- tam_rewrite.c ------------------------------------------------------------------------- */

extern void TamCopyForCluster(Relation old, Relation new, Relation index, bool use_sort,
							  TransactionId oldest_xmin, TransactionId *xid_cutoff,
							  MultiXactId *multi_cutoff, double *num_tuples,
							  double *tups_vacuumed, double *tups_recently_dead);

/* ---- tam_vacuum.c ----------------------------------------------------------------------------- */

extern void TamVacuum(Relation rel, struct VacuumParams *params, BufferAccessStrategy bstrategy);

/* ---- tam_vacuum_dead.c -------------------------------------------------------------------------- */

typedef struct VacuumCounts
{
	BlockNumber pages;
	BlockNumber scanned;
	bool		complete;		/* all that there are, not a sample */
	double		live;
	double		recently_dead;
	double		dead;
} VacuumCounts;

/* One VACUUM of one table. */
typedef struct VacuumState
{
	Relation	rel;
	OrbitStorageId storage;
	VacuumParams *params;
	BufferAccessStrategy bstrategy;
	int			elevel;			/* INFO with VERBOSE */
	TransactionId oldest_xmin;

	Relation   *indexes;
	int			nindexes;
	IndexBulkDeleteResult **index_stats;
	ParallelVacuumState *parallel;	/* NULL: not in parallel */
	bool		failsafe;		/* no more index work */

	VacDeadItems *dead;			/* canonical TIDs, ascending */
	uint64		cleaned;		/* rows ended before were dealt with by earlier ones */
	TransactionId latest_removed;
	int			index_scans;
	int64		removed;
	int64		pages_read;

	VacuumCounts counts;
	bool		counted;		/* all rows were */
} VacuumState;

/*
 * counts.pages must be set; fills in `dead` and what follows it. Where all pages have to be looked at their
 * rows are counted at once.
 */
extern void TamVacuumDeadRows(VacuumState *v);
/* Adds the rows of the page where the scan stands. */
extern void TamVacuumCountPage(TamScan *s, TransactionId oldest_xmin, VacuumCounts *counts);
/* counts must be set. */
extern void TamVacuumCleanupIndexes(VacuumState *v);

/* The newer of the two; invalid: none. */
static inline void
TamNoteRemoved(TransactionId *latest, TransactionId removed)
{
	if (TransactionIdIsNormal(removed) &&
		(!TransactionIdIsValid(*latest) || TransactionIdFollows(removed, *latest)))
		*latest = removed;
}

/*
 * In pg_statio_all_tables each page that is looked at is a block.  It is a hit if RocksDB was not asked since
 * store_rocks_pages was `before`.
 */
static inline void
TamCountPage(Relation rel, uint64 before)
{
	pgstat_count_buffer_read(rel);
	if (store_rocks_pages == before)
		pgstat_count_buffer_hit(rel);
}

/* RowFetchVisible, counted. */
static inline bool
TamFetchVisible(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
				bool *all_dead)
{
	uint64		before = store_rocks_pages;
	bool		found = RowFetchVisible(rel, tid, snapshot, slot, all_dead);

	TamCountPage(rel, before);
	return found;
}

#endif							/* ORBIT_TAM_INTERNAL_H */
