/*
 * insert.c: new rows.
 *
 * A new row needs neither a row lock nor a look at what exists: its slot was handed out to us
 * alone.  It is logged and published before its index entries are made, so whoever
 * finds an index entry finds the row.
 *
 * Predicate locks are looked for twice: before the change, so as not to do work in vain, and
 * after it, which is the test that counts (visibility.c has the reader's half).
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "access/parallel.h"
#include "access/xact.h"
#include "miscadmin.h"
#include "pgstat.h"
#include "storage/predicate.h"
#include "utils/memutils.h"

#include "membuf/membuf.h"
#include "row/row_internal.h"

#define BATCH_BYTES		(64 * 1024) /* of row images in one record, at most */

/* A warning where nine tenths of a table's pages are used, and after each thousandth more. */
#define PAGES_WARN		(STORE_PAGE_LIMIT / 1000 * 900)
#define PAGES_WARN_STEP	(STORE_PAGE_LIMIT / 1000)

static void
RefuseInParallel(void)
{
	if (IsParallelWorker())
		ereport(ERROR,
				(errcode(ERRCODE_INVALID_TRANSACTION_STATE),
				 errmsg("cannot insert tuples in a parallel worker")));
}

static void
InsertItem(StoreItem *item, BlockNumber page, int slot, TransactionId xid, CommandId cid,
		   const char *image, uint32 len)
{
	memset(item, 0, sizeof(*item));
	item->page = page;
	item->slot = slot;
	item->kind_flags = CODEC_INSERT;
	item->xid = xid;
	item->cid = cid;
	item->len = len;
	item->payload = image;
	item->fresh = true;
}

static int
AllocRows(Relation rel, OrbitStorageId storage, const uint32 *bytes, int want,
		  BlockNumber *page, int *first)
{
	int			n = StoreAllocRows(storage, bytes, want, page, first);

	if (n == 0)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("table \"%s\" has used up its %u pages",
						RelationGetRelationName(rel), STORE_PAGE_LIMIT),
				 errdetail("Page numbers are not used again when rows are deleted."),
				 errhint("Rewrite the table with VACUUM FULL or CLUSTER.")));
	if (*first == 1 && *page >= PAGES_WARN && (*page - PAGES_WARN) % PAGES_WARN_STEP == 0)
		ereport(WARNING,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("table \"%s\" has used up %u.%u %% of its %u pages",
						RelationGetRelationName(rel), *page / PAGES_WARN_STEP / 10,
						*page / PAGES_WARN_STEP % 10, STORE_PAGE_LIMIT),
				 errdetail("Page numbers are not used again when rows are deleted."),
				 errhint("Rewrite the table with VACUUM FULL or CLUSTER.")));
	return n;
}

void
RowAllocItem(Relation rel, OrbitStorageId storage, StoreItem *item, TransactionId xid,
			 CommandId cid, const char *image, uint32 len)
{
	uint32		bytes = CODEC_NODE_SIZE(len);
	BlockNumber page;
	int			slot;

	(void) AllocRows(rel, storage, &bytes, 1, &page, &slot);
	InsertItem(item, page, slot, xid, cid, image, len);
}

/* The token is stored behind the image. */
static char *
WithToken(const char *image, uint32 *len, uint32 token)
{
	char	   *copy = palloc(*len + sizeof(token));

	memcpy(copy, image, *len);
	memcpy(copy + *len, &token, sizeof(token));
	*len += sizeof(token);
	return copy;
}

