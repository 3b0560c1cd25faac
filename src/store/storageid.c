/*
 * storageid.c: storage ids, handed out in blocks that are logged ahead (R8).
 *
 *     next_storage <= limit_storage <= logged_storage
 *
 * Ids below limit_storage are covered by a flushed WAL record, or by RocksDB.
 * logged_storage goes into every `flushed` record of pg_metadata; it is raised
 * before the WAL record is inserted, so a flush that must cover the record cannot
 * read an older value.
 *
 * A checkpoint may pass the record's LSN while no row is written at all, and then
 * no flush would carry the number to RocksDB.  So the block is also published as a
 * key/value in the active arena, before the record is logged: an arena that is not
 * empty is flushed before a redo pointer behind it is covered.  The flush does not
 * copy that record, its presence is enough.
 */
#include "postgres.h"

#include "access/xlogutils.h"
#include "miscadmin.h"

#include "store/store_internal.h"

#define STORAGE_BLOCK	8192

/*
 * Makes the next flush carry logged_storage.  The reservation was made without any
 * lock; false: its arena is no longer the active one.
 */
static bool
PublishBlock(MembufReservation *r, uint64 next_storage)
{
	bool		live;

	MembufEnterWrite();
	live = MembufReservationLive(r);
	if (live)
	{
		MembufKvPublish(r, ORBIT_PG_METADATA, STORE_META_NEXT_STORAGE,
						strlen(STORE_META_NEXT_STORAGE), MEMBUF_PUT,
						&next_storage, sizeof(next_storage));
		MembufNoteLsn(InvalidXLogRecPtr);
	}
	MembufLeaveWrite();
	return live;
}

static void
ReserveBlock(MembufReservation *r)
{
	MembufReserve(r, MembufKvCost(strlen(STORE_META_NEXT_STORAGE), sizeof(uint64)));
}

OrbitStorageId
StoreAllocStorageId(StoreLogBlock log_block)
{
	MembufReservation r;
	bool		reserved = false;

	StoreAttach();
	for (;;)
	{
		OrbitStorageId id = ORBIT_INVALID_STORAGE;

		LWLockAcquire(&store_shared->id_lock, LW_EXCLUSIVE);
		if (store_shared->next_storage >= store_shared->limit_storage && reserved)
		{
			uint64		limit = store_shared->next_storage + STORAGE_BLOCK;

			/* raised even if the rest fails: a gap in the ids harms nobody */
			(void) StoreRaiseAtomic(&store_shared->logged_storage, limit);
			if (PublishBlock(&r, limit))
			{
				log_block(limit);
				store_shared->limit_storage = limit;
			}
			reserved = false;
		}
		if (store_shared->next_storage < store_shared->limit_storage)
			id = store_shared->next_storage++;
		LWLockRelease(&store_shared->id_lock);

		if (id != ORBIT_INVALID_STORAGE)
			return id;
		ReserveBlock(&r);
		reserved = true;
	}
}

/*
 * Also for StorePrimaryOpen, which has nothing to publish.  Nobody hands out ids before recovery
 * has ended, and nobody calls this afterwards.
 */
static void
RaiseNextStorage(uint64 next_storage)
{
	LWLockAcquire(&store_shared->id_lock, LW_EXCLUSIVE);
	(void) StoreRaiseAtomic(&store_shared->logged_storage, next_storage);
	/* the rest of a block that another life of the server began is not used */
	store_shared->next_storage = Max(store_shared->next_storage, next_storage);
	store_shared->limit_storage = Max(store_shared->limit_storage, store_shared->next_storage);
	pg_atomic_write_u64(&store_shared->first_storage, store_shared->next_storage);
	LWLockRelease(&store_shared->id_lock);
}

void
StoreSetNextStorage(uint64 next_storage)
{
	if (InRecovery && AmStartupProcess())
	{
		/* The record is behind what RocksDB holds: a restartpoint may pass it. */
		MembufReservation r;

		(void) StoreRaiseAtomic(&store_shared->logged_storage, next_storage);
		do
			ReserveBlock(&r);
		while (!PublishBlock(&r, next_storage));
	}
	RaiseNextStorage(next_storage);
}

OrbitStorageId
StoreFirstStorage(void)
{
	return pg_atomic_read_u64(&store_shared->first_storage);
}

uint64
StoreGetNextStorage(void)
{
	return pg_atomic_read_u64(&store_shared->logged_storage);
}
