/*
 * tam_rewrite.c: CLUSTER, VACUUM FULL: every version that some snapshot may still see goes
 * into the new storage under its own transaction ids, so old snapshots read the same rows
 * before and after.
 *
 * A row's chain stays a chain.  What nobody needs is left out: dead and aborted versions,
 * row locks (the table is locked exclusively: no other locker can be running), the ends of
 * speculative insertions.  The oldest version kept becomes the row's INSERT, the ones
 * above it get tags 1, 2, ...; it is marked frozen when it is older than every
 * snapshot, so no unfrozen id before OldestXmin, hence none before the new
 * relfrozenxid, is left.
 *
 * A delete mark of an update names the row that came after by its TID, which changes with
 * the rewrite.  Rows with such a mark wait until the scan is over (`deferred`), then the new TIDs
 * of all rows they may name are known (`moved`).  Both lists hold recent rows only.
 *
 * What was left out may still be seen by a query of a standby: as after an index build, a record
 * names the newest transaction that took such a thing away (README.md).
 *
 * When the rows are sorted, one heap tuple a row goes through PostgreSQL's sort.  It
 * carries a row of a single version whole; any other row is read again afterwards.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/xact.h"
#include "commands/progress.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "optimizer/optimizer.h"
#include "pgstat.h"
#include "utils/backend_progress.h"
#include "utils/snapmgr.h"
#include "utils/tuplesort.h"

#include "tam/tam_internal.h"
#include "wal/wal.h"

typedef struct MovedRow
{
	ItemPointerData old;
	ItemPointerData new;
} MovedRow;

typedef struct DeferredRow
{
	ItemPointerData old;		/* hash key */
	ItemPointerData new;		/* valid once written */
	bool		written;
	int			n;
	CodecEntry **entries;		/* newest first: [0] is the delete mark */
} DeferredRow;

typedef struct Rewrite
{
	Relation	old;
	Relation	new;
	TransactionId oldest_xmin;
	bool		drops_columns;	/* stored images have columns to be cut out */
	TamScan    *scan;			/* of the old table; its page is the one in hand */
	TupleTableSlot *slot;		/* virtual, of the new table */
	Datum	   *values;
	bool	   *isnull;
	MemoryContext row_context;	/* reset after each row */
	MemoryContext link_context;
	HTAB	   *deferred;
	MovedRow   *moved;
	Size		nmoved;
	Size		maxmoved;
	double		kept;
	double		dead;
	double		recently_dead;
	TransactionId latest_removed;	/* newest that took away what is left out */
} Rewrite;

/* The versions of one row that are kept, newest first. */
typedef struct KeptRow
{
	ItemPointerData tid;		/* canonical, in the old table */
	int			n;
	int			max;
	RowVersionStatus *versions;
	bool		ended;			/* everything older is dead */
	const CodecEntry *mark;		/* delete mark above the newest version, or NULL */
	Rewrite    *rw;
} KeptRow;

/* What a tuple in the sort stands for; kept in t_xmax, which the sort does not look at. */
#define SORT_SINGLE			((TransactionId) 1) /* the whole row */
#define SORT_SINGLE_FROZEN	((TransactionId) 2)
#define SORT_CHAIN			((TransactionId) 3) /* read it again */

/* ---- what to keep of a row --------------------------------------------------------- */

static void
WarnRunning(Rewrite *rw, const RowVersionStatus *s, const char *what)
{
	if (!TransactionIdIsCurrentTransactionId(s->running))
		elog(WARNING, "concurrent %s in progress within table \"%s\"",
			 what, RelationGetRelationName(rw->old));
}

