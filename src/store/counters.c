/*
 * counters.c: which page and slot comes next in each storage.
 *
 * A shared table, partitioned by storage id, of a fixed number of entries.  An entry's
 * allocation word is {page 32 | slots used 8 | bytes used 24} of the page that is being
 * filled.  What it says is used was handed out; everything before that page too.
 *
 *     need       first page from which on nothing has been handed out:
 *                page + 1 if the page has a slot in use, else page
 *     persisted  a `next_page` that is in RocksDB at a generation that is required
 *                of every reader already
 *
 * Invariants (README.md argues them):
 *   1. a storage that is not in the table has nothing handed out from the `next_page`
 *      in RocksDB on, at the generation required of readers;
 *   2. an entry leaves the table only when need <= persisted;
 *   3. an entry enters with a value read after the partition's eviction count, and
 *      only if that count is still the same.
 * So no number is handed out twice.  A page that was begun is left as it is when its
 * entry leaves the table and after a restart or promotion: insertion then goes on with
 * a fresh one (R7).
 *
 * The word changes under the partition's lock in shared mode (by compare and swap), the
 * rest under exclusive mode.  Nothing is read from RocksDB, and nothing waits, under it.
 */
#include "postgres.h"

#include <stdlib.h>

#include "miscadmin.h"
#include "storage/shmem.h"

#include "store/store_internal.h"

#ifndef ORBIT_COUNTERS_A_PARTITION
#define ORBIT_COUNTERS_A_PARTITION	1024	/* 32 partitions: 32768 storages, 1 MB */
#endif
#define BUCKETS			ORBIT_COUNTERS_A_PARTITION
#define EVICT_BATCH		(ORBIT_COUNTERS_A_PARTITION / 16 + 1)
#define CROWDED			(ORBIT_COUNTERS_A_PARTITION / 2)

#define WAIT_TIMEOUT_MS	60000
#define WAIT_NAP_MS		20
#define SWITCH_EVERY_MS	1000

#define NONE			(-1)

typedef struct CounterEntry
{
	OrbitStorageId storage;		/* 0: free */
	pg_atomic_uint64 word;
	BlockNumber persisted;
	int32		next;			/* in its bucket, or in the free list */
	bool		recent;			/* used since the clock's hand passed; a hint */
	BlockNumber absent;			/* pages known to be gone */
} CounterEntry;

typedef struct CounterPartition
{
	uint64		evictions;
	int32		used;
	int32		free;			/* head of the free list */
	int32		hand;			/* of the eviction clock */
	int32		buckets[BUCKETS];
	CounterEntry entries[ORBIT_COUNTERS_A_PARTITION];
} CounterPartition;

static CounterPartition *partitions = NULL;

/* ---- the allocation word --------------------------------------------------------- */

#define WORD_BYTES_MAX	0xFFFFFF

static inline uint64
MakeWord(BlockNumber page, int slot, uint32 bytes)
{
	return (uint64) page << 32 | (uint64) slot << 24 | Min(bytes, WORD_BYTES_MAX);
}

static inline BlockNumber
WordPage(uint64 word)
{
	return (BlockNumber) (word >> 32);
}

static inline int
WordSlot(uint64 word)
{
	return (int) (word >> 24) & 0xFF;
}

static inline uint32
WordBytes(uint64 word)
{
	return (uint32) word & WORD_BYTES_MAX;
}

static inline BlockNumber
WordNeed(uint64 word)
{
	return WordPage(word) + (WordSlot(word) != 0 ? 1 : 0);
}

/* ---- the table -------------------------------------------------------------------- */

Size
StoreCountersShmemSize(void)
{
	return mul_size(ORBIT_STORAGE_LOCKS, sizeof(CounterPartition));
}

static void
InitPartition(CounterPartition *p)
{
	for (int i = 0; i < BUCKETS; i++)
		p->buckets[i] = NONE;
	for (int i = 0; i < ORBIT_COUNTERS_A_PARTITION; i++)
	{
		pg_atomic_init_u64(&p->entries[i].word, 0);
		p->entries[i].next = i + 1 < ORBIT_COUNTERS_A_PARTITION ? i + 1 : NONE;
	}
	p->free = 0;
}

void
StoreCountersShmemInit(void)
{
	bool		found;

	partitions = ShmemInitStruct("orbit storage counters", StoreCountersShmemSize(), &found);
	if (found)
		return;
	memset(partitions, 0, StoreCountersShmemSize());
	for (int i = 0; i < ORBIT_STORAGE_LOCKS; i++)
		InitPartition(&partitions[i]);
}

