/*
 * sharedpages.c: pages of RocksDB in shared memory, ready to be read: what shared_buffers is to heap.
 *
 * A get from RocksDB costs a bloom filter, an index block, a data block to be decompressed, a merge and the
 * check of the page; each process has a block cache of its own for that, cold when it starts.  A page found
 * here costs a lookup; it is pinned and read where it lies.
 *
 * An entry is a page as RocksDB had it at some generation, or is about to have it.  Any view may use it:
 *
 *	not too old		When a write buffer reaches RocksDB at generation g, `since` is raised to g, then the
 *					entries of its pages go, and only then is g required of views (MembufRelease).  Who
 *					inserts compares `since` with the generation of what he read, under the partition's
 *					lock: if he saw an old value, the lock was his before the flush took it to remove the
 *					page.
 *	not too new		What RocksDB has and a view's buffers have as well counts once, as always (README.md).
 *					So a flush may put its pages here before RocksDB has them: those that are here already
 *					are united with what it writes, for to read them again would cost the next reader a get.
 *					They stay when the others go.
 *	pruned since	What a compaction drops nobody can see; an entry may have it still.  But the fates of old
 *					transactions are forgotten once VACUUM has made sure that no file asks for them, and an
 *					entry could: each carries the oldest transaction id that it could ask for, and is not used
 *					when the commit log may not know that one any more.
 *
 * A page that is too large is put here cut for its reader's snapshot: each chain ends behind the first entry
 * that this snapshot sees and that has committed (README.md).
 *
 * A partition is a ring of blocks that fill its memory from end to end. Space is made by going round it: what
 * has been used since the last time round stays, once; what is pinned stays in any case, found or not.  A pin
 * is taken under the partition's lock and let go without it; blocks are only made of others under the
 * exclusive lock, when their pins are none.
 *
 * A ring is cut into segments, and the first segments of all rings lie together, then the second ones: what
 * is in use is dense, however little that is, and a processor translates addresses of fewer page tables.
 */
#include "postgres.h"

#include "access/transam.h"
#include "access/xlog.h"
#include "port/pg_bitutils.h"
#include "storage/shmem.h"
#include "utils/snapmgr.h"

#include "store/store_internal.h"

#define NO_BLOCK			PG_UINT32_MAX
#define ALIGNMENT			64
#define BUCKET_BYTES		4096	/* of the ring for each bucket, at most */
#define LOOK_BLOCKS			4096	/* at most for space, for others wait meanwhile */
#define EXPECT_LINES		6		/* a block's head, and the directory of an ordinary page */
#define SEGMENT_BYTES		(2 * (uint32) STORE_LARGEST_SHARED)	/* no block reaches over its end */

struct StorePinned
{
	uint32		size;			/* of the block, with this; a multiple of ALIGNMENT */
	uint32		next;			/* in the bucket, offset */
	uint32		len;			/* of the page */
	BlockNumber page;
	OrbitStorageId storage;		/* ORBIT_INVALID_STORAGE: not to be found */
	TransactionId oldest;		/* whose fate a reader could ask for, or invalid */
	TransactionId newest;		/* see StorePage, as plain */
	uint64		renewed;		/* number of the newest write buffer that a flush has put into it, or 0 */
	TransactionId cut_newest;	/* of the entries behind which chains were cut; invalid: all are whole */
	uint16		nchains;
	bool		exists;			/* false: RocksDB has no such page */
	bool		plain;
	pg_atomic_uint32 used;
	pg_atomic_uint32 pins;
};

typedef struct StorePinned Block;

#define HEADER				TYPEALIGN(8, sizeof(Block))

/* What a page's readers could ask the commit log. */
typedef struct Fates
{
	TransactionId oldest;		/* that could be asked for, or invalid */
	TransactionId newest;		/* the same */
	bool		plain;			/* see StorePage */
	TransactionId cut_newest;	/* see StorePinned */
} Fates;

typedef struct Partition
{
	LWLock	   *lock;
	uint32		hand;			/* offset of the next block to be looked at for space */
	uint32	   *buckets;
	char	   *ring;			/* its first segment */
} Partition;