static bool
KeepVersion(const RowVersionStatus *s, void *arg)
{
	KeptRow    *row = arg;
	Rewrite    *rw = row->rw;
	const CodecEntry *e = s->v.entry;

	if (row->ended || s->status == ROW_DEAD)
	{
		/* an aborted version says nothing about those below it; below a dead slot there is none */
		if (s->dead_slot || (e->kind_flags & CODEC_FROZEN) || TransactionIdDidCommit(e->xid))
			row->ended = true;
		rw->dead += 1;
		return true;
	}
	if (s->status == ROW_INSERT_IN_PROGRESS)
		WarnRunning(rw, s, "insert");
	if (s->status == ROW_DELETE_IN_PROGRESS)
		WarnRunning(rw, s, "delete");
	if (s->status == ROW_DELETE_IN_PROGRESS || s->status == ROW_RECENTLY_DEAD)
		rw->recently_dead += 1;

	if (row->n == row->max)
	{
		row->max = row->max ? row->max * 2 : 4;
		row->versions = row->versions ?
			repalloc(row->versions, row->max * sizeof(RowVersionStatus)) :
			palloc(row->max * sizeof(RowVersionStatus));
	}
	row->versions[row->n++] = *s;
	rw->kept += 1;
	return true;
}

/* A query of a standby may still see what is left out: it must be gone before the new table comes. */
static void
NoteRemoved(Rewrite *rw, StoreChain *c)
{
	bool		whole;
	TransactionId removed = RowRemovedBy(c, rw->oldest_xmin, &whole);

	TamNoteRemoved(&rw->latest_removed, removed);
}

static const CodecEntry *
FindMark(StoreChain *c, const RowVersion *v)
{
	const CodecEntry *e;

	StoreChainRewind(c);
	while ((e = StoreChainNext(c)) != NULL)
	{
		if (CodecEntryKind(e) == CODEC_DELETE && e->xid == v->xmax && e->cid == v->cmax)
			return e;
	}
	elog(ERROR, "delete mark of row (%u,%d) is missing", c->page, c->slot);
	return NULL;
}

/* Runs in row_context.  The result points into the page of rw->scan. */
static bool
KeepRow(Rewrite *rw, int chain, KeptRow *row)
{
	StoreChain	c;
	const RowVersionStatus *newest;
	int			slot;

	memset(row, 0, sizeof(*row));
	row->rw = rw;
	slot = TamOpenRow(rw->scan, chain, &c);
	OrbitTidSet(&row->tid, rw->scan->pageno, slot, 0);
	RowForEachVersion(&c, rw->oldest_xmin, KeepVersion, row);
	NoteRemoved(rw, &c);
	if (row->n == 0)
		return false;
	newest = &row->versions[0];
	if (newest->deleted &&
		(newest->status == ROW_RECENTLY_DEAD || newest->status == ROW_DELETE_IN_PROGRESS))
		row->mark = FindMark(&c, &newest->v);
	return true;
}

/* ---- entries of the new chain ---------------------------------------------------------- */

static CodecEntry *
MakeEntry(int kind_flags, int tag, TransactionId xid, CommandId cid,
		  const void *payload, uint32 len)
{
	/* entries begin at 4 modulo 8 (codec.h), palloc gives 0 */
	CodecEntry *e = (CodecEntry *) ((char *) palloc(4 + CODEC_ENTRY_HEADER + len) + 4);

	e->len = len;
	e->xid = xid;
	e->cid = cid;
	e->kind_flags = (uint8) kind_flags;
	e->tag = (uint8) tag;
	memcpy(e->payload, payload, len);
	return e;
}

/* May the bytes go over as they are?  image: begins with t_infomask2 and t_infomask. */
static bool
ImageIsPlain(Rewrite *rw, const char *image, uint32 len)
{
	uint16		infomask2;
	uint16		infomask;

	memcpy(&infomask2, image, sizeof(infomask2));
	memcpy(&infomask, image + sizeof(infomask2), sizeof(infomask));
	return !rw->drops_columns &&
		!(infomask & HEAP_HASEXTERNAL) &&
		(infomask2 & HEAP_NATTS_MASK) == RelationGetDescr(rw->new)->natts &&
		offsetof(HeapTupleHeaderData, t_infomask2) + len <= TOAST_TUPLE_THRESHOLD;
}