/* Ids are handed out one by one, so their low bits spread evenly. */
static inline CounterPartition *
PartitionOf(OrbitStorageId storage)
{
	return &partitions[storage % ORBIT_STORAGE_LOCKS];
}

static inline LWLock *
LockOf(OrbitStorageId storage)
{
	return &orbit_storage_locks[storage % ORBIT_STORAGE_LOCKS].lock;
}

static inline int32 *
BucketOf(CounterPartition *p, OrbitStorageId storage)
{
	return &p->buckets[storage / ORBIT_STORAGE_LOCKS % BUCKETS];
}

static CounterEntry *
Find(CounterPartition *p, OrbitStorageId storage)
{
	for (int32 i = *BucketOf(p, storage); i != NONE; i = p->entries[i].next)
	{
		if (p->entries[i].storage == storage)
			return &p->entries[i];
	}
	return NULL;
}

static inline bool
Evictable(CounterEntry *e)
{
	return WordNeed(pg_atomic_read_u64(&e->word)) <= e->persisted;
}

static void
Remove(CounterPartition *p, int32 i)
{
	CounterEntry *e = &p->entries[i];
	int32	   *link = BucketOf(p, e->storage);

	while (*link != i)
		link = &p->entries[*link].next;
	*link = e->next;
	e->storage = ORBIT_INVALID_STORAGE;
	e->next = p->free;
	p->free = i;
	p->used--;
	p->evictions++;
}

/* Two rounds of the clock: entries used lately go only when nothing else does. */
static void
Evict(CounterPartition *p)
{
	int			evicted = 0;

	for (int n = 0; n < 2 * ORBIT_COUNTERS_A_PARTITION && evicted < EVICT_BATCH; n++)
	{
		CounterEntry *e = &p->entries[p->hand];

		if (e->storage != ORBIT_INVALID_STORAGE)
		{
			if (e->recent)
				e->recent = false;
			else if (Evictable(e))
			{
				Remove(p, p->hand);
				evicted++;
			}
		}
		p->hand = (p->hand + 1) % ORBIT_COUNTERS_A_PARTITION;
	}
}

static void
Insert(CounterPartition *p, OrbitStorageId storage, BlockNumber next_page)
{
	int32		i = p->free;
	int32	   *bucket = BucketOf(p, storage);
	CounterEntry *e = &p->entries[i];

	p->free = e->next;
	p->used++;
	e->storage = storage;
	pg_atomic_write_u64(&e->word, MakeWord(next_page, 0, 0));
	e->persisted = next_page;
	e->recent = true;
	e->absent = 0;
	e->next = *bucket;
	*bucket = i;
}

/* ---- loading ------------------------------------------------------------------------ */

bool
StoreCountersParse(const char *value, Size len, CodecCounters *c)
{
	if (len < sizeof(CodecCounters))
		return false;
	memcpy(c, value, sizeof(CodecCounters));
	return c->format == 1;
}

static BlockNumber
LoadNextPage(OrbitStorageId storage)
{
	static CodecBuf value;		/* static: nothing to free on ERROR */
	char		key[CODEC_STORAGE_KEY_SIZE];
	CodecCounters c;

	CodecStorageKey(key, storage, CODEC_RECORD_COUNTERS);
	if (!StoreKvGet(ORBIT_PG_TABLES, key, sizeof(key), &value))
		return 0;				/* no flush ever touched it */
	if (!StoreCountersParse(value.data, value.len, &c))
	{
		KvStatus	st;

		StoreFillStatus(&st, KV_CORRUPTION, "a storage's counter record is damaged");
		KvRaise(ERROR, &st, "could not read from RocksDB storage");
	}
	return c.next_page;
}

/*
 * Acquires the partition's lock in shared mode and finds the entry.  Without one
 * the lock is released, *evictions is the count at that time.
 */
static CounterEntry *
FindShared(OrbitStorageId storage, uint64 *evictions)
{
	CounterPartition *p = PartitionOf(storage);
	CounterEntry *e;

	LWLockAcquire(LockOf(storage), LW_SHARED);
	e = Find(p, storage);
	if (e != NULL)
	{
		if (!e->recent)
			e->recent = true;	/* two that race write the same */
		return e;
	}
	*evictions = p->evictions;
	LWLockRelease(LockOf(storage));
	return NULL;
}

typedef enum LoadResult
{
	LOAD_RETRY,					/* somebody was faster, or the value may be stale */
	LOAD_DONE,					/* inserted */
	LOAD_FULL					/* exact, but no entry is to be had */
} LoadResult;