typedef struct SharedPages
{
	pg_atomic_uint64 since;		/* pages read at older generations are not inserted */
	int			npartitions;
	uint32		bytes;			/* of a partition's ring, whole segments */
	int			bucket_shift;	/* the bits of a hash above it choose a bucket */
	Partition	partitions[FLEXIBLE_ARRAY_MEMBER];
} SharedPages;

static SharedPages *pages = NULL;

/* ---- shared memory ------------------------------------------------------------------- */

static uint32
RingBytes(void)
{
	Size		bytes = (Size) orbit_page_cache_size * 1024 / OrbitPagePartitions();

	return bytes / SEGMENT_BYTES * SEGMENT_BYTES;
}

static int
BucketBits(void)
{
	return pg_ceil_log2_32(RingBytes() / BUCKET_BYTES);
}

static Size
HeadSize(void)
{
	return TYPEALIGN(ALIGNMENT, offsetof(SharedPages, partitions) +
					 OrbitPagePartitions() * sizeof(Partition));
}

static Size
BucketsSize(void)
{
	return TYPEALIGN(ALIGNMENT, sizeof(uint32) << BucketBits());
}

Size
StoreSharedPagesShmemSize(void)
{
	return add_size(add_size(HeadSize(), ALIGNMENT),
					mul_size(OrbitPagePartitions(), add_size(BucketsSize(), RingBytes())));
}

/* From a segment of a ring to the next one. */
static inline Size
Stride(void)
{
	return (Size) pages->npartitions * SEGMENT_BYTES;
}

/* Offsets count the bytes of the ring, one segment behind the other. */
static inline Block *
BlockAt(const Partition *p, uint32 offset)
{
	return (Block *) (p->ring + offset / SEGMENT_BYTES * Stride() + offset % SEGMENT_BYTES);
}

static uint32
OffsetOf(const Partition *p, const Block *b)
{
	Size		distance = (const char *) b - p->ring;

	return distance / Stride() * SEGMENT_BYTES + distance % Stride();
}

/* A block that nobody can find. */
static Block *
InitBlock(const Partition *p, uint32 offset, uint32 size)
{
	Block	   *b = BlockAt(p, offset);

	memset(b, 0, sizeof(Block));
	b->size = size;
	b->storage = ORBIT_INVALID_STORAGE;
	pg_atomic_init_u32(&b->used, 0);
	pg_atomic_init_u32(&b->pins, 0);
	return b;
}

static void
InitPartition(Partition *p, LWLock *lock, char *buckets, char *ring)
{
	p->lock = lock;
	p->ring = ring;
	p->hand = 0;
	p->buckets = (uint32 *) buckets;
	for (int i = 0; i < 1 << BucketBits(); i++)
		p->buckets[i] = NO_BLOCK;
	for (uint32 at = 0; at < pages->bytes; at += SEGMENT_BYTES)
		(void) InitBlock(p, at, SEGMENT_BYTES);
}

void
StoreSharedPagesShmemInit(void)
{
	bool		found;
	char	   *buckets;
	char	   *ring;

	pages = ShmemInitStruct("orbit pages", StoreSharedPagesShmemSize(), &found);
	if (found)
		return;
	pg_atomic_init_u64(&pages->since, 0);
	pages->npartitions = OrbitPagePartitions();
	pages->bytes = RingBytes();
	pages->bucket_shift = 64 - BucketBits();
	buckets = (char *) TYPEALIGN(ALIGNMENT, (char *) pages + HeadSize());
	ring = buckets + pages->npartitions * BucketsSize();
	for (int i = 0; i < pages->npartitions; i++)
		InitPartition(&pages->partitions[i], &orbit_page_locks[i].lock, buckets + i * BucketsSize(),
					  ring + (Size) i * SEGMENT_BYTES);
}

/* ---- finding ---------------------------------------------------------------------------- */

static inline Partition *
FindPartition(OrbitStorageId storage, BlockNumber page, uint32 **bucket)
{
	uint64		h = StorePageHash(storage, page);
	Partition  *p = &pages->partitions[(h >> 32) % pages->npartitions];

	*bucket = &p->buckets[h >> pages->bucket_shift];
	return p;
}

static Block *
Find(Partition *p, const uint32 *bucket, OrbitStorageId storage, BlockNumber page)
{
	for (uint32 at = *bucket; at != NO_BLOCK; at = BlockAt(p, at)->next)
	{
		Block	   *b = BlockAt(p, at);

		if (b->page == page && b->storage == storage)
			return b;
	}
	return NULL;
}

