/*
 * wal_write.c: builds records, and in one critical section logs and publishes
 * them.  Formats: records.h.
 */
#include "postgres.h"

#include <lz4.h>

#include "access/xact.h"
#include "access/xlog.h"
#include "access/xloginsert.h"
#include "miscadmin.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#include "base/base.h"
#include "wal/records.h"
#include "wal/wal.h"

#define COMPRESS_FROM	1024	/* bytes; of less there is little to gain */
#define ACCELERATION	2		/* of LZ4: half as fast again on what hardly compresses */
#define POOR_RECORDS	15		/* logged as they are after one that hardly became smaller */

/* Record under construction, kept for the life of the process. */
static char *record_buf = NULL;
static Size record_cap = 0;
static Size record_len = 0;

/* The same, compressed. */
static char *packed_buf = NULL;
static Size packed_cap = 0;
static int	poor_records = 0;

static void
RecordReset(void)
{
	if (record_cap > 1024 * 1024)
	{
		pfree(record_buf);
		record_buf = NULL;
		record_cap = 0;
	}
	if (packed_cap > 1024 * 1024)
	{
		pfree(packed_buf);
		packed_buf = NULL;
		packed_cap = 0;
	}
	record_len = 0;
}

static void
RecordAppend(const void *bytes, Size n)
{
	if (record_len + n > record_cap)
	{
		Size		cap = Max(record_cap * 2, 8192);

		while (cap < record_len + n)
			cap *= 2;
		if (record_buf == NULL)
			record_buf = MemoryContextAlloc(TopMemoryContext, cap);
		else
			record_buf = repalloc_huge(record_buf, cap);
		record_cap = cap;
	}
	memcpy(record_buf + record_len, bytes, n);
	record_len += n;
}

static void
AppendItem(const StoreItem *item, TransactionId record_xid)
{
	xl_orbit_item x;

	x.page = item->page;
	x.cid = item->cid;
	x.len = item->len;
	x.slot = item->slot;
	x.kind_flags = item->kind_flags;
	x.tag = item->tag;
	x.flags = item->xid == record_xid ? 0 : ORBIT_ITEM_XID;
	RecordAppend(&x, sizeof(x));
	if (x.flags & ORBIT_ITEM_XID)
		RecordAppend(&item->xid, sizeof(TransactionId));
	if (item->len > 0)
		RecordAppend(item->payload, item->len);
}

static void
ReservePacked(Size n)
{
	if (n <= packed_cap)
		return;
	if (packed_buf != NULL)
		pfree(packed_buf);
	packed_buf = NULL;
	packed_cap = 0;
	packed_buf = MemoryContextAllocHuge(TopMemoryContext, n);
	packed_cap = n;
}

/* Rows of one statement are alike: what did not become smaller is not tried again at once. */
static bool
WorthCompressing(Size n)
{
	if (orbit_wal_compression == ORBIT_COMPRESSION_NONE || n < COMPRESS_FROM || n > LZ4_MAX_INPUT_SIZE)
		return false;
	if (poor_records == 0)
		return true;
	poor_records--;
	return false;
}

/* What follows the head of the record under construction. */
static void
Compress(WalRows *w, xl_orbit_rows *head)
{
	uint32		raw = record_len - sizeof(*head);
	Size		before = sizeof(*head) + sizeof(raw);
	int			n;

	if (!WorthCompressing(raw))
		return;
	ReservePacked(before + LZ4_compressBound(raw));
	n = LZ4_compress_fast(record_buf + sizeof(*head), packed_buf + before, raw, packed_cap - before,
						  ACCELERATION);
	if (n <= 0 || n > raw - raw / 8)
	{
		poor_records = POOR_RECORDS;
		return;
	}
	head->flags |= ORBIT_ROWS_LZ4;
	memcpy(packed_buf, head, sizeof(*head));
	memcpy(packed_buf + sizeof(*head), &raw, sizeof(raw));
	w->data = packed_buf;
	w->len = before + n;
}