/*
 * Forms the row anew for the new table: without dropped columns, with columns that were added
 * since, and with its wide values in the new TOAST table.
 */
static const char *
ReformImage(Rewrite *rw, HeapTuple tuple, uint32 *len)
{
	TupleDesc	desc = RelationGetDescr(rw->new);
	TupleTableSlot *slot = rw->slot;
	const char *image;

	heap_deform_tuple(tuple, RelationGetDescr(rw->old), rw->values, rw->isnull);
	ExecClearTuple(slot);
	for (int i = 0; i < desc->natts; i++)
	{
		slot->tts_isnull[i] = rw->isnull[i] || TupleDescAttr(desc, i)->attisdropped;
		slot->tts_values[i] = slot->tts_isnull[i] ? (Datum) 0 : rw->values[i];
	}
	ExecStoreVirtualTuple(slot);
	(void) RowFormTuple(rw->new, slot, NULL, HEAP_INSERT_SKIP_FSM | HEAP_INSERT_NO_LOGICAL,
						&image, len);
	return image;
}

static CodecEntry *
MakeVersion(Rewrite *rw, const RowVersion *v, int tag)
{
	const CodecEntry *e = v->entry;
	uint32		len;
	uint32		token;
	const char *image = RowImage(e, &len, &token);
	int			flags = 0;

	if (!ImageIsPlain(rw, image, len))
		image = ReformImage(rw, RowHeapTuple(rw->old, v), &len);
	if (tag > 0)
		/* no lock is left below */
		flags = CODEC_UPDATE | (e->kind_flags & CODEC_KEYS_UPDATED) | CODEC_NO_LOCKERS;
	else if ((e->kind_flags & CODEC_FROZEN) || TransactionIdPrecedes(e->xid, rw->oldest_xmin))
		flags = CODEC_INSERT | CODEC_FROZEN;
	else
		flags = CODEC_INSERT;
	return MakeEntry(flags, tag, e->xid, e->cid, image, len);
}

/* The new chain, newest first, palloc'ed in the current context. */
static CodecEntry **
MakeChain(Rewrite *rw, const KeptRow *row, int *n)
{
	CodecEntry **entries = palloc((row->n + 1) * sizeof(CodecEntry *));

	if (row->n > ORBIT_MAX_TAG + 1)
		elog(ERROR, "row (%u,%d) has %d live versions", OrbitTidPage(&row->tid),
			 OrbitTidSlot(&row->tid), row->n);
	*n = 0;
	if (row->mark != NULL)
		entries[(*n)++] = MakeEntry(CODEC_DELETE | (row->mark->kind_flags & CODEC_KEYS_UPDATED),
									0, row->mark->xid, row->mark->cid,
									row->mark->payload, row->mark->len);
	for (int i = 0; i < row->n; i++)
		entries[(*n)++] = MakeVersion(rw, &row->versions[i].v, row->n - 1 - i);
	return entries;
}

/* ---- writing ----------------------------------------------------------------------------- */

static void
NoteMoved(Rewrite *rw, const ItemPointerData *old, const ItemPointerData *new)
{
	if (rw->nmoved == rw->maxmoved)
	{
		rw->maxmoved = rw->maxmoved ? rw->maxmoved * 2 : 1024;
		if (rw->moved == NULL)
			rw->moved = MemoryContextAlloc(rw->link_context,
										   rw->maxmoved * sizeof(MovedRow));
		else
			rw->moved = repalloc_huge(rw->moved, rw->maxmoved * sizeof(MovedRow));
	}
	rw->moved[rw->nmoved].old = *old;
	rw->moved[rw->nmoved].new = *new;
	rw->nmoved++;
}

