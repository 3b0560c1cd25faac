/*
 * slot.c: the tuple slot of orbit tables, and the page images slots point into.
 *
 * What a filled slot holds is one of
 *
 *   values only     base.tuple NULL; tts_values are complete (ExecStoreVirtualTuple)
 *   a tuple         TTS_FLAG_SHOULDFREE: a heap tuple in the slot's memory context
 *   own image       base.tuple = tupdata, t_data = own: a stored row, copied
 *   page image      base.tuple = tupdata, t_data = an image in `page` minus 18 bytes
 *
 * In the last case the bytes before t_infomask2 are not a tuple header and are never read:
 * deforming does not need them, and everything that hands out a heap tuple makes a copy
 * first.  `own` outlives ExecClearTuple, so that a stream of rows costs no allocation.
 *
 * A tuple is handed out without the mark of a composite datum, which heap_form_tuple sets in
 * recent minor releases: it has a table's row header, and who takes such a marked
 * tuple for a datum would raise an error.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "utils/memutils.h"
#include "utils/resowner.h"

#include "row/row.h"
#include "row/row_internal.h"

#define OWN_KEEP_BYTES	(64 * 1024) /* a bigger private copy is not kept */

/* ---- page images ------------------------------------------------------------ */

static dlist_head live_pages = DLIST_STATIC_INIT(live_pages);
static dlist_head orphan_pages = DLIST_STATIC_INIT(orphan_pages);
static uint64 transactions = 0; /* top-level ones that have ended */

static void
FreePage(RowPage *p)
{
	dlist_delete(&p->node);
	StorePageFree(&p->page);
	free(p);
}

/*
 * References that an error cut off are never released by a slot, but may still be by a scan,
 * whose memory goes after its resource owner.  So only the image goes now, and the
 * struct when another transaction has ended, for memory of the first is gone by then.
 */
static void
OrphanPages(ResourceOwner owner)
{
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &live_pages)
	{
		RowPage    *p = dlist_container(RowPage, node, it.cur);

		if (p->owner != owner)
			continue;
		dlist_delete(&p->node);
		dlist_push_tail(&orphan_pages, &p->node);
		StorePageFree(&p->page);
		p->owner = NULL;
		p->orphaned = transactions;
	}
}

static void
FreeOrphans(void)
{
	dlist_mutable_iter it;

	dlist_foreach_modify(it, &orphan_pages)
	{
		RowPage    *p = dlist_container(RowPage, node, it.cur);

		if (p->orphaned < transactions)
			FreePage(p);
	}
	transactions++;
}

static void
ReleaseOwnerPages(ResourceReleasePhase phase, bool isCommit, bool isTopLevel, void *arg)
{
	if (phase != RESOURCE_RELEASE_BEFORE_LOCKS)
		return;
	OrphanPages(CurrentResourceOwner);
	if (isTopLevel && CurrentResourceOwner == TopTransactionResourceOwner)
		FreeOrphans();
}

RowPage *
RowPageAlloc(void)
{
	static bool registered = false;
	RowPage    *p;

	if (!registered)
	{
		RegisterResourceReleaseCallback(ReleaseOwnerPages, NULL);
		registered = true;
	}
	Assert(CurrentResourceOwner != NULL);
	p = calloc(1, sizeof(RowPage));
	if (p == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("out of memory")));
	p->refcount = 1;
	p->owner = CurrentResourceOwner;
	dlist_push_tail(&live_pages, &p->node);
	return p;
}

void
RowPageRelease(RowPage *p)
{
	Assert(p->refcount > 0);
	if (--p->refcount == 0)
		FreePage(p);
}

/* ---- images and headers ----------------------------------------------------------- */

/* xmax is written although it is marked invalid: it is what the system column shows. */
void
RowFillHeader(HeapTupleHeader h, TransactionId xmin, TransactionId xmax, CommandId cmin,
			  const ItemPointerData *tid)
{
	h->t_infomask = (h->t_infomask & ROW_IMAGE_INFOMASK) | HEAP_XMAX_INVALID;
	h->t_infomask2 &= HEAP_NATTS_MASK;
	HeapTupleHeaderSetXmin(h, xmin);
	HeapTupleHeaderSetXmax(h, xmax);
	HeapTupleHeaderSetCmin(h, cmin);
	h->t_ctid = *tid;
}

