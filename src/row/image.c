/*
 * image.c: between tuples and the images that entries hold.
 *
 * Wide values go to the relation's heap TOAST table by heap's own toaster, so an image obeys
 * the limits of a heap tuple.
 */
#include "postgres.h"

#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/sysattr.h"
#include "catalog/catalog.h"
#include "utils/datum.h"

#include "row/row_internal.h"

HeapTuple
RowCopyImage(const char *image, uint32 len)
{
	HeapTuple	tuple = palloc(HEAPTUPLESIZE + ROW_IMAGE_OFFSET + len);

	tuple->t_len = ROW_IMAGE_OFFSET + len;
	tuple->t_data = (HeapTupleHeader) ((char *) tuple + HEAPTUPLESIZE);
	ItemPointerSetInvalid(&tuple->t_self);
	tuple->t_tableOid = InvalidOid;
	memset(tuple->t_data, 0, ROW_IMAGE_OFFSET);
	memcpy((char *) tuple->t_data + ROW_IMAGE_OFFSET, image, len);
	return tuple;
}

HeapTuple
RowHeapTuple(Relation rel, const RowVersion *v)
{
	uint32		len;
	const char *image = RowImage(v->entry, &len, NULL);
	HeapTuple	tuple = RowCopyImage(image, len);

	RowFillHeader(tuple->t_data, v->entry->xid, v->xmax, v->entry->cid, &v->tid);
	tuple->t_self = v->tid;
	tuple->t_tableOid = RelationGetRelid(rel);
	return tuple;
}

bool
RowHasExternal(const RowVersion *v)
{
	uint32		len;
	const char *image = RowImage(v->entry, &len, NULL);

	return (((HeapTupleHeader) (image - ROW_IMAGE_OFFSET))->t_infomask & HEAP_HASEXTERNAL) != 0;
}

/* ---- storing ----------------------------------------------------------------------- */

/* Attributes that a stored row lacks (ADD COLUMN with a default) are filled in. */
HeapTuple
RowRawTuple(Relation rel, TupleTableSlot *slot)
{
	HeapTuple	tuple;

	slot_getallattrs(slot);
	tuple = heap_form_tuple(slot->tts_tupleDescriptor, slot->tts_values, slot->tts_isnull);
	RowCleanTuple(tuple, RelationGetRelid(rel));
	return tuple;
}

static inline bool
MayHaveToast(Relation rel)
{
	return rel->rd_rel->relkind == RELKIND_RELATION ||
		rel->rd_rel->relkind == RELKIND_MATVIEW;
}

bool
RowNeedsToast(Relation rel, HeapTuple tuple, HeapTuple old)
{
	if (!MayHaveToast(rel))
	{
		Assert(!HeapTupleHasExternal(tuple));
		return false;
	}
	return HeapTupleHasExternal(tuple) || tuple->t_len > TOAST_TUPLE_THRESHOLD ||
		(old != NULL && HeapTupleHasExternal(old));
}

const char *
RowStorableImage(HeapTuple tuple, uint32 *len)
{
	HeapTupleHeader h = tuple->t_data;
	Size		size = MAXALIGN(tuple->t_len);

	if (size > MaxHeapTupleSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("row is too big: size %zu, maximum size %zu",
						size, MaxHeapTupleSize)));
	h->t_infomask &= ROW_IMAGE_INFOMASK;
	h->t_infomask2 &= HEAP_NATTS_MASK;
	*len = tuple->t_len - ROW_IMAGE_OFFSET;
	return (const char *) h + ROW_IMAGE_OFFSET;
}

HeapTuple
RowFormTuple(Relation rel, TupleTableSlot *slot, HeapTuple old, int options,
			 const char **image, uint32 *len)
{
	HeapTuple	formed = RowSlotTuple(slot);
	HeapTuple	tuple = formed;

	if (formed != NULL)
		RowCleanTuple(formed, RelationGetRelid(rel));
	else
		tuple = RowRawTuple(rel, slot);
	if (RowNeedsToast(rel, tuple, old))
	{
		HeapTuple	toasted = heap_toast_insert_or_update(rel, tuple, old, options);

		if (toasted != tuple && tuple != formed)
			heap_freetuple(tuple);
		tuple = toasted;
	}
	*image = RowStorableImage(tuple, len);
	return tuple;
}