/* May the commit log be asked about a page's transactions? */
static inline bool
FatesKnown(TransactionId oldest)
{
	return !TransactionIdIsValid(oldest) ||
		!TransactionIdPrecedes(oldest, ShmemVariableCache->oldestClogXid);
}

static inline void
Pin(Block *b, CodecPage *image)
{
	pg_atomic_fetch_add_u32(&b->pins, 1);
	image->data = (char *) b + HEADER;
	image->size = b->len;
	image->nchains = b->nchains;
}

/* Does the reader need nothing below the end of any chain?  cut NULL: does nobody? */
static bool
AllEnough(const CodecPage *image, const StoreCut *cut)
{
	for (int chain = 0; chain < image->nchains; chain++)
	{
		const CodecEntry *last = CodecPageChain(image, chain, NULL);
		const CodecEntry *e = last;

		for (; e != NULL; e = CodecPageOlder(image, chain, e))
			last = e;
		if (!StoreIsBottom(last) && (cut == NULL || !cut->enough(last, cut->arg)))
			return false;
	}
	return true;
}

/* Not with its partition's lock: this may have to wait for the commit log. */
bool
StoreSharedPagesServes(const StorePinned *b, const StoreCut *cut)
{
	CodecPage	image = {(const char *) b + HEADER, b->len, b->nchains};

	if (likely(!TransactionIdIsValid(b->cut_newest)))
		return true;
	return cut != NULL && (cut->one_chain || TransactionIdPrecedes(b->cut_newest, cut->xmin) ||
						   AllEnough(&image, cut));
}

bool
StoreSharedPagesFind(OrbitStorageId storage, BlockNumber page, bool mark, StorePinned **pinned,
					 CodecPage *image)
{
	uint32	   *bucket;
	Partition  *p;
	Block	   *b;

	*pinned = NULL;
	p = FindPartition(storage, page, &bucket);
	LWLockAcquire(p->lock, LW_SHARED);
	b = Find(p, bucket, storage, page);
	if (b != NULL && !FatesKnown(b->oldest))
		b = NULL;
	if (b != NULL && mark && pg_atomic_read_u32(&b->used) == 0)
		pg_atomic_write_u32(&b->used, 1);
	if (b != NULL && b->exists)
	{
		Pin(b, image);
		*pinned = b;
	}
	LWLockRelease(p->lock);
	return b != NULL;
}

/*
 * Without the lock: the offset may be any that was ever stored here, and each lies in the ring.  Nothing is
 * read but the bucket of the next page, which was fetched when the page before was announced.
 */
void
StoreSharedPagesExpect(OrbitStorageId storage, BlockNumber next, BlockNumber after)
{
	uint32	   *bucket;
	Partition  *p;
	uint32		at;

	(void) FindPartition(storage, after, &bucket);
	__builtin_prefetch(bucket);
	p = FindPartition(storage, next, &bucket);
	__builtin_prefetch(p->lock);
	at = *(volatile uint32 *) bucket;
	if (at == NO_BLOCK)
		return;
	for (int line = 0; line < EXPECT_LINES; line++)
		__builtin_prefetch((char *) BlockAt(p, at) + line * 64);
}

/*
 * No lock: a flush makes blocks impossible to find before views need what it brought, and a view that needs
 * it has seen that (MembufPinAcquire); while it is pinned a block is not made another one.
 */
bool
StoreSharedPagesStands(const StorePinned *pinned)
{
	return pinned->storage != ORBIT_INVALID_STORAGE && FatesKnown(pinned->oldest);
}

bool
StoreSharedPagesPlain(const StorePinned *pinned, TransactionId *newest)
{
	*newest = pinned->newest;
	return pinned->plain;
}

bool
StorePageFatesKnown(const StorePage *p)
{
	return p->pinned != NULL && FatesKnown(p->pinned->oldest);
}

void
StoreSharedPagesPinAgain(StorePinned *pinned)
{
	Assert(pg_atomic_read_u32(&pinned->pins) > 0);
	pg_atomic_fetch_add_u32(&pinned->pins, 1);
}