/* Turns a tuple that heap_form_tuple made, or any other, into one of a table. */
void
RowCleanTuple(HeapTuple tuple, Oid tableoid)
{
	ItemPointerData invalid;

	ItemPointerSetInvalid(&invalid);
	RowFillHeader(tuple->t_data, InvalidTransactionId, InvalidTransactionId, FirstCommandId,
				  &invalid);
	tuple->t_self = invalid;
	tuple->t_tableOid = tableoid;
}

static inline void
DropPage(RowTupleTableSlot *rslot)
{
	if (rslot->page != NULL)
	{
		RowPageRelease(rslot->page);
		rslot->page = NULL;
	}
}

static inline void
FreeTuple(TupleTableSlot *slot)
{
	if (TTS_SHOULDFREE(slot))
	{
		heap_freetuple(((HeapTupleTableSlot *) slot)->tuple);
		slot->tts_flags &= ~TTS_FLAG_SHOULDFREE;
	}
}

/* A row that is only counted is not brought to the processor: its entry's head is read when asked for. */
static inline void
ReadHead(RowTupleTableSlot *rslot)
{
	const CodecEntry *e = rslot->unread;
	uint32		len;

	if (e == NULL)
		return;
	(void) RowImage(e, &len, NULL);
	rslot->base.tupdata.t_len = ROW_IMAGE_OFFSET + len;
	rslot->xmin = e->xid;
	rslot->cmin = e->cid;
	rslot->unread = NULL;
}

static inline void
ReferTo(RowTupleTableSlot *rslot, RowPage *page)
{
	if (page == rslot->page)
		return;
	DropPage(rslot);
	rslot->page = page;
	if (page != NULL)
		page->refcount++;
}

/* tupdata is the slot's row now; no column of it has been deformed. */
static inline void
HoldRow(RowTupleTableSlot *rslot)
{
	TupleTableSlot *slot = &rslot->base.base;

	rslot->has_row = true;
	rslot->base.tuple = &rslot->base.tupdata;
	rslot->base.off = 0;
	slot->tts_nvalid = 0;
	slot->tts_flags &= ~TTS_FLAG_EMPTY;
}

static void
FillOwnHeader(RowTupleTableSlot *rslot)
{
	HeapTuple	tuple = &rslot->base.tupdata;

	RowFillHeader(tuple->t_data, rslot->xmin, rslot->xmax, rslot->cmin, &tuple->t_self);
}

/*
 * Copies an image into the slot's own memory and lets tupdata point there.  The old own image
 * need not be kept; image must not lie in it.
 */
static void
CopyImage(RowTupleTableSlot *rslot, const char *image, uint32 len)
{
	Size		size = ROW_IMAGE_OFFSET + len;

	if (rslot->own_size < size)
	{
		Size		room = Max(size, 128);

		room += room / 4;
		if (rslot->own != NULL)
			pfree(rslot->own);
		rslot->own = NULL;
		rslot->own_size = 0;
		rslot->own = MemoryContextAlloc(rslot->base.base.tts_mcxt, room);
		rslot->own_size = room;
	}
	memcpy(rslot->own + ROW_IMAGE_OFFSET, image, len);
	rslot->base.tupdata.t_data = (HeapTupleHeader) rslot->own;
	rslot->base.tupdata.t_len = size;
}

static inline bool
InPage(RowTupleTableSlot *rslot)
{
	return rslot->base.tuple == &rslot->base.tupdata &&
		(char *) rslot->base.tupdata.t_data != rslot->own;
}

static inline const char *
TupleImage(HeapTuple tuple)
{
	return (const char *) tuple->t_data + ROW_IMAGE_OFFSET;
}

void
RowStoreSlot(TupleTableSlot *slot, Relation rel, const RowVersion *v, RowPage *page)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;
	HeapTuple	tuple = &rslot->base.tupdata;

	Assert(slot->tts_ops == &TTSOpsOrbit);
	FreeTuple(slot);
	rslot->xmax = v->xmax;
	rslot->cmax = v->cmax;
	slot->tts_tid = tuple->t_self = v->tid;
	slot->tts_tableOid = tuple->t_tableOid = RelationGetRelid(rel);
	ReferTo(rslot, page);
	rslot->unread = v->entry;
	if (page != NULL)
	{
		tuple->t_data = (HeapTupleHeader) (v->entry->payload - ROW_IMAGE_OFFSET);
		Assert(PointerIsAligned(tuple->t_data, int64));
	}
	else
	{
		ReadHead(rslot);
		CopyImage(rslot, v->entry->payload, tuple->t_len - ROW_IMAGE_OFFSET);
		FillOwnHeader(rslot);
	}
	HoldRow(rslot);
}

