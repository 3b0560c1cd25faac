/*
 * wal_internal.h: reading records, shared by redo and description.
 */
#ifndef ORBIT_WAL_INTERNAL_H
#define ORBIT_WAL_INTERNAL_H

#include "access/xlogreader.h"
#include "lib/stringinfo.h"

#include "wal/records.h"
#include "wal/wal.h"

/* A cursor over a record's bytes; reading past the end is an ERROR. */
typedef struct WalReader
{
	const char *p;
	Size		left;
} WalReader;

typedef struct WalKvItem
{
	MembufOp	op;
	const char *value;
	Size		valuelen;
} WalKvItem;

/*
 * Sets *r to what follows a rows record's head, which is returned; what was compressed lies in memory
 * of this process until the next call.
 */
extern void WalReadRows(WalReader *r, XLogReaderState *record, xl_orbit_rows *head);
extern void WalReadBytes(WalReader *r, void *dst, Size n);
extern const char *WalReadPointer(WalReader *r, Size n);
extern void WalReadItem(WalReader *r, TransactionId record_xid, StoreItem *item);

/* key holds the key before on entry (prefix compression), this one's on return. */
extern void WalReadKv(WalReader *r, WalKvItem *item, char *key, Size *keylen);

/*
 * Startup process of a hot standby: returns when no query is left whose snapshot may need what the record
 * says is gone.  Waits as the standby's delay allows; interruptible; nothing is held but the
 * locks of the primary's transactions.
 */
extern void WalResolveCleanup(const xl_orbit_cleanup *cleanup);

extern void WalDescribe(StringInfo buf, XLogReaderState *record);
extern const char *WalIdentify(uint8 info);

#endif							/* ORBIT_WAL_INTERNAL_H */
