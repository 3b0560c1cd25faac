/*
 * wal/records.h: formats of the WAL records of resource manager ORBIT_RMGR_ID.
 *
 * info (high 4 bits)    contents
 * 0x00..0x60 rows       xl_orbit_rows, nitems x xl_orbit_item (each followed by its
 *                       xid when ORBIT_ITEM_XID is set, then len bytes of payload),
 *                       then with ORBIT_ROWS_OLD a uint32 length and the old image.
 *                       With ORBIT_ROWS_LZ4 all that follows the head is a uint32, the length of
 *                       it, and a block of LZ4 (its block format, without a frame)
 * 0x70 kv               xl_orbit_kv, nitems x (uint8 op, uint8 zero, uint16 shared
 *                       prefix length with the key before, uint16 suffix length,
 *                       uint32 value length, suffix, value)
 * 0x80 storage block    uint64: storage ids below it may be in use
 * 0x90 metapage         xl_orbit_metapage + block reference 0 (full-page image by
 *                       log_newpage elsewhere); reserved
 * 0xA0 cleanup          xl_orbit_cleanup: index entries of rows that ended go from here on,
 *                       or an index comes that has none of them
 * 0xB0..0xD0            reserved
 *
 * Nothing here is aligned; readers memcpy.
 */
#ifndef ORBIT_WAL_RECORDS_H
#define ORBIT_WAL_RECORDS_H

#include "postgres.h"

#include "storage/relfilenode.h"

#define ORBIT_RMGR_ID		139
#define ORBIT_RMGR_NAME		"orbit"

#define XLOG_ORBIT_KV				0x70
#define XLOG_ORBIT_STORAGE_BLOCK	0x80
#define XLOG_ORBIT_CLEANUP			0xA0

typedef struct xl_orbit_rows
{
	uint64		storage;
	RelFileNode node;			/* for logical decoding */
	uint16		nitems;
	uint8		flags;
	uint8		zero;
} xl_orbit_rows;

#define ORBIT_ROWS_OLD		0x01	/* the old row's image follows the items */
#define ORBIT_ROWS_OLD_KEY	0x02	/* ... of which only the key columns are set */
#define ORBIT_ROWS_LZ4		0x04

typedef struct xl_orbit_item
{
	uint32		page;
	uint32		cid;
	uint32		len;
	uint8		slot;
	uint8		kind_flags;
	uint8		tag;
	uint8		flags;
} xl_orbit_item;

#define ORBIT_ITEM_XID		0x01	/* the entry's xid is not the record's */

typedef struct xl_orbit_kv
{
	uint64		storage;		/* storage the keys belong to, or 0 */
	uint16		nitems;
	uint8		family;
	uint8		zero;
} xl_orbit_kv;

typedef struct xl_orbit_cleanup
{
	uint64		storage;
	RelFileNode node;			/* whose snapshots are concerned: the database */
	TransactionId latest_removed;	/* newest transaction that ended such a row, or
									 * replaced a version of it */
} xl_orbit_cleanup;

#endif							/* ORBIT_WAL_RECORDS_H */