static void
WriteChain(Rewrite *rw, const ItemPointerData *old, CodecEntry **entries, int n,
		   ItemPointer new)
{
	RowCopyChain(rw->new, (const CodecEntry **) entries, n, new);

	/* a frozen row is older than every update that a deferred row can tell of */
	if (!(entries[n - 1]->kind_flags & CODEC_FROZEN))
		NoteMoved(rw, old, new);
}

static bool
NamesNextRow(const CodecEntry *e, ItemPointer next)
{
	CodecDelete mark;

	if (CodecEntryKind(e) != CODEC_DELETE)
		return false;
	memcpy(&mark, e->payload, sizeof(mark));
	if (!(mark.flags & CODEC_DELETE_UPDATED) || mark.slot == 0)
		return false;
	OrbitTidSet(next, mark.page, mark.slot, 0);
	return true;
}

static void
DeferRow(Rewrite *rw, const KeptRow *row)
{
	MemoryContext old;
	DeferredRow *d;
	CodecEntry **entries;
	bool		found;

	if (rw->deferred == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(ItemPointerData);
		ctl.entrysize = sizeof(DeferredRow);
		ctl.hcxt = rw->link_context;
		rw->deferred = hash_create("orbit rewrite: deferred rows", 128, &ctl,
								   HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	}
	d = hash_search(rw->deferred, &row->tid, HASH_ENTER, &found);
	d->written = false;
	ItemPointerSetInvalid(&d->new);
	entries = MakeChain(rw, row, &d->n);
	old = MemoryContextSwitchTo(rw->link_context);
	d->entries = palloc(d->n * sizeof(CodecEntry *));
	for (int i = 0; i < d->n; i++)
		d->entries[i] = MakeEntry(entries[i]->kind_flags, entries[i]->tag, entries[i]->xid,
								  entries[i]->cid, entries[i]->payload, entries[i]->len);
	MemoryContextSwitchTo(old);
}

static void
WriteRow(Rewrite *rw, const KeptRow *row)
{
	ItemPointerData tid;
	CodecEntry **entries;
	int			n;

	if (row->mark != NULL && NamesNextRow(row->mark, &tid))
	{
		DeferRow(rw, row);
		return;
	}
	entries = MakeChain(rw, row, &n);
	WriteChain(rw, &row->tid, entries, n, &tid);
}

/* ---- rows that name another one ------------------------------------------------------------- */

static int
CompareMoved(const void *a, const void *b)
{
	return ItemPointerCompare((ItemPointer) &((const MovedRow *) a)->old,
							  (ItemPointer) &((const MovedRow *) b)->old);
}

/* rw->nsorted: rows noted later belong to deferred rows, which know their own TID. */
static bool
FindMoved(Rewrite *rw, Size nsorted, const ItemPointerData *old, ItemPointer new)
{
	DeferredRow *d = hash_search(rw->deferred, old, HASH_FIND, NULL);
	MovedRow	key;
	MovedRow   *m = NULL;

	if (d != NULL)
	{
		*new = d->new;
		return d->written;
	}
	key.old = *old;
	if (nsorted > 0)
		m = bsearch(&key, rw->moved, nsorted, sizeof(MovedRow), CompareMoved);
	if (m != NULL)
		*new = m->new;
	return m != NULL;
}

/* Writes one deferred row; the row it names has been written, or is no more. */
static void
WriteDeferred(Rewrite *rw, Size nsorted, DeferredRow *d)
{
	CodecDelete mark;
	ItemPointerData next;
	ItemPointerData new = {{0, 0}, 0};

	memcpy(&mark, d->entries[0]->payload, sizeof(mark));
	OrbitTidSet(&next, mark.page, mark.slot, 0);
	if (FindMoved(rw, nsorted, &next, &new))
	{
		mark.page = OrbitTidPage(&new);
		mark.slot = (uint8) OrbitTidSlot(&new);
	}
	else
	{
		/* the next row is dead for everyone: whoever follows finds nothing */
		mark.page = 0;
		mark.slot = 0;
		mark.flags &= ~CODEC_DELETE_UPDATED;
		d->entries[0]->kind_flags |= CODEC_KEYS_UPDATED;
	}
	memcpy(d->entries[0]->payload, &mark, sizeof(mark));
	WriteChain(rw, &d->old, d->entries, d->n, &d->new);
	d->written = true;
}

/*
 * A row updated several times is a run of deferred rows, each naming the next: they are written
 * from its far end.  Links lead to rows made later, so there are no circles.
 */
static void
WriteRun(Rewrite *rw, Size nsorted, DeferredRow *d)
{
	List	   *run = NIL;
	ItemPointerData next;

	while (d != NULL && !d->written)
	{
		run = lappend(run, d);
		if (!NamesNextRow(d->entries[0], &next))
			break;
		d = hash_search(rw->deferred, &next, HASH_FIND, NULL);
	}
	for (int i = list_length(run) - 1; i >= 0; i--)
	{
		CHECK_FOR_INTERRUPTS();
		WriteDeferred(rw, nsorted, list_nth(run, i));
	}
	list_free(run);
}

static void
WriteAllDeferred(Rewrite *rw)
{
	HASH_SEQ_STATUS seq;
	DeferredRow *d;
	Size		nsorted = rw->nmoved;

	if (rw->deferred == NULL)
		return;
	if (nsorted > 0)
		qsort(rw->moved, nsorted, sizeof(MovedRow), CompareMoved);
	hash_seq_init(&seq, rw->deferred);
	while ((d = hash_seq_search(&seq)) != NULL)
	{
		if (!d->written)
			WriteRun(rw, nsorted, d);
	}
}

/* ---- the three orders --------------------------------------------------------------------------- */

static void
ReportScanned(Rewrite *rw, bool written)
{
	const int	index[] = {
		PROGRESS_CLUSTER_HEAP_TUPLES_SCANNED,
		PROGRESS_CLUSTER_HEAP_TUPLES_WRITTEN
	};
	int64		val[2];

	val[0] = (int64) rw->kept;
	val[1] = (int64) rw->kept;
	pgstat_progress_update_multi_param(written ? 2 : 1, index, val);
}

/* One tuple for the sort, placed by the newest version that is kept. */
static void
SortRow(Rewrite *rw, const KeptRow *row, Tuplesortstate *sort)
{
	const CodecEntry *e = row->versions[0].v.entry;
	HeapTuple	tuple = RowHeapTuple(rw->old, &row->versions[0].v);
	HeapTupleHeader header = tuple->t_data;

	tuple->t_self = row->tid;
	HeapTupleHeaderSetXmin(header, e->xid);
	header->t_choice.t_heap.t_field3.t_cid = e->cid;
	if (row->n > 1 || row->mark != NULL)
		header->t_choice.t_heap.t_xmax = SORT_CHAIN;
	else if (e->kind_flags & CODEC_FROZEN)
		header->t_choice.t_heap.t_xmax = SORT_SINGLE_FROZEN;
	else
		header->t_choice.t_heap.t_xmax = SORT_SINGLE;
	tuplesort_putheaptuple(sort, tuple);
}

/* The old table in the order of its pages, into the new one or into the sort. */
static void
ScanInPageOrder(Rewrite *rw, Tuplesortstate *sort)
{
	TamScan    *s = rw->scan;

	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE, PROGRESS_CLUSTER_PHASE_SEQ_SCAN_HEAP);
	pgstat_progress_update_param(PROGRESS_CLUSTER_TOTAL_HEAP_BLKS, s->npages);
	while (TamNextPage(s, false))
	{
		pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_BLKS_SCANNED, s->pageno + 1);
		for (int chain = 0; chain < s->page->page.image.nchains; chain++)
		{
			MemoryContext old = MemoryContextSwitchTo(rw->row_context);
			KeptRow		row;

			CHECK_FOR_INTERRUPTS();
			if (KeepRow(rw, chain, &row))
			{
				if (sort != NULL)
					SortRow(rw, &row, sort);
				else
					WriteRow(rw, &row);
			}
			MemoryContextSwitchTo(old);
			MemoryContextReset(rw->row_context);
		}
		ReportScanned(rw, sort == NULL);
	}
	pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_BLKS_SCANNED, s->npages);
}

