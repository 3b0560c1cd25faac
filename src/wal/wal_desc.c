/*
 * wal_desc.c: records in words, for log messages and WAL inspection.
 */
#include "postgres.h"

#include "access/xlogreader.h"

#include "base/base.h"
#include "wal/wal_internal.h"

#define ITEMS_SHOWN 4

static const char *
KindName(uint8 kind_flags)
{
	switch (kind_flags & CODEC_KIND_MASK)
	{
		case CODEC_INSERT:
			return kind_flags & CODEC_SPECULATIVE ? "speculative insert" : "insert";
		case CODEC_UPDATE:
			return "update";
		case CODEC_DELETE:
			return "delete";
		case CODEC_LOCK:
			return "lock";
		case CODEC_CONFIRM:
			return "confirm";
		case CODEC_KILL:
			return "kill";
		default:
			return "?";
	}
}

static void
DescribeRows(StringInfo buf, XLogReaderState *record)
{
	WalReader	reader;
	xl_orbit_rows head;

	WalReadRows(&reader, record, &head);
	appendStringInfo(buf, "rel %u/%u/%u storage " UINT64_FORMAT " items %u:",
					 head.node.spcNode, head.node.dbNode, head.node.relNode,
					 head.storage, head.nitems);
	for (int i = 0; i < head.nitems && i < ITEMS_SHOWN; i++)
	{
		StoreItem	item;

		WalReadItem(&reader, XLogRecGetXid(record), &item);
		appendStringInfo(buf, " %s (%u,%u) tag %u xid %u cid %u len %u%s",
						 KindName(item.kind_flags), item.page, item.slot, item.tag,
						 item.xid, item.cid, item.len,
						 item.kind_flags & CODEC_KEYS_UPDATED ? " keys" : "");
		if ((item.kind_flags & CODEC_KIND_MASK) == CODEC_DELETE && item.len == sizeof(CodecDelete))
		{
			CodecDelete d;

			memcpy(&d, item.payload, sizeof(d));
			if (d.flags & CODEC_DELETE_UPDATED)
				appendStringInfo(buf, " next (%u,%u)", d.page, d.slot);
			if (d.flags & CODEC_DELETE_MOVED)
				appendStringInfoString(buf, " moved");
		}
		appendStringInfoString(buf, i < head.nitems - 1 ? ";" : "");
	}
	if (head.nitems > ITEMS_SHOWN)
		appendStringInfoString(buf, " ...");
	if (head.flags & ORBIT_ROWS_OLD)
		appendStringInfoString(buf, head.flags & ORBIT_ROWS_OLD_KEY ? " old key" : " old row");
	if (head.flags & ORBIT_ROWS_LZ4)
		appendStringInfoString(buf, " compressed");
}

static void
DescribeKv(StringInfo buf, XLogReaderState *record)
{
	WalReader	reader = {XLogRecGetData(record), XLogRecGetDataLen(record)};
	char		key[MEMBUF_MAX_KEY];
	Size		keylen = 0;
	xl_orbit_kv head;

	WalReadBytes(&reader, &head, sizeof(head));
	appendStringInfo(buf, "family %u items %u:", head.family, head.nitems);
	for (int i = 0; i < head.nitems && i < ITEMS_SHOWN; i++)
	{
		WalKvItem	item;

		WalReadKv(&reader, &item, key, &keylen);
		appendStringInfo(buf, " %s ", item.op == MEMBUF_PUT ? "put" : "delete");
		for (Size k = 0; k < Min(keylen, 32); k++)
			appendStringInfo(buf, "%02x", (unsigned char) key[k]);
		appendStringInfo(buf, " len %zu", item.valuelen);
	}
}

void
WalDescribe(StringInfo buf, XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;

	if (info <= WAL_REWRITE)
		DescribeRows(buf, record);
	else if (info == XLOG_ORBIT_KV)
		DescribeKv(buf, record);
	else if (info == XLOG_ORBIT_STORAGE_BLOCK)
	{
		uint64		next;

		memcpy(&next, XLogRecGetData(record), sizeof(next));
		appendStringInfo(buf, "storage ids below " UINT64_FORMAT, next);
	}
	else if (info == XLOG_ORBIT_CLEANUP)
	{
		xl_orbit_cleanup cleanup;

		memcpy(&cleanup, XLogRecGetData(record), sizeof(cleanup));
		appendStringInfo(buf, "rel %u/%u/%u storage " UINT64_FORMAT " latest removed xid %u",
						 cleanup.node.spcNode, cleanup.node.dbNode, cleanup.node.relNode,
						 cleanup.storage, cleanup.latest_removed);
	}
}

const char *
WalIdentify(uint8 info)
{
	switch (info & ~XLR_INFO_MASK)
	{
		case WAL_INSERT:
			return "INSERT";
		case WAL_MULTI_INSERT:
			return "MULTI_INSERT";
		case WAL_UPDATE:
			return "UPDATE";
		case WAL_DELETE:
			return "DELETE";
		case WAL_LOCK:
			return "LOCK";
		case WAL_CONFIRM:
			return "CONFIRM";
		case WAL_REWRITE:
			return "REWRITE";
		case XLOG_ORBIT_KV:
			return "KV";
		case XLOG_ORBIT_STORAGE_BLOCK:
			return "STORAGE_BLOCK";
		case XLOG_ORBIT_CLEANUP:
			return "CLEANUP";
		default:
			return NULL;
	}
}