void
RowInsert(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
		  bool speculative, uint32 token)
{
	TransactionId xid = GetCurrentTransactionId();
	OrbitStorageId storage = RowStorage(rel);
	ItemPointerData tid;
	StoreItem	item;
	HeapTuple	tuple;
	const char *image;
	char	   *copy = NULL;
	uint32		len;

	RefuseInParallel();
	tuple = RowFormTuple(rel, slot, NULL, options, &image, &len);
	if (speculative)
		image = copy = WithToken(image, &len, token);
	CheckForSerializableConflictIn(rel, NULL, InvalidBlockNumber);

	RowAllocItem(rel, storage, &item, xid, cid, image, len);
	if (speculative)
		item.kind_flags |= CODEC_SPECULATIVE;
	OrbitStopPoint("row_insert");
	RowWriteFresh(rel, storage, WAL_INSERT, &item, 1);

	CheckForSerializableConflictIn(rel, NULL, InvalidBlockNumber);
	pgstat_count_heap_insert(rel, 1);
	OrbitTidSet(&tid, item.page, item.slot, 0);
	RowSlotStored(slot, rel, &tid, xid, cid, InvalidTransactionId);
	RowFreeFormed(slot, tuple);
	if (copy != NULL)
		pfree(copy);
}

/* ---- many rows ------------------------------------------------------------------------ */

typedef struct RowBatch
{
	StoreItem  *items;
	uint32	   *bytes;
	int			n;
} RowBatch;

/*
 * Memory of a batch, kept. The caller's context would give it back to the operating system after each batch,
 * and get it anew for the next one.
 */
static void
ReserveBatch(RowBatch *b, int n)
{
	static char *memory = NULL;
	static int	cap = 0;

	if (n > cap)
	{
		if (memory != NULL)
			pfree(memory);
		memory = NULL;
		cap = 0;
		memory = MemoryContextAlloc(TopMemoryContext, n * (sizeof(StoreItem) + sizeof(uint32)));
		cap = n;
	}
	b->n = n;
	b->items = (StoreItem *) memory;
	b->bytes = (uint32 *) (b->items + n);
}

/* Tuples that the slots do not have are made in the caller's context, which frees them, as heap's. */
static void
FormBatch(RowBatch *b, Relation rel, TupleTableSlot **slots, int n, TransactionId xid,
		  CommandId cid, int options)
{
	ReserveBatch(b, n);
	for (int i = 0; i < n; i++)
	{
		const char *image;
		uint32		len;

		(void) RowFormTuple(rel, slots[i], NULL, options, &image, &len);
		InsertItem(&b->items[i], InvalidBlockNumber, 0, xid, cid, image, len);
		b->bytes[i] = CODEC_NODE_SIZE(len);
	}
}

/* How many of the rows from `first` on one record may hold. */
static int
RowsInRecord(const RowBatch *b, int first)
{
	Size		limit = Min(BATCH_BYTES, MembufMaxReservation() / 4);
	Size		size = 0;
	int			n = 0;

	while (first + n < b->n && n < ORBIT_MAX_SLOT)
	{
		size += b->bytes[first + n];
		if (n > 0 && size > limit)
			break;
		n++;
	}
	return n;
}

void
RowMultiInsert(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid, int options)
{
	TransactionId xid = GetCurrentTransactionId();
	OrbitStorageId storage = RowStorage(rel);
	RowBatch	b;
	int			n;

	if (nslots == 0)
		return;
	RefuseInParallel();
	FormBatch(&b, rel, slots, nslots, xid, cid, options);
	CheckForSerializableConflictIn(rel, NULL, InvalidBlockNumber);

	for (int done = 0; done < nslots; done += n)
	{
		BlockNumber page;
		int			first;

		CHECK_FOR_INTERRUPTS();
		n = AllocRows(rel, storage, b.bytes + done, RowsInRecord(&b, done), &page, &first);
		for (int i = 0; i < n; i++)
		{
			b.items[done + i].page = page;
			b.items[done + i].slot = first + i;
		}
		RowWriteFresh(rel, storage, WAL_MULTI_INSERT, b.items + done, n);
	}

	CheckForSerializableConflictIn(rel, NULL, InvalidBlockNumber);
	pgstat_count_heap_insert(rel, nslots);
	for (int i = 0; i < nslots; i++)
	{
		ItemPointerData tid;

		OrbitTidSet(&tid, b.items[i].page, b.items[i].slot, 0);
		RowSlotStored(slots[i], rel, &tid, xid, cid, InvalidTransactionId);
	}
}

/* ---- speculative rows -------------------------------------------------------------------- */