/* Reads and writes the row at this TID, if it is there and something of it is kept. */
static void
WriteRowAt(Rewrite *rw, const ItemPointerData *tid)
{
	TamScan    *s = rw->scan;
	MemoryContext old = MemoryContextSwitchTo(rw->row_context);
	KeptRow		row;
	int			chain;

	if (((s->page_valid && s->pageno == OrbitTidPage(tid)) ||
		 TamLoadPage(s, OrbitTidPage(tid))) &&
		CodecPageFind(&s->page->page.image, OrbitTidSlot(tid), &chain) != NULL &&
		KeepRow(rw, chain, &row))
		WriteRow(rw, &row);
	MemoryContextSwitchTo(old);
	MemoryContextReset(rw->row_context);
}

/* The index has one entry for each row, under its canonical TID. */
static void
ScanInIndexOrder(Rewrite *rw, Relation index)
{
	const int	ci_index[] = {
		PROGRESS_CLUSTER_PHASE,
		PROGRESS_CLUSTER_INDEX_RELID
	};
	int64		ci_val[2];
	IndexScanDesc scan;
	ItemPointer tid;

	ci_val[0] = PROGRESS_CLUSTER_PHASE_INDEX_SCAN_HEAP;
	ci_val[1] = RelationGetRelid(index);
	pgstat_progress_update_multi_param(2, ci_index, ci_val);

	scan = index_beginscan(rw->old, index, SnapshotAny, 0, 0);
	index_rescan(scan, NULL, 0, NULL, 0);
	while ((tid = index_getnext_tid(scan, ForwardScanDirection)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (scan->xs_recheck)
			elog(ERROR, "CLUSTER does not support lossy index conditions");
		WriteRowAt(rw, tid);
		ReportScanned(rw, true);
	}
	index_endscan(scan);
}

/* A row of one version that came whole through the sort. */
static void
WriteSorted(Rewrite *rw, HeapTuple tuple)
{
	MemoryContext old = MemoryContextSwitchTo(rw->row_context);
	HeapTupleHeader header = tuple->t_data;
	TransactionId xid = HeapTupleHeaderGetRawXmin(header);
	bool		frozen = header->t_choice.t_heap.t_xmax == SORT_SINGLE_FROZEN ||
		TransactionIdPrecedes(xid, rw->oldest_xmin);
	const char *image;
	uint32		len;
	CodecEntry *entry;
	ItemPointerData tid;

	/* what the header says of transactions is not part of an image */
	header->t_infomask &= HEAP_HASNULL | HEAP_HASVARWIDTH | HEAP_HASEXTERNAL;
	header->t_infomask2 &= HEAP_NATTS_MASK;
	image = (const char *) header + offsetof(HeapTupleHeaderData, t_infomask2);
	len = tuple->t_len - offsetof(HeapTupleHeaderData, t_infomask2);
	if (!ImageIsPlain(rw, image, len))
		image = ReformImage(rw, tuple, &len);
	entry = MakeEntry(CODEC_INSERT | (frozen ? CODEC_FROZEN : 0), 0, xid,
					  header->t_choice.t_heap.t_field3.t_cid, image, len);
	WriteChain(rw, &tuple->t_self, &entry, 1, &tid);
	MemoryContextSwitchTo(old);
	MemoryContextReset(rw->row_context);
}

static void
WriteSort(Rewrite *rw, Tuplesortstate *sort)
{
	double		scanned_kept = rw->kept;
	double		scanned_dead = rw->dead;
	double		scanned_recent = rw->recently_dead;
	double		n = 0;
	HeapTuple	tuple;

	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE, PROGRESS_CLUSTER_PHASE_SORT_TUPLES);
	tuplesort_performsort(sort);
	pgstat_progress_update_param(PROGRESS_CLUSTER_PHASE,
								 PROGRESS_CLUSTER_PHASE_WRITE_NEW_HEAP);
	while ((tuple = tuplesort_getheaptuple(sort, true)) != NULL)
	{
		CHECK_FOR_INTERRUPTS();
		if (tuple->t_data->t_choice.t_heap.t_xmax == SORT_CHAIN)
			WriteRowAt(rw, &tuple->t_self);
		else
			WriteSorted(rw, tuple);
		pgstat_progress_update_param(PROGRESS_CLUSTER_HEAP_TUPLES_WRITTEN, (int64) (n += 1));
	}

	/* rows read twice are counted once */
	rw->kept = scanned_kept;
	rw->dead = scanned_dead;
	rw->recently_dead = scanned_recent;
}