/* A full barrier: whatever was read has been read before. */
void
StoreSharedPagesUnpin(StorePinned *pinned)
{
	Assert(pg_atomic_read_u32(&pinned->pins) > 0);
	pg_atomic_fetch_sub_u32(&pinned->pins, 1);
}

/* ---- changing ----------------------------------------------------------------------------- */

static void
Unlink(Partition *p, Block *b)
{
	uint32	   *link;
	uint32		at = OffsetOf(p, b);

	(void) FindPartition(b->storage, b->page, &link);
	while (*link != at)
		link = &BlockAt(p, *link)->next;
	*link = b->next;
	b->storage = ORBIT_INVALID_STORAGE;
}

/* Blocks from `from` on become one of at least `size` bytes, which is returned as large as it must be. */
static Block *
Take(Partition *p, uint32 from, uint32 have, uint32 size)
{
	if (have - size >= ALIGNMENT)
		(void) InitBlock(p, from + size, have - size);
	else
		size = have;
	p->hand = from + size;
	return InitBlock(p, from, size);
}

/*
 * Goes round: free blocks and those that nobody has used are put together until they are enough.  After one
 * time round nothing is marked any more, so the second one finds space, but for pins; NULL then, or where
 * this takes too long: the next one goes on from there.
 */
static Block *
MakeSpace(Partition *p, uint32 size)
{
	uint32		from = p->hand;
	uint32		have = 0;
	int			looked = 0;

	for (int rounds = 0; rounds < 3 && looked < LOOK_BLOCKS; looked++)
	{
		Block	   *b;

		if (have != 0 && (from + have) % SEGMENT_BYTES == 0)
		{
			from += have;
			have = 0;
		}
		if (from >= pages->bytes)
		{
			from = 0;
			rounds++;
		}
		b = BlockAt(p, from + have);
		if (pg_atomic_read_u32(&b->pins) != 0 ||
			(b->storage != ORBIT_INVALID_STORAGE && pg_atomic_exchange_u32(&b->used, 0) != 0))
		{
			from += have + b->size;
			have = 0;
			continue;
		}
		if (b->storage != ORBIT_INVALID_STORAGE)
			Unlink(p, b);
		have += b->size;
		if (have >= size)
			return Take(p, from, have, size);
	}
	p->hand = from < pages->bytes ? from : 0;
	return NULL;
}

/* In place of `old`, which may be NULL. */
static Block *
Replace(Partition *p, uint32 *bucket, Block *old, OrbitStorageId storage, BlockNumber page,
		const Fates *fates, const CodecPage *image)
{
	uint32		len = image != NULL ? image->size : 0;
	Block	   *b;

	if (old != NULL)
		Unlink(p, old);
	b = MakeSpace(p, TYPEALIGN(ALIGNMENT, HEADER + len));
	if (b == NULL)
		return NULL;
	b->storage = storage;
	b->page = page;
	b->len = len;
	b->exists = image != NULL;
	b->oldest = fates->oldest;
	b->newest = fates->newest;
	b->plain = fates->plain;
	b->cut_newest = fates->cut_newest;
	if (image != NULL)
	{
		b->nchains = image->nchains;
		OrbitTouch(b, b->size);
		memcpy((char *) b + HEADER, image->data, len);
	}
	b->next = *bucket;
	*bucket = OffsetOf(p, b);
	return b;
}

static Block *
Insert(Partition *p, uint32 *bucket, OrbitStorageId storage, BlockNumber page,
	   const Fates *fates, const CodecPage *image, bool cut_too)
{
	Block	   *b = Find(p, bucket, storage, page);

	/* somebody else was faster; but a page that was cut for a later snapshot does not serve this one */
	if (b != NULL && FatesKnown(b->oldest) && (!TransactionIdIsValid(b->cut_newest) || cut_too))
		return b;
	return Replace(p, bucket, b, storage, page, fates, image);
}

static bool
IsPlain(const CodecEntry *e)
{
	return CodecEntryKind(e) == CODEC_INSERT && !(e->kind_flags & CODEC_SPECULATIVE);
}

/*
 * The log is not cut off meanwhile.  A standby sets the parts of a large transaction one after the other, and
 * knows of no parent in between: there it is asked of those only that had ended before our snapshot.
 */
