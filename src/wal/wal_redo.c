/*
 * wal_redo.c: the resource manager: redo publishes records into the write buffers
 * through the functions of the write path.
 *
 * A record is replayed iff it ends after the flushed LSN: an arena is flushed as a
 * whole, in order, and every record up to its last one is in it or in an older
 * arena, so "ends at or before F" and "is in RocksDB" are the same.
 */
#include "postgres.h"

#include <lz4.h>

#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogreader.h"
#include "access/xlogutils.h"
#include "miscadmin.h"
#include "replication/decode.h"
#include "replication/logical.h"
#include "replication/snapbuild.h"
#include "utils/memutils.h"

#include "base/base.h"
#include "wal/records.h"
#include "wal/wal.h"
#include "wal/wal_internal.h"

WalRecoveryHooks wal_recovery_hooks = {NULL, NULL};

static StoreItem *redo_items = NULL;
static int	redo_items_cap = 0;

static StoreItem *
RedoItems(int n)
{
	if (n > redo_items_cap)
	{
		if (redo_items)
			pfree(redo_items);
		redo_items_cap = Max(n, 256);
		redo_items = MemoryContextAlloc(TopMemoryContext,
										redo_items_cap * sizeof(StoreItem));
	}
	return redo_items;
}

void
WalReadBytes(WalReader *r, void *dst, Size n)
{
	if (r->left < n)
		elog(ERROR, "orbit WAL record is too short");
	memcpy(dst, r->p, n);
	r->p += n;
	r->left -= n;
}

const char *
WalReadPointer(WalReader *r, Size n)
{
	const char *p = r->p;

	if (r->left < n)
		elog(ERROR, "orbit WAL record is too short");
	r->p += n;
	r->left -= n;
	return p;
}

/* What a record's compressed part holds. */
static void
Decompress(WalReader *r)
{
	static char *raw = NULL;
	static uint32 cap = 0;
	uint32		len;

	WalReadBytes(r, &len, sizeof(len));
	if (len > PG_INT32_MAX || r->left > PG_INT32_MAX)
		elog(ERROR, "orbit WAL record is too long");
	if (len > cap || cap > 1024 * 1024)
	{
		if (raw)
			pfree(raw);
		raw = NULL;
		cap = 0;
		raw = MemoryContextAllocHuge(TopMemoryContext, len);
		cap = len;
	}
	if (LZ4_decompress_safe(r->p, raw, r->left, len) != (int) len)
		elog(ERROR, "orbit WAL record cannot be decompressed");
	r->p = raw;
	r->left = len;
}

void
WalReadRows(WalReader *r, XLogReaderState *record, xl_orbit_rows *head)
{
	r->p = XLogRecGetData(record);
	r->left = XLogRecGetDataLen(record);
	WalReadBytes(r, head, sizeof(*head));
	if (head->flags & ORBIT_ROWS_LZ4)
		Decompress(r);
}

void
WalReadItem(WalReader *r, TransactionId record_xid, StoreItem *item)
{
	xl_orbit_item x;

	WalReadBytes(r, &x, sizeof(x));
	item->page = x.page;
	item->slot = x.slot;
	item->kind_flags = x.kind_flags;
	item->tag = x.tag;
	item->cid = x.cid;
	item->len = x.len;
	item->xid = record_xid;
	if (x.flags & ORBIT_ITEM_XID)
		WalReadBytes(r, &item->xid, sizeof(TransactionId));
	item->payload = WalReadPointer(r, x.len);
	item->below = NULL;
	item->fresh = false;
}

/* Space may be short while the worker flushes; nothing is held while waiting. */
static void
EnterWithSpace(MembufReservation *r, Size bytes)
{
	for (;;)
	{
		MembufReserve(r, bytes);
		MembufEnterWrite();
		if (MembufReservationLive(r))
			return;
		MembufLeaveWrite();
	}
}

static void
RedoRows(XLogReaderState *record)
{
	WalReader	reader;
	MembufReservation r;
	xl_orbit_rows head;
	StoreItem  *items;

	WalReadRows(&reader, record, &head);
	items = RedoItems(head.nitems);
	for (int i = 0; i < head.nitems; i++)
	{
		WalReadItem(&reader, XLogRecGetXid(record), &items[i]);
		if ((items[i].kind_flags & CODEC_KIND_MASK) == CODEC_INSERT)
			StoreNoteRow(head.storage, items[i].page, items[i].slot);
	}
	EnterWithSpace(&r, StorePublishCost(items, head.nitems));
	StorePublish(&r, head.storage, items, head.nitems);
	MembufNoteLsn(record->EndRecPtr);
	MembufLeaveWrite();
}

