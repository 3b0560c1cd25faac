/*
 * check.c: is what a page says of a row possible?  For orbit_verify(); ordinary reads rely on
 * RocksDB's checksums and on the check of the page's structure.
 *
 * A chain that was united from everything the store has must begin somewhere: its last entry is the
 * row's INSERT, or a version that is frozen, or a dead slot.  If not, something older is missing.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/tupmacs.h"

#include "row/row_internal.h"

static bool
Complain(StringInfo problem, const char *what)
{
	resetStringInfo(problem);
	appendStringInfoString(problem, what);
	return false;
}

/* The end of a value that begins at `off`; 0: it does not fit into the image. */
static uint32
ValueEnd(const char *data, uint32 off, uint32 size, Form_pg_attribute att)
{
	const char *p;

	if (att->attlen == -1)
	{
		/* a short header is not aligned, and padding is zero */
		if (off >= size)
			return 0;
		if (data[off] == 0)
			off = att_align_nominal(off, att->attalign);
		if (off >= size)
			return 0;
		p = data + off;
		if (VARATT_IS_1B_E(p))
		{
			if (off + 2 > size || VARTAG_EXTERNAL(p) != VARTAG_ONDISK)
				return 0;
		}
		else if (!VARATT_IS_1B(p) && off + 4 > size)
			return 0;
		if (VARSIZE_ANY(p) == 0 || VARSIZE_ANY(p) > size - off)
			return 0;
		return off + VARSIZE_ANY(p);
	}
	off = att_align_nominal(off, att->attalign);
	if (off >= size)
		return 0;
	if (att->attlen == -2)
	{
		Size		len = strnlen(data + off, size - off);

		return len < size - off ? off + len + 1 : 0;
	}
	return att->attlen <= size - off ? off + att->attlen : 0;
}

static bool
CheckImage(TupleDesc desc, const CodecEntry *e, StringInfo problem)
{
	uint32		len;
	const char *image = RowImage(e, &len, NULL);
	HeapTupleHeader h = (HeapTupleHeader) (image - ROW_IMAGE_OFFSET);
	uint32		size = len + ROW_IMAGE_OFFSET;
	int			natts = HeapTupleHeaderGetNatts(h);
	bool		nulls = (h->t_infomask & HEAP_HASNULL) != 0;
	Size		header = SizeofHeapTupleHeader;
	uint32		off = 0;

	if (h->t_infomask & ~ROW_IMAGE_INFOMASK)
		return Complain(problem, "the row has unknown flags");
	if (natts > desc->natts)
		return Complain(problem, "the row has more columns than the table");
	if (nulls)
		header += BITMAPLEN(natts);
	if (h->t_hoff != MAXALIGN(header) || h->t_hoff > size)
		return Complain(problem, "the row has a header of a wrong size");
	for (int i = 0; i < natts; i++)
	{
		if (nulls && att_isnull(i, h->t_bits))
			continue;
		off = ValueEnd((char *) h + h->t_hoff, off, size - h->t_hoff, TupleDescAttr(desc, i));
		if (off == 0)
		{
			resetStringInfo(problem);
			appendStringInfo(problem, "the value of column %d does not fit into the row", i + 1);
			return false;
		}
	}
	return true;
}

/*
 * A tag is given again when its version has been pruned, which the server that gave it knows of itself
 * only: a standby, even promoted since, may still have the old version (README.md, Tags).  What a
 * transaction made is not pruned while it runs, so it never gives one tag twice.
 */
static bool
CheckTag(const CodecEntry *e, TransactionId *given_by, StringInfo problem)
{
	int			tag = CodecEntryKind(e) == CODEC_UPDATE ? e->tag : 0;

	if (given_by[tag] == e->xid)
		return Complain(problem, "a transaction made two versions of the row with the same tag");
	given_by[tag] = e->xid;
	return true;
}

static bool
CheckDelete(const CodecEntry *e, BlockNumber npages, StringInfo problem)
{
	CodecDelete d;

	memcpy(&d, e->payload, sizeof(d));
	if (!(d.flags & CODEC_DELETE_UPDATED))
		return true;
	if (d.page >= npages || d.slot == 0)
		return Complain(problem, "the row was moved to a place that the table does not have");
	return true;
}

bool
RowCheckChain(Relation rel, StoreChain *c, BlockNumber npages, int64 *versions,
			  StringInfo problem)
{
	const CodecEntry *e;
	const CodecEntry *last = NULL;
	TransactionId given_by[ORBIT_MAX_TAG + 1] = {InvalidTransactionId};
	bool		ok = true;

	while (ok && (e = StoreChainNext(c)) != NULL)
	{
		if (last != NULL && CodecEntryKind(last) == CODEC_INSERT)
			ok = Complain(problem, "the row has a history before its insertion");
		last = e;
		if (ok && CodecIsVersion(e))
		{
			(*versions)++;
			ok = CheckTag(e, given_by, problem) && CheckImage(RelationGetDescr(rel), e, problem);
		}
		else if (ok && CodecEntryKind(e) == CODEC_DELETE)
			ok = CheckDelete(e, npages, problem);
	}
	if (ok && (last == NULL ||
			   (CodecEntryKind(last) != CODEC_INSERT && CodecEntryKind(last) != CODEC_DEADSLOT &&
				!(last->kind_flags & CODEC_FROZEN))))
		ok = Complain(problem, "the beginning of the row's history is missing");
	return ok;
}