/* No lock held; evictions as FindShared left it. */
static LoadResult
Load(OrbitStorageId storage, uint64 evictions, BlockNumber *next_page)
{
	CounterPartition *p = PartitionOf(storage);
	LoadResult	result = LOAD_RETRY;

	*next_page = LoadNextPage(storage);
	LWLockAcquire(LockOf(storage), LW_EXCLUSIVE);
	if (p->evictions == evictions && Find(p, storage) == NULL)
	{
		/* evicting others does not make this storage's value stale */
		if (p->free == NONE)
			Evict(p);
		result = LOAD_FULL;
		if (p->free != NONE)
		{
			Insert(p, storage, *next_page);
			result = LOAD_DONE;
		}
	}
	LWLockRelease(LockOf(storage));
	return result;
}

/* Nothing can be evicted before something is flushed.  No lock held. */
static void
WaitForFlush(OrbitTime *start, OrbitTime *switched)
{
	OrbitTime now = OrbitNow();

	if (*start == 0)
		*start = now;
	else if (OrbitElapsed(*start, now, WAIT_TIMEOUT_MS))
		ereport(ERROR,
				(errcode(ERRCODE_OUT_OF_MEMORY),
				 errmsg("too many tables have rows that are not yet flushed to RocksDB"),
				 errhint("Look in the server log for why the storage worker does not flush, and try again.")));
	if (*switched == 0 || OrbitElapsed(*switched, now, SWITCH_EVERY_MS))
	{
		(void) MembufSwitch(0);
		*switched = now;
	}
	MembufWakeWorker();
	StoreNap(WAIT_NAP_MS);
}

/* The entry, loaded if need be, with the partition's lock held in shared mode. */
static CounterEntry *
LockEntry(OrbitStorageId storage)
{
	OrbitTime	start = 0;
	OrbitTime	switched = 0;

	for (;;)
	{
		uint64		evictions;
		BlockNumber next_page;
		CounterEntry *e = FindShared(storage, &evictions);

		if (e != NULL)
			return e;
		if (Load(storage, evictions, &next_page) == LOAD_FULL)
			WaitForFlush(&start, &switched);
	}
}

/* ---- allocation ----------------------------------------------------------------------- */

/*
 * The word after up to `want` rows have been put on one page, and how many those are.
 * A page is full when it has 255 rows or the next one would pass 8 kB; a row that is
 * larger than that has a page of its own.
 */
static uint64
NextWord(uint64 word, const uint32 *bytes, int want, int *count)
{
	BlockNumber page = WordPage(word);
	int			slot = WordSlot(word);
	uint64		used = WordBytes(word);
	int			n = 0;

	if (slot >= ORBIT_MAX_SLOT || (slot > 0 && used + bytes[0] > ORBIT_PAGE_BYTES))
	{
		page++;
		slot = 0;
		used = 0;
	}
	do
	{
		used += bytes[n++];
		slot++;
	} while (n < want && slot < ORBIT_MAX_SLOT && used + bytes[n] <= ORBIT_PAGE_BYTES);

	*count = n;
	return MakeWord(page, slot, (uint32) Min(used, WORD_BYTES_MAX));
}

int
StoreAllocRows(OrbitStorageId storage, const uint32 *bytes, int want,
			   BlockNumber *page, int *first)
{
	CounterEntry *e;
	uint64		old;
	uint64		new;
	int			n;
	bool		full;

	Assert(want >= 1 && storage != ORBIT_INVALID_STORAGE);
	StoreAttach();
	e = LockEntry(storage);
	old = pg_atomic_read_u64(&e->word);
	do
	{
		new = NextWord(old, bytes, want, &n);
		full = WordPage(new) >= STORE_PAGE_LIMIT;
	} while (!full && !pg_atomic_compare_exchange_u64(&e->word, &old, new));
	LWLockRelease(LockOf(storage));

	if (full)
		return 0;
	*page = WordPage(new);
	*first = WordSlot(new) - n + 1;
	return n;
}

/*
 * Reading never waits for an entry: with the storage absent and nothing evicted since,
 * the record in RocksDB is the whole truth.
 */
BlockNumber
StorePageCount(OrbitStorageId storage)
{
	StoreAttach();
	for (;;)
	{
		uint64		evictions;
		BlockNumber count;
		CounterEntry *e = FindShared(storage, &evictions);

		if (e != NULL)
		{
			count = WordNeed(pg_atomic_read_u64(&e->word));
			LWLockRelease(LockOf(storage));
			return count;
		}
		if (Load(storage, evictions, &count) != LOAD_RETRY)
			return count;
	}
}