void
WalReadKv(WalReader *r, WalKvItem *item, char *key, Size *keylen)
{
	uint8		op_zero[2];
	uint16		prefix[2];
	uint32		len;

	WalReadBytes(r, op_zero, sizeof(op_zero));
	WalReadBytes(r, prefix, sizeof(prefix));
	WalReadBytes(r, &len, sizeof(len));
	if (prefix[0] > *keylen || prefix[0] + prefix[1] > MEMBUF_MAX_KEY)
		elog(ERROR, "orbit WAL record has a bad key");
	WalReadBytes(r, key + prefix[0], prefix[1]);
	*keylen = prefix[0] + prefix[1];
	item->op = op_zero[0];
	item->value = WalReadPointer(r, len);
	item->valuelen = len;
}

static void
RedoKv(XLogReaderState *record)
{
	WalReader	reader = {XLogRecGetData(record), XLogRecGetDataLen(record)};
	char		key[MEMBUF_MAX_KEY];
	Size		keylen = 0;
	xl_orbit_kv head;

	WalReadBytes(&reader, &head, sizeof(head));
	if (head.family >= ORBIT_NFAMILIES)
		elog(ERROR, "orbit WAL record names column family %u", head.family);
	for (int i = 0; i < head.nitems; i++)
	{
		MembufReservation r;
		WalKvItem	item;

		WalReadKv(&reader, &item, key, &keylen);
		EnterWithSpace(&r, MembufKvCost(keylen, item.valuelen));
		MembufKvPublish(&r, head.family, key, keylen, item.op, item.value, item.valuelen);

		/*
		 * Items of one record may fall into two arenas.  The first is then
		 * flushed with an F before this record, which is replayed as a whole
		 * after a crash; publishing a key again is harmless.
		 */
		if (i == head.nitems - 1)
			MembufNoteLsn(record->EndRecPtr);
		MembufLeaveWrite();
	}
}

static void
RedoStorageBlock(XLogReaderState *record)
{
	WalReader	reader = {XLogRecGetData(record), XLogRecGetDataLen(record)};
	uint64		next;

	WalReadBytes(&reader, &next, sizeof(next));
	StoreSetNextStorage(next);
}

/* Concerns the queries of this standby, whatever RocksDB holds. */
static void
RedoCleanup(XLogReaderState *record)
{
	WalReader	reader = {XLogRecGetData(record), XLogRecGetDataLen(record)};
	xl_orbit_cleanup cleanup;

	WalReadBytes(&reader, &cleanup, sizeof(cleanup));
	if (InHotStandby)
		WalResolveCleanup(&cleanup);
}

static void
Redo(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	/* Storage ids are kept by checkpoints of nobody: always take them. */
	if (info == XLOG_ORBIT_STORAGE_BLOCK)
	{
		RedoStorageBlock(record);
		return;
	}
	if (info == XLOG_ORBIT_CLEANUP)
	{
		RedoCleanup(record);
		return;
	}
	StoreAttach();
	if (record->EndRecPtr <= StoreFlushedLsn())
		return;
	if (info <= WAL_REWRITE)
		RedoRows(record);
	else if (info == XLOG_ORBIT_KV)
		RedoKv(record);
	else
		elog(PANIC, "unknown orbit WAL record type %u", info);
}

static void
RedoBegin(void)
{
	if (wal_recovery_hooks.redo_begin)
		wal_recovery_hooks.redo_begin();
}

static void
RedoEnd(void)
{
	if (wal_recovery_hooks.redo_end)
		wal_recovery_hooks.redo_end();
}

/*
 * The records carry what logical decoding needs; until it is written, a change of
 * the decoded database is an error rather than a silent loss (R18).
 */
static void
Decode(LogicalDecodingContext *ctx, XLogRecordBuffer *buf)
{
	uint8		info = XLogRecGetInfo(buf->record) & ~XLR_INFO_MASK;
	xl_orbit_rows head;

	if (info > WAL_REWRITE || ctx->fast_forward ||
		SnapBuildCurrentState(ctx->snapshot_builder) < SNAPBUILD_CONSISTENT)
		return;
	memcpy(&head, XLogRecGetData(buf->record), sizeof(head));
	if (head.node.dbNode != ctx->slot->data.database)
		return;
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("logical decoding of tables that use access method \"orbit\" is not supported"),
			 errdetail("Transaction %u changed relation file %u/%u/%u.",
					   XLogRecGetXid(buf->record), head.node.spcNode, head.node.dbNode,
					   head.node.relNode),
			 errhint("Keep replicated tables on access method \"heap\" and use a database of their own.")));
}

static RmgrData orbit_rmgr = {
	.rm_name = ORBIT_RMGR_NAME,
	.rm_redo = Redo,
	.rm_desc = WalDescribe,
	.rm_identify = WalIdentify,
	.rm_startup = RedoBegin,
	.rm_cleanup = RedoEnd,
	.rm_mask = NULL,
	.rm_decode = Decode
};

void
WalRegister(void)
{
	RegisterCustomRmgr(ORBIT_RMGR_ID, &orbit_rmgr);
}