/* ---- callback --------------------------------------------------------------------------------------- */

static void
RewriteBegin(Rewrite *rw, Relation old, Relation new, TransactionId oldest_xmin,
			 bool by_index)
{
	TupleDesc	desc = RelationGetDescr(new);

	memset(rw, 0, sizeof(*rw));
	rw->old = old;
	rw->new = new;
	rw->oldest_xmin = oldest_xmin;
	for (int i = 0; i < desc->natts; i++)
		rw->drops_columns |= TupleDescAttr(desc, i)->attisdropped;
	rw->slot = MakeSingleTupleTableSlot(desc, &TTSOpsVirtual);
	rw->values = palloc(RelationGetDescr(old)->natts * sizeof(Datum));
	rw->isnull = palloc(RelationGetDescr(old)->natts * sizeof(bool));
	rw->row_context = AllocSetContextCreate(CurrentMemoryContext, "orbit rewrite: row",
											ALLOCSET_DEFAULT_SIZES);
	rw->link_context = AllocSetContextCreate(CurrentMemoryContext, "orbit rewrite: links",
											 ALLOCSET_DEFAULT_SIZES);
	rw->scan = (TamScan *) TamScanBegin(old, SnapshotAny, 0, NULL, NULL,
										by_index ? 0 : SO_TYPE_SEQSCAN);
}