void
RowStorePlain(TupleTableSlot *slot, Relation rel, const CodecEntry *e, BlockNumber pageno, int slotno,
			  RowPage *page)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;
	HeapTuple	tuple = &rslot->base.tupdata;

	Assert(slot->tts_ops == &TTSOpsOrbit);
	FreeTuple(slot);
	ReferTo(rslot, page);
	rslot->xmax = InvalidTransactionId;
	rslot->cmax = InvalidCommandId;
	rslot->unread = e;
	tuple->t_data = (HeapTupleHeader) (e->payload - ROW_IMAGE_OFFSET);
	slot->tts_tableOid = tuple->t_tableOid = RelationGetRelid(rel);
	OrbitTidSet(&tuple->t_self, pageno, slotno, 0);
	OrbitTidSet(&slot->tts_tid, pageno, slotno, 0);
	HoldRow(rslot);
}

HeapTuple
RowSlotTuple(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;
	HeapTuple	tuple;

	if (slot->tts_ops != &TTSOpsOrbit || rslot->base.tuple == NULL || InPage(rslot))
		return NULL;
	tuple = rslot->base.tuple;
	return HeapTupleHeaderGetNatts(tuple->t_data) == slot->tts_tupleDescriptor->natts ? tuple : NULL;
}

void
RowSlotStored(TupleTableSlot *slot, Relation rel, const ItemPointerData *tid,
			  TransactionId xmin, CommandId cmin, TransactionId xmax)
{
	slot->tts_tid = *tid;
	slot->tts_tableOid = RelationGetRelid(rel);
	if (slot->tts_ops == &TTSOpsOrbit)
	{
		RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

		ReadHead(rslot);
		rslot->xmin = xmin;
		rslot->cmin = cmin;
		rslot->xmax = xmax;
		rslot->cmax = InvalidCommandId;
		rslot->has_row = true;
		if (rslot->base.tuple != NULL)
		{
			if (!InPage(rslot))
				RowFillHeader(rslot->base.tuple->t_data, xmin, xmax, cmin, tid);
			rslot->base.tuple->t_self = *tid;
			rslot->base.tuple->t_tableOid = slot->tts_tableOid;
		}
	}
}

/* ---- the callbacks, in the order of the struct ------------------------------------------ */

static void
orbit_slot_init(TupleTableSlot *slot)
{
}

static void
orbit_slot_release(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	DropPage(rslot);
	if (rslot->own != NULL)
		pfree(rslot->own);
	rslot->own = NULL;
	rslot->own_size = 0;
}

static void
orbit_slot_clear(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	FreeTuple(slot);
	DropPage(rslot);
	if (rslot->own_size > OWN_KEEP_BYTES)
	{
		pfree(rslot->own);
		rslot->own = NULL;
		rslot->own_size = 0;
	}
	slot->tts_nvalid = 0;
	slot->tts_flags |= TTS_FLAG_EMPTY;
	ItemPointerSetInvalid(&slot->tts_tid);
	rslot->base.tuple = NULL;
	rslot->base.off = 0;
	rslot->unread = NULL;
	rslot->has_row = false;
}

/*
 * Columns at the row's begin whose offsets are always the same, and known: nothing need be asked about each.
 * True: these were all.
 */
static inline bool
DeformFixed(RowTupleTableSlot *rslot, int natts)
{
	TupleTableSlot *slot = &rslot->base.base;
	TupleDesc	desc = slot->tts_tupleDescriptor;
	HeapTupleHeader h = rslot->base.tuple->t_data;
	const char *data = (const char *) h + h->t_hoff;
	int			i = slot->tts_nvalid;

	if ((h->t_infomask & HEAP_HASNULL) != 0 || HeapTupleHeaderGetNatts(h) < natts)
		return false;
	for (; i < natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		if (att->attcacheoff < 0 || att->attlen <= 0)
			break;
		slot->tts_values[i] = fetchatt(att, data + att->attcacheoff);
		slot->tts_isnull[i] = false;
	}
	if (i > slot->tts_nvalid)
	{
		Form_pg_attribute last = TupleDescAttr(desc, i - 1);

		slot->tts_nvalid = i;
		rslot->base.off = last->attcacheoff + last->attlen;
		slot->tts_flags &= ~TTS_FLAG_SLOW;
	}
	return i == natts;
}