void
WalPrepareRows(WalRows *w, WalRowsKind kind, Relation rel, OrbitStorageId storage,
			   const StoreItem *items, int n,
			   const void *old, uint32 oldlen, bool old_is_key)
{
	xl_orbit_rows head;

	Assert(n > 0 && n <= PG_UINT16_MAX);
	Assert(storage != ORBIT_INVALID_STORAGE);
	RecordReset();
	w->arena_cost = StorePublishCost(items, n);
	w->logged = RelationIsPermanent(rel);
	if (w->logged)
	{
		/*
		 * The record carries the inserting process' current xid.  A rewrite
		 * logs other transactions' entries, each with its own.
		 */
		TransactionId xid = GetCurrentTransactionId();

		head.storage = storage;
		head.node = rel->rd_node;
		head.nitems = n;
		head.flags = old == NULL ? 0 :
			ORBIT_ROWS_OLD | (old_is_key ? ORBIT_ROWS_OLD_KEY : 0);
		head.zero = 0;
		RecordAppend(&head, sizeof(head));
		for (int i = 0; i < n; i++)
			AppendItem(&items[i], xid);
		if (old != NULL)
		{
			RecordAppend(&oldlen, sizeof(oldlen));
			RecordAppend(old, oldlen);
		}
	}
	w->data = record_buf;
	w->len = record_len;
	if (w->logged)
		Compress(w, &head);
}

XLogRecPtr
WalWriteRows(WalRows *w, WalRowsKind kind, OrbitStorageId storage,
			 MembufReservation *r, const StoreItem *items, int n)
{
	XLogRecPtr	end = InvalidXLogRecPtr;

	Assert(MembufReservationLive(r));

	START_CRIT_SECTION();
	if (w->logged)
	{
		XLogBeginInsert();
		XLogRegisterData(w->data, w->len);
		XLogSetRecordFlags(XLOG_INCLUDE_ORIGIN);
		end = XLogInsert(ORBIT_RMGR_ID, kind);
	}
	StorePublish(r, storage, items, n);
	MembufNoteLsn(end);
	END_CRIT_SECTION();

	return end;
}

static void
PrepareKv(OrbitFamily family, const char *key, Size keylen, MembufOp op,
		  const void *value, Size valuelen)
{
	xl_orbit_kv head = {0};
	uint8		op_zero[2] = {op, 0};
	uint16		prefix[2] = {0, keylen};
	uint32		len = valuelen;

	head.nitems = 1;
	head.family = family;
	RecordReset();
	RecordAppend(&head, sizeof(head));
	RecordAppend(op_zero, sizeof(op_zero));
	RecordAppend(prefix, sizeof(prefix));
	RecordAppend(&len, sizeof(len));
	RecordAppend(key, keylen);
	RecordAppend(value, valuelen);
}

void
WalWriteKv(OrbitFamily family, const char *key, Size keylen, MembufOp op,
		   const void *value, Size valuelen, bool logged)
{
	MembufReservation r;
	XLogRecPtr	end = InvalidXLogRecPtr;

	Assert(keylen > 0 && keylen <= MEMBUF_MAX_KEY);
	if (logged)
		PrepareKv(family, key, keylen, op, value, valuelen);

	for (;;)
	{
		MembufReserve(&r, MembufKvCost(keylen, valuelen));
		MembufEnterWrite();
		if (MembufReservationLive(&r))
			break;
		MembufLeaveWrite();
	}

	START_CRIT_SECTION();
	if (logged)
	{
		XLogBeginInsert();
		XLogRegisterData(record_buf, record_len);
		end = XLogInsert(ORBIT_RMGR_ID, XLOG_ORBIT_KV);
	}
	MembufKvPublish(&r, family, key, keylen, op, value, valuelen);
	MembufNoteLsn(end);
	END_CRIT_SECTION();
	MembufLeaveWrite();
}

/*
 * Flushed at once: storages of temporary and unlogged relations reach RocksDB
 * without any record of their own, so nothing else would force this one out
 * before such an id is durable in a file (R8).
 */
void
WalLogStorageBlock(uint64 next_storage)
{
	XLogBeginInsert();
	XLogRegisterData((char *) &next_storage, sizeof(next_storage));
	XLogFlush(XLogInsert(ORBIT_RMGR_ID, XLOG_ORBIT_STORAGE_BLOCK));
}

void
WalLogCleanup(Relation rel, OrbitStorageId storage, TransactionId latest_removed)
{
	xl_orbit_cleanup cleanup = {0};

	if (!RelationNeedsWAL(rel) || !TransactionIdIsNormal(latest_removed))
		return;
	cleanup.storage = storage;
	cleanup.node = rel->rd_node;
	cleanup.latest_removed = latest_removed;
	XLogBeginInsert();
	XLogRegisterData((char *) &cleanup, sizeof(cleanup));
	(void) XLogInsert(ORBIT_RMGR_ID, XLOG_ORBIT_CLEANUP);
}