/* The row as stored; it must be a speculative one of ours that is still undecided. */
static HeapTuple
FetchSpeculative(Relation rel, RowState *s, const ItemPointerData *tid, TransactionId xid)
{
	HeapTuple	tuple;

	RowExamine(s, tid);
	if (!s->exists || s->xmin_fate != ROW_FATE_OWN || s->xmin != xid)
		elog(ERROR, "attempted to end a speculative insertion of another transaction");
	if (!(s->target.entry->kind_flags & CODEC_SPECULATIVE))
		elog(ERROR, "attempted to end a speculative insertion of a row that is none");
	tuple = RowHeapTuple(rel, &s->target);
	RowStateClose(s);
	return tuple;
}

void
RowFinishSpeculative(Relation rel, TupleTableSlot *slot, uint32 token, bool succeeded)
{
	TransactionId xid = GetCurrentTransactionId();
	ItemPointerData tid = slot->tts_tid;
	RowChange	change = {0};
	RowState	s;
	HeapTuple	tuple;
	bool		done;

	RowStateInit(&s, RowStorage(rel));
	change.kind = WAL_CONFIRM;
	change.mode = LockTupleExclusive;
	change.entry.kind_flags = succeeded ? CODEC_CONFIRM : CODEC_KILL;
	change.entry.xid = xid;
	do
	{
		tuple = FetchSpeculative(rel, &s, &tid, xid);
		change.entry.cid = s.cmin;
		done = RowPush(rel, &s, &change);
		if (!done)
			heap_freetuple(tuple);
	} while (!done);
	RowStateFree(&s);

	if (!succeeded)
	{
		RowDeleteToast(rel, tuple, true);
		/* the insertion was counted too */
		pgstat_count_heap_delete(rel);
	}
	heap_freetuple(tuple);
}

/* ---- rewrites -------------------------------------------------------------------------------- */

/* Oldest first: so they are pushed, each onto what is on the new slot by then. */
static void
CopyItems(const CodecEntry **entries, int n, StoreItem *items)
{
	for (int i = 0; i < n; i++)
	{
		const CodecEntry *e = entries[n - 1 - i];
		StoreItem  *item = &items[i];

		memset(item, 0, sizeof(*item));
		item->kind_flags = e->kind_flags;
		item->tag = e->tag;
		item->xid = e->xid;
		item->cid = e->cid;
		item->len = e->len;
		item->payload = e->payload;
		item->fresh = true;
	}
}

static int
CopiesInRecord(const StoreItem *items, int n)
{
	Size		limit = Min(BATCH_BYTES, MembufMaxReservation() / 4);
	Size		size = 0;

	for (int i = 0; i < n; i++)
	{
		size += CODEC_NODE_SIZE(items[i].len);
		if (i > 0 && size > limit)
			return i;
	}
	return n;
}

void
RowCopyChain(Relation newrel, const CodecEntry **entries, int n, ItemPointer tid)
{
	OrbitStorageId storage = RowStorage(newrel);
	StoreItem  *items = palloc(n * sizeof(StoreItem));
	uint32		bytes = 0;
	BlockNumber page;
	int			slot;

	/* redo learns of new slots by their INSERT */
	if (n == 0 || CodecEntryKind(entries[n - 1]) != CODEC_INSERT)
		elog(ERROR, "a row to be copied does not begin with its insertion");
	CopyItems(entries, n, items);
	for (int i = 0; i < n; i++)
		bytes += CODEC_NODE_SIZE(items[i].len);
	(void) AllocRows(newrel, storage, &bytes, 1, &page, &slot);
	for (int i = 0; i < n; i++)
	{
		items[i].page = page;
		items[i].slot = slot;
	}
	/* a row of many wide versions does not fit into one record; nobody sees the table yet */
	for (int done = 0, batch; done < n; done += batch)
	{
		batch = CopiesInRecord(items + done, n - done);
		RowWriteFresh(newrel, storage, WAL_REWRITE, items + done, batch);
	}
	OrbitTidSet(tid, page, slot, 0);
	pfree(items);
}