static bool
HasCommitted(TransactionId xid)
{
	bool		committed;

	if (RecoveryInProgress() && !TransactionIdPrecedes(xid, RecentXmin))
		return false;
	LWLockAcquire(XactTruncationLock, LW_SHARED);
	committed = FatesKnown(xid) && TransactionIdDidCommit(xid);
	LWLockRelease(XactTruncationLock);
	return committed;
}

/* An entry that is not frozen. */
static void
NoteFate(Fates *f, const CodecEntry *e)
{
	if (!TransactionIdIsNormal(e->xid))
	{
		f->plain = false;
		return;
	}
	if (e->xid == f->newest)
		return;
	if (!TransactionIdIsValid(f->oldest) || TransactionIdPrecedes(e->xid, f->oldest))
		f->oldest = e->xid;
	if (!TransactionIdIsValid(f->newest) || TransactionIdPrecedes(f->newest, e->xid))
		f->newest = e->xid;
	f->plain = f->plain && HasCommitted(e->xid);
}

/* plain: whether it is one is to be found out. */
static void
PageFates(const CodecPage *page, bool plain, Fates *f)
{
	*f = (Fates) {.plain = plain};
	for (int chain = 0; chain < page->nchains; chain++)
	{
		const CodecEntry *e = CodecPageChain(page, chain, NULL);

		for (; e != NULL; e = CodecPageOlder(page, chain, e))
		{
			if (!IsPlain(e))
				f->plain = false;
			if (CodecEntryKind(e) != CODEC_DEADSLOT && !(e->kind_flags & CODEC_FROZEN))
				NoteFate(f, e);
		}
	}
}

bool
StoreFatesKnown(const CodecPage *page)
{
	Fates		f;

	PageFates(page, false, &f);
	return FatesKnown(f.oldest);
}

/* Cuts a page that is too large, in memory that lasts until the next one; false: it is too large even so. */
static bool
CutLarge(const CodecPage **image, CodecPage *small, const StoreCut *cut, TransactionId *newest)
{
	static CodecBuf buf;		/* static: an ERROR on the way leaves nothing to free */

	*newest = InvalidTransactionId;
	if (*image == NULL || (*image)->size <= STORE_LARGEST_SHARED)
		return true;
	buf.len = 0;
	if (cut == NULL || cut->enough == NULL || !StoreCutPage(*image, cut, &buf, newest))
		return false;
	CodecPageOpenBuilt(small, buf.data, buf.len);
	*image = small;
	return true;
}

StorePinned *
StoreSharedPagesPut(OrbitStorageId storage, BlockNumber page, uint64 generation,
					const CodecPage *image, const StoreCut *cut, CodecPage *shared)
{
	Fates		fates = {0};
	CodecPage	small;
	TransactionId newest;
	uint32	   *bucket;
	Partition  *p;
	Block	   *b = NULL;

	if (!CutLarge(&image, &small, cut, &newest))
		return NULL;
	if (image != NULL)
		PageFates(image, true, &fates);
	fates.cut_newest = newest;
	OrbitStopPoint("shared_page_put");
	p = FindPartition(storage, page, &bucket);
	LWLockAcquire(p->lock, LW_EXCLUSIVE);
	if (generation >= pg_atomic_read_u64(&pages->since))
		b = Insert(p, bucket, storage, page, &fates, image, cut != NULL && cut->one_chain);
	if (b != NULL && b->exists && image != NULL)
		Pin(b, shared);
	else
		b = NULL;
	LWLockRelease(p->lock);
	return b;
}

/*
 * The commit log is asked about the delta's transactions only, as the flush does anyway: those of a page that
 * was plain have committed, and an old one that cannot be read must not keep a flush from its end.
 */
static void
RenewedFates(const CodecPage *delta, bool was_plain, const CodecPage *image, Fates *f)
{
	Fates		added;

	PageFates(delta, was_plain, &added);
	PageFates(image, false, f);
	f->plain = added.plain;
}