/* Else PostgreSQL's own deforming: it works on the two fields both slots begin with. */
static void
orbit_slot_getsomeattrs(TupleTableSlot *slot, int natts)
{
	Assert(!TTS_EMPTY(slot));
	if (!DeformFixed((RowTupleTableSlot *) slot, natts))
		TTSOpsHeapTuple.getsomeattrs(slot, natts);
}

/*
 * PostgreSQL may give back a row that it has kept as a tuple for a while: an index scan ordered by
 * a distance that the index knows only roughly does.  What comes into the slot then are the
 * values and the TID; the rest is looked up.
 */
static bool
LookUpRow(RowTupleTableSlot *rslot)
{
	TupleTableSlot *slot = &rslot->base.base;
	RowSystem	sys;
	Relation	rel;
	bool		found;

	if (!ItemPointerIsValid(&slot->tts_tid) || !OidIsValid(slot->tts_tableOid))
		return false;
	rel = table_open(slot->tts_tableOid, NoLock);	/* locked by the query */
	found = table_slot_callbacks(rel) == &TTSOpsOrbit &&
		RowFetchSystem(rel, &slot->tts_tid, &sys);
	table_close(rel, NoLock);
	if (!found)
		return false;
	rslot->xmin = sys.xmin;
	rslot->cmin = sys.cmin;
	rslot->xmax = sys.xmax;
	rslot->cmax = sys.cmax;
	rslot->has_row = true;
	return true;
}

static Datum
orbit_slot_getsysattr(TupleTableSlot *slot, int attnum, bool *isnull)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	Assert(!TTS_EMPTY(slot));
	if (!rslot->has_row && !LookUpRow(rslot))
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("cannot retrieve a system column in this context")));
	ReadHead(rslot);
	*isnull = false;
	switch (attnum)
	{
		case MinTransactionIdAttributeNumber:
			return TransactionIdGetDatum(rslot->xmin);
		case MaxTransactionIdAttributeNumber:
			return TransactionIdGetDatum(rslot->xmax);
		case MinCommandIdAttributeNumber:
			return CommandIdGetDatum(rslot->cmin);
		case MaxCommandIdAttributeNumber:
			/* heap has one field for both, and shows it */
			return CommandIdGetDatum(rslot->cmax != InvalidCommandId &&
									 TransactionIdIsValid(rslot->xmax) ?
									 rslot->cmax : rslot->cmin);
		default:
			elog(ERROR, "invalid system attribute number %d", attnum);
	}
	return 0;					/* keep compiler quiet */
}