void
StoreNoteAbsent(OrbitStorageId storage, BlockNumber absent)
{
	CounterEntry *e;

	LWLockAcquire(LockOf(storage), LW_EXCLUSIVE);
	e = Find(PartitionOf(storage), storage);
	if (e != NULL)
		e->absent = Max(e->absent, Min(absent, WordNeed(pg_atomic_read_u64(&e->word))));
	LWLockRelease(LockOf(storage));
}

BlockNumber
StoreAbsentPages(OrbitStorageId storage)
{
	CounterEntry *e;
	BlockNumber absent = 0;

	LWLockAcquire(LockOf(storage), LW_SHARED);
	e = Find(PartitionOf(storage), storage);
	if (e != NULL)
		absent = e->absent;
	LWLockRelease(LockOf(storage));
	return absent;
}

/*
 * The whole page counts as used: insertion after the end of recovery begins with
 * a fresh one.  What has been noted once stays so, in the table or in RocksDB,
 * therefore the rows of one page cost one look into the table.
 */
void
StoreNoteRow(OrbitStorageId storage, BlockNumber page, int slot)
{
	static OrbitStorageId last_storage = ORBIT_INVALID_STORAGE;
	static BlockNumber last_page = 0;
	CounterEntry *e;

	if (storage == last_storage && page == last_page)
		return;
	e = LockEntry(storage);
	if (page < STORE_PAGE_LIMIT)
		(void) StoreRaiseAtomic(&e->word, MakeWord(page + 1, 0, 0));
	LWLockRelease(LockOf(storage));
	last_storage = storage;
	last_page = page;
}

/* ---- for the flush -------------------------------------------------------------------- */

BlockNumber
StoreCountersNeed(OrbitStorageId storage)
{
	CounterEntry *e;
	BlockNumber need = 0;

	LWLockAcquire(LockOf(storage), LW_SHARED);
	e = Find(PartitionOf(storage), storage);
	if (e != NULL)
		need = WordNeed(pg_atomic_read_u64(&e->word));
	LWLockRelease(LockOf(storage));
	return need;
}

void
StoreCountersPersisted(OrbitStorageId storage, BlockNumber next_page)
{
	CounterEntry *e;

	LWLockAcquire(LockOf(storage), LW_EXCLUSIVE);
	e = Find(PartitionOf(storage), storage);
	if (e != NULL)
		e->persisted = Max(e->persisted, next_page);
	LWLockRelease(LockOf(storage));
}

void
StoreForgetCounters(OrbitStorageId storage)
{
	CounterPartition *p = PartitionOf(storage);
	CounterEntry *e;

	LWLockAcquire(LockOf(storage), LW_EXCLUSIVE);
	e = Find(p, storage);
	if (e != NULL)
		Remove(p, (int32) (e - p->entries));
	LWLockRelease(LockOf(storage));
}

static int
CompareIds(const void *a, const void *b)
{
	OrbitStorageId x = *(const OrbitStorageId *) a;
	OrbitStorageId y = *(const OrbitStorageId *) b;

	return x < y ? -1 : x > y;
}

OrbitStorageId *
StoreCountersCrowd(int *n)
{
	OrbitStorageId *ids = NULL;
	int			cap = 0;

	*n = 0;
	for (int i = 0; i < ORBIT_STORAGE_LOCKS; i++)
	{
		CounterPartition *p = &partitions[i];

		/* a look without the lock: a hint is enough */
		if (*(volatile int32 *) &p->used < CROWDED)
			continue;
		if (*n + ORBIT_COUNTERS_A_PARTITION > cap)
		{
			OrbitStorageId *more;

			cap = *n + 8 * ORBIT_COUNTERS_A_PARTITION;
			more = realloc(ids, cap * sizeof(OrbitStorageId));
			if (more == NULL)
				break;			/* those found so far are worth writing */
			ids = more;
		}
		LWLockAcquire(&orbit_storage_locks[i].lock, LW_SHARED);
		for (int j = 0; j < ORBIT_COUNTERS_A_PARTITION; j++)
		{
			CounterEntry *e = &p->entries[j];

			if (e->storage != ORBIT_INVALID_STORAGE && !Evictable(e))
				ids[(*n)++] = e->storage;
		}
		LWLockRelease(&orbit_storage_locks[i].lock);
	}
	if (*n > 1)
		qsort(ids, *n, sizeof(OrbitStorageId), CompareIds);
	return ids;
}