/* In place of `united`, unless somebody else has put another there meanwhile. */
static void
PutRenewed(OrbitStorageId storage, BlockNumber page, uint64 seq, const Fates *fates,
		   const CodecPage *image, const StorePinned *united)
{
	uint32	   *bucket;
	Partition  *p;
	Block	   *old;
	Block	   *b;
	uint32		used;

	p = FindPartition(storage, page, &bucket);
	LWLockAcquire(p->lock, LW_EXCLUSIVE);
	old = Find(p, bucket, storage, page);
	if (old != NULL && old == united)
	{
		used = pg_atomic_read_u32(&old->used);
		b = Replace(p, bucket, old, storage, page, fates, image);
		if (b != NULL)
		{
			b->renewed = seq;
			pg_atomic_write_u32(&b->used, used);
		}
	}
	LWLockRelease(p->lock);
}

void
StoreSharedPagesRenew(KvDb *db, OrbitStorageId storage, BlockNumber page, const void *delta, Size len,
					  uint64 seq, CodecBuf *buf)
{
	char		key[CODEC_PAGE_KEY_SIZE];
	StorePinned *pinned;
	CodecPage	base;
	CodecPage	added;
	CodecPage	image;
	CodecPart	parts[2];
	Fates		fates;

	if (len > STORE_LARGEST_SHARED ||
		!StoreSharedPagesFind(storage, page, false, &pinned, &base) || pinned == NULL)
		return;
	parts[0] = (CodecPart) {delta, len};
	parts[1] = (CodecPart) {base.data, base.size};
	CodecPageKey(key, storage, page);
	buf->len = 0;
	if (KvUnitePages(db, key, sizeof(key), parts, lengthof(parts), buf) &&
		buf->len <= STORE_LARGEST_SHARED && CodecPageOpen(&added, delta, len) &&
		CodecPageOpen(&image, buf->data, buf->len) && image.nchains > 0)
	{
		RenewedFates(&added, pinned->plain, &image, &fates);
		fates.cut_newest = AllEnough(&image, NULL) ? InvalidTransactionId : pinned->cut_newest;
		PutRenewed(storage, page, seq, &fates, &image, pinned);
	}
	StoreSharedPagesUnpin(pinned);
}

void
StoreSharedPagesKeep(OrbitStorageId storage, BlockNumber page, uint64 seq)
{
	uint32	   *bucket;
	Partition  *p = FindPartition(storage, page, &bucket);
	Block	   *b;

	LWLockAcquire(p->lock, LW_EXCLUSIVE);
	b = Find(p, bucket, storage, page);
	if (b != NULL)
		b->renewed = seq;
	LWLockRelease(p->lock);
}

/* Transactions older than the commit log seem to be of the future once 2^31 have come after them. */
void
StoreForgetOldPages(void)
{
	static TransactionId looked_at = InvalidTransactionId;
	TransactionId oldest = ShmemVariableCache->oldestClogXid;

	if (oldest == looked_at)
		return;
	looked_at = oldest;
	for (int i = 0; i < pages->npartitions; i++)
	{
		Partition  *p = &pages->partitions[i];
		Block	   *b;

		LWLockAcquire(p->lock, LW_EXCLUSIVE);
		for (uint32 at = 0; at < pages->bytes; at += b->size)
		{
			b = BlockAt(p, at);
			if (b->storage != ORBIT_INVALID_STORAGE && !FatesKnown(b->oldest))
				Unlink(p, b);
		}
		LWLockRelease(p->lock);
	}
}

void
StoreSharedPagesFlushed(uint64 seq, uint64 generation)
{
	char		from[CODEC_PAGE_KEY_SIZE] = {0};
	MembufIter	it;
	bool		on;

	(void) StoreRaiseAtomic(&pages->since, generation);
	MembufIterInit(&it, seq);
	for (on = MembufIterSeek(&it, ORBIT_PG_DATA, from, sizeof(from)); on; on = MembufIterNext(&it))
	{
		const char *key;
		Size		len;
		OrbitStorageId storage;
		BlockNumber page;
		uint32	   *bucket;
		Partition  *p;
		Block	   *b;

		if (MembufIterKey(&it, &key, &len) != ORBIT_PG_DATA)
			break;
		/* the flush would have failed over it */
		if (!CodecPageKeyParse(key, len, &storage, &page))
			continue;
		p = FindPartition(storage, page, &bucket);
		LWLockAcquire(p->lock, LW_EXCLUSIVE);
		b = Find(p, bucket, storage, page);
		if (b != NULL && b->renewed != seq)
			Unlink(p, b);
		LWLockRelease(p->lock);
	}
}