void
RowFreeFormed(TupleTableSlot *slot, HeapTuple tuple)
{
	if (tuple != RowSlotTuple(slot))
		heap_freetuple(tuple);
}

void
RowDeleteToast(Relation rel, HeapTuple tuple, bool speculative)
{
	if (MayHaveToast(rel) && HeapTupleHasExternal(tuple))
		heap_toast_delete(rel, tuple, speculative);
}

/* ---- comparing -------------------------------------------------------------------------- */

/*
 * Binary comparison of what is stored, TOAST pointers included: no equality of the data
 * type's is run, and a value that differs only in form counts as changed.
 */
static bool
AttrEqual(TupleDesc desc, int attnum, HeapTuple a, HeapTuple b)
{
	Form_pg_attribute att = TupleDescAttr(desc, attnum - 1);
	bool		anull;
	bool		bnull;
	Datum		avalue = heap_getattr(a, attnum, desc, &anull);
	Datum		bvalue = heap_getattr(b, attnum, desc, &bnull);

	if (anull || bnull)
		return anull == bnull;
	return datumIsEqual(avalue, bvalue, att->attbyval, att->attlen);
}

Bitmapset *
RowChangedAttrs(Relation rel, Bitmapset *attrs, HeapTuple old, HeapTuple new)
{
	Bitmapset  *changed = NULL;
	int			member = -1;

	while ((member = bms_next_member(attrs, member)) >= 0)
	{
		int			attnum = member + FirstLowInvalidHeapAttributeNumber;

		/* both tuples are of this table */
		if (attnum == TableOidAttributeNumber)
			continue;
		/* whole-row references and other system columns are taken to differ */
		if (attnum <= 0 || !AttrEqual(RelationGetDescr(rel), attnum, old, new))
			changed = bms_add_member(changed, member);
	}
	return changed;
}

bool
RowAttrsExternal(Relation rel, Bitmapset *attrs, HeapTuple tuple)
{
	TupleDesc	desc = RelationGetDescr(rel);
	int			member = -1;

	if (!HeapTupleHasExternal(tuple))
		return false;
	while ((member = bms_next_member(attrs, member)) >= 0)
	{
		int			attnum = member + FirstLowInvalidHeapAttributeNumber;
		bool		isnull;
		Datum		value;

		if (attnum <= 0 || TupleDescAttr(desc, attnum - 1)->attlen != -1)
			continue;
		value = heap_getattr(tuple, attnum, desc, &isnull);
		if (!isnull && VARATT_IS_EXTERNAL((struct varlena *) DatumGetPointer(value)))
			return true;
	}
	return false;
}

/* ---- logical decoding ---------------------------------------------------------------------- */

static HeapTuple
KeyTuple(Relation rel, HeapTuple old, Bitmapset *key)
{
	TupleDesc	desc = RelationGetDescr(rel);
	Datum		values[MaxHeapAttributeNumber];
	bool		nulls[MaxHeapAttributeNumber];

	heap_deform_tuple(old, desc, values, nulls);
	for (int i = 0; i < desc->natts; i++)
	{
		if (!bms_is_member(i + 1 - FirstLowInvalidHeapAttributeNumber, key))
			nulls[i] = true;
	}
	return heap_form_tuple(desc, values, nulls);
}

HeapTuple
RowReplicaIdentity(Relation rel, HeapTuple old, bool key_required, bool *is_key)
{
	TupleDesc	desc = RelationGetDescr(rel);
	char		identity = rel->rd_rel->relreplident;
	HeapTuple	tuple = old;
	Bitmapset  *key;

	*is_key = false;
	if (!RelationIsLogicallyLogged(rel) || identity == REPLICA_IDENTITY_NOTHING)
		return NULL;
	if (identity != REPLICA_IDENTITY_FULL)
	{
		if (!key_required)
			return NULL;
		key = RelationGetIndexAttrBitmap(rel, INDEX_ATTR_BITMAP_IDENTITY_KEY);
		if (bms_is_empty(key))
			return NULL;
		tuple = KeyTuple(rel, old, key);
		*is_key = true;
		bms_free(key);
	}
	/* a decoder could not fetch a TOASTed value of a row that is gone */
	if (HeapTupleHasExternal(tuple))
	{
		HeapTuple	flat = toast_flatten_tuple(tuple, desc);

		if (tuple != old)
			heap_freetuple(tuple);
		tuple = flat;
	}
	return tuple;
}