static void
RewriteEnd(Rewrite *rw)
{
	TamScanEnd(&rw->scan->base);
	ExecDropSingleTupleTableSlot(rw->slot);
	MemoryContextDelete(rw->row_context);
	MemoryContextDelete(rw->link_context);
	pfree(rw->values);
	pfree(rw->isnull);
}

/* xid_cutoff and multi_cutoff stay as they are: everything kept is newer, or frozen. */
void
TamCopyForCluster(Relation old, Relation new, Relation index, bool use_sort,
				  TransactionId oldest_xmin, TransactionId *xid_cutoff,
				  MultiXactId *multi_cutoff, double *num_tuples,
				  double *tups_vacuumed, double *tups_recently_dead)
{
	Rewrite		rw;
	Tuplesortstate *sort = NULL;

	RewriteBegin(&rw, old, new, oldest_xmin, index != NULL && !use_sort);
	if (use_sort)
		sort = tuplesort_begin_cluster(RelationGetDescr(old), index, maintenance_work_mem,
									   NULL, TUPLESORT_NONE);
	if (index != NULL && !use_sort)
		ScanInIndexOrder(&rw, index);
	else
		ScanInPageOrder(&rw, sort);
	if (sort != NULL)
	{
		WriteSort(&rw, sort);
		tuplesort_end(sort);
	}
	WriteAllDeferred(&rw);
	WalLogCleanup(old, rw.scan->storage, rw.latest_removed);

	*num_tuples += rw.kept;
	*tups_vacuumed += rw.dead;
	*tups_recently_dead += rw.recently_dead;
	RewriteEnd(&rw);
}