/* The slot's values, or its image in a page, as a tuple of its own. */
static void
MakeTuple(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;
	MemoryContext old;
	HeapTuple	tuple;

	ReadHead(rslot);
	if (rslot->base.tuple != NULL)
	{
		CopyImage(rslot, TupleImage(rslot->base.tuple),
				  rslot->base.tuple->t_len - ROW_IMAGE_OFFSET);
		FillOwnHeader(rslot);
		return;
	}
	old = MemoryContextSwitchTo(slot->tts_mcxt);
	tuple = heap_form_tuple(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
	MemoryContextSwitchTo(old);
	RowCleanTuple(tuple, slot->tts_tableOid);
	if (rslot->has_row)
	{
		/* the slot has been inserted since its values were computed */
		RowFillHeader(tuple->t_data, rslot->xmin, rslot->xmax, rslot->cmin, &slot->tts_tid);
		tuple->t_self = slot->tts_tid;
	}
	rslot->base.tuple = tuple;
	slot->tts_flags |= TTS_FLAG_SHOULDFREE;
}

/* Values deformed before point into what the slot lets go of: they are deformed again. */
static void
orbit_slot_materialize(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	Assert(!TTS_EMPTY(slot));
	if (rslot->base.tuple == NULL || InPage(rslot))
		MakeTuple(slot);
	else if (rslot->page == NULL)
		return;
	DropPage(rslot);
	rslot->base.off = 0;
	slot->tts_nvalid = 0;
}

static void
orbit_slot_copyslot(TupleTableSlot *dst, TupleTableSlot *src)
{
	RowTupleTableSlot *rdst = (RowTupleTableSlot *) dst;
	RowTupleTableSlot *rsrc = (RowTupleTableSlot *) src;
	HeapTuple	from;
	MemoryContext old;

	orbit_slot_clear(dst);
	if (src->tts_ops == &TTSOpsOrbit && rsrc->has_row)
	{
		if (rsrc->base.tuple == NULL)
			orbit_slot_materialize(src);
		ReadHead(rsrc);
		from = rsrc->base.tuple;
		rdst->xmin = rsrc->xmin;
		rdst->xmax = rsrc->xmax;
		rdst->cmin = rsrc->cmin;
		rdst->cmax = rsrc->cmax;
		rdst->has_row = true;
		CopyImage(rdst, TupleImage(from), from->t_len - ROW_IMAGE_OFFSET);
		rdst->base.tuple = &rdst->base.tupdata;
		rdst->base.tuple->t_self = src->tts_tid;
		rdst->base.tuple->t_tableOid = src->tts_tableOid;
		FillOwnHeader(rdst);
		dst->tts_tid = src->tts_tid;
		dst->tts_tableOid = src->tts_tableOid;
	}
	else
	{
		ItemPointerData tid;
		Oid			tableoid;

		old = MemoryContextSwitchTo(dst->tts_mcxt);
		from = ExecCopySlotHeapTuple(src);
		MemoryContextSwitchTo(old);
		tid = from->t_self;
		tableoid = from->t_tableOid;
		RowCleanTuple(from, tableoid);
		from->t_self = tid;
		rdst->base.tuple = from;
		dst->tts_flags |= TTS_FLAG_SHOULDFREE;
		dst->tts_tid = tid;
	}
	dst->tts_flags &= ~TTS_FLAG_EMPTY;
}

/*
 * The tuple is the slot's, and may be written to.  Values deformed before stay good: the page,
 * if there is one, is kept.
 */
static HeapTuple
orbit_slot_get_heap_tuple(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	Assert(!TTS_EMPTY(slot));
	if (rslot->base.tuple == NULL)
		orbit_slot_materialize(slot);
	else if (InPage(rslot))
		MakeTuple(slot);
	return rslot->base.tuple;
}

static HeapTuple
orbit_slot_copy_heap_tuple(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;
	HeapTuple	from;
	HeapTuple	copy;

	Assert(!TTS_EMPTY(slot));
	if (rslot->base.tuple == NULL)
		orbit_slot_materialize(slot);
	ReadHead(rslot);
	from = rslot->base.tuple;
	copy = RowCopyImage(TupleImage(from), from->t_len - ROW_IMAGE_OFFSET);
	if (rslot->has_row)
		RowFillHeader(copy->t_data, rslot->xmin, rslot->xmax, rslot->cmin, &slot->tts_tid);
	else
		RowCleanTuple(copy, InvalidOid);
	copy->t_self = slot->tts_tid;
	copy->t_tableOid = from->t_tableOid;
	return copy;
}

static MinimalTuple
orbit_slot_copy_minimal_tuple(TupleTableSlot *slot)
{
	RowTupleTableSlot *rslot = (RowTupleTableSlot *) slot;

	Assert(!TTS_EMPTY(slot));
	if (rslot->base.tuple == NULL)
		orbit_slot_materialize(slot);
	ReadHead(rslot);
	/* of the header only t_infomask2 and what follows counts */
	return minimal_tuple_from_heap_tuple(rslot->base.tuple);
}

const TupleTableSlotOps TTSOpsOrbit = {
	.base_slot_size = sizeof(RowTupleTableSlot),
	.init = orbit_slot_init,
	.release = orbit_slot_release,
	.clear = orbit_slot_clear,
	.getsomeattrs = orbit_slot_getsomeattrs,
	.getsysattr = orbit_slot_getsysattr,
	.materialize = orbit_slot_materialize,
	.copyslot = orbit_slot_copyslot,

	/* a minimal tuple cannot be owned; PostgreSQL then asks for a copy */
	.get_heap_tuple = orbit_slot_get_heap_tuple,
	.get_minimal_tuple = NULL,
	.copy_heap_tuple = orbit_slot_copy_heap_tuple,
	.copy_minimal_tuple = orbit_slot_copy_minimal_tuple
};
