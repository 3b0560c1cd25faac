/*
 * membuf_test.c: src/membuf/arena.c alone, without a server: the ordered map of a
 * write buffer, by one thread against a model and by many at once.  Prints TAP.
 *
 *   cc -std=gnu11 -g -O1 -DUSE_ASSERT_CHECKING=1 -Isrc -It/unit -I(server headers) \
 *      t/unit/membuf_test.c -lpthread -o membuf_test
 *   ./membuf_test [seed]
 *
 * Run it under -fsanitize=thread and -fsanitize=address,undefined as well.
 */
#include <pthread.h>

#include "membuf/arena.c"

#undef printf
#undef snprintf
#undef qsort

#include "tap.h"

#define WRITERS		4
#define READERS		2

/* ---- what arena.c needs of its surroundings ----------------------------------- */

void
ArenaOverrun(void)
{
	printf("Bail out! a reservation is too small\n");
	abort();
}

void
ExceptionalCondition(const char *condition, const char *type, const char *file, int line)
{
	printf("Bail out! %s(%s) at %s:%d\n", type, condition, file, line);
	abort();
}

/* ---- chance ------------------------------------------------------------------------ */

static uint64 seed = 20240611;

static uint32
Random(uint64 *state, uint32 below)
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32) ((*state >> 20) % below);
}

static uint64
Reseed(uint64 salt)
{
	return (seed + salt) * UINT64CONST(0x9e3779b97f4a7c15) | 1;
}

/* ---- arenas ------------------------------------------------------------------------ */

static Arena *
NewArena(Size bytes)
{
	void	   *p = NULL;

	if (posix_memalign(&p, 128, bytes) != 0)
		abort();
	memset(p, 0xA5, bytes);		/* nothing may rely on zeros */
	ArenaOpen(p, 1, bytes / ARENA_UNIT, 0);
	return p;
}

static void
InitFinger(ArenaFinger *f, uint64 salt)
{
	f->random = Reseed(salt);
	ArenaFingerReset(f, 1);
}

static bool
Reserve(Arena *a, MembufReservation *r, Size bytes)
{
	r->seq = 1;
	return ArenaReserve(a, ArenaUnits(bytes), ArenaUnits(bytes), &r->next, &r->end);
}

static void
MakePageKey(char key[CODEC_PAGE_KEY_SIZE], uint64 storage, uint32 page)
{
	for (int i = 0; i < 8; i++)
		key[i] = (char) (storage >> (56 - 8 * i));
	for (int i = 0; i < 4; i++)
		key[8 + i] = (char) (page >> (24 - 8 * i));
}

static uint32
PageOf(const ArenaNode *n)
{
	const unsigned char *k = (const unsigned char *) ArenaNodeKey(n) + 8;

	return (uint32) k[0] << 24 | k[1] << 16 | k[2] << 8 | k[3];
}

/* The payload's bytes follow from xid and cid, so a torn one is found out. */
static void
FillPayload(char *p, uint32 len, uint32 xid, uint32 cid)
{
	for (uint32 i = 0; i < len; i++)
		p[i] = (char) (xid * 31 + cid * 7 + i);
}

static bool
EntryIntact(const CodecEntry *e)
{
	if ((uintptr_t) e % 8 != 4 || e->len > 300)
		return false;
	for (uint32 i = 0; i < e->len; i++)
		if (e->payload[i] != (char) (e->xid * 31 + e->cid * 7 + i))
			return false;
	return true;
}

static Size
PushCost(uint32 len)
{
	return ArenaPageCost() + ARENA_GROUP_BYTES + CODEC_NODE_SIZE(len);
}

/* False: the arena is full. */
static bool
Push(Arena *a, ArenaFinger *f, uint64 storage, uint32 page, int slot, uint32 xid, uint32 cid,
	 uint32 len)
{
	CodecEntry	header = {.len = len, .xid = xid, .cid = cid, .kind_flags = CODEC_UPDATE};
	MembufReservation r;
	char		payload[300];
	char		key[CODEC_PAGE_KEY_SIZE];
	ArenaNode  *n;

	if (!Reserve(a, &r, PushCost(len)))
		return false;
	FillPayload(payload, len, xid, cid);
	MakePageKey(key, storage, page);
	n = ArenaPageGet(a, f, &r, key);
	ArenaPagePush(a, &r, n, slot, &header, payload, ArenaPageNewest(n, slot));
	return true;
}

static bool
KvPut(Arena *a, ArenaFinger *f, int family, const char *key, Size keylen, MembufOp op,
	  const void *value, Size valuelen)
{
	ArenaKey	k = {family, keylen, key};
	MembufReservation r;

	if (!Reserve(a, &r, ArenaKvCost(keylen, valuelen)))
		return false;
	ArenaKvPublish(a, f, &r, &k, op, value, valuelen);
	return true;
}

static int
NodeOrder(const ArenaNode *a, const ArenaNode *b)
{
	ArenaKey	k = {b->family, b->keylen, ArenaNodeKey(b)};

	return NodeCompare(a, &k);
}

static ArenaNode *
First(Arena *a, ArenaFinger *f)
{
	ArenaKey	k = {0, 0, ""};

	return ArenaSeek(a, f, &k);
}

static ArenaNode *
Last(Arena *a, ArenaFinger *f)
{
	ArenaKey	k = {0xff, 0, ""};

	return ArenaSeekForPrev(a, f, &k);
}

/* Walks both ways; the number of nodes, or -1 when the order or the count is wrong. */
static int
CountBothWays(Arena *a, ArenaFinger *f)
{
	int			forth = 0;
	int			back = 0;
	ArenaNode  *n;
	ArenaNode  *next;

	for (n = First(a, f); n != NULL; n = next)
	{
		forth++;
		next = ArenaNext(a, n);
		if (next != NULL && NodeOrder(n, next) >= 0)
			return -1;
	}
	for (n = Last(a, f); n != NULL; n = next)
	{
		back++;
		next = ArenaPrev(a, f, n);
		if (next != NULL && NodeOrder(next, n) >= 0)
			return -1;
	}
	return forth == back ? forth : -1;
}

/* ---- one thread --------------------------------------------------------------------- */

static void
TestEmpty(void)
{
	Arena	   *a = NewArena(64 * 1024);
	ArenaFinger f;
	char		key[CODEC_PAGE_KEY_SIZE];

	InitFinger(&f, 1);
	MakePageKey(key, 1, 1);
	Ok(First(a, &f) == NULL && Last(a, &f) == NULL && ArenaPageLookup(a, &f, key) == NULL,
	   "an empty arena has nothing");
	free(a);
}

static void
TestSlots(void)
{
	Arena	   *a = NewArena(1024 * 1024);
	ArenaFinger f;
	char		key[CODEC_PAGE_KEY_SIZE];
	const CodecEntry *e;
	ArenaNode  *n;
	bool		good = true;
	int			slot = 0;

	InitFinger(&f, 2);
	for (int i = ORBIT_MAX_SLOT; i >= 1; i--)
		good &= Push(a, &f, 7, 42, i, 100 + i, 0, i);
	MakePageKey(key, 7, 42);
	n = ArenaPageLookup(a, &f, key);
	for (int i = 1; i <= ORBIT_MAX_SLOT; i++)
	{
		slot = ArenaPageNextSlot(n, slot, &e);
		good &= slot == i && EntryIntact(e) && e->xid == 100 + i && e->len == i &&
			e == ArenaPageNewest(n, i) && ArenaOlder(a, e) == NULL;
	}
	good &= ArenaPageNextSlot(n, slot, &e) == 0 && e == NULL;
	Ok(good, "all 255 slots of a page, in order");

	for (int i = 0; i < 3; i++)
		Push(a, &f, 7, 43, i * 100 + 17, 1, 1, 0);
	MakePageKey(key, 7, 43);
	n = ArenaPageLookup(a, &f, key);
	good = ArenaPageNextSlot(n, 0, &e) == 17 && ArenaPageNextSlot(n, 17, &e) == 117 &&
		ArenaPageNextSlot(n, 117, &e) == 217 && ArenaPageNextSlot(n, 217, &e) == 0;
	good &= ArenaPageNewest(n, 1) == NULL && ArenaPageNewest(n, 18) == NULL &&
		ArenaPageNewest(n, 255) == NULL;
	Ok(good, "sparse slots");
	free(a);
}

static bool
ChainIs(Arena *a, ArenaNode *n, int slot, const char *cids)
{
	const CodecEntry *e = ArenaPageNewest(n, slot);

	for (; *cids; cids++, e = ArenaOlder(a, e))
		if (e == NULL || e->cid != (uint32) (*cids - '0') || !EntryIntact(e))
			return false;
	return e == NULL;
}

static void
TestBelow(void)
{
	Arena	   *a = NewArena(64 * 1024);
	ArenaFinger f;
	char		key[CODEC_PAGE_KEY_SIZE];
	CodecEntry	header = {.kind_flags = CODEC_LOCK, .xid = 5};
	const CodecEntry *first;
	const CodecEntry *seen;
	MembufReservation r;
	ArenaNode  *n;
	bool		good = true;

	InitFinger(&f, 3);
	for (uint32 cid = 1; cid <= 4; cid++)
		Push(a, &f, 1, 1, 9, 5, cid, 0);
	MakePageKey(key, 1, 1);
	n = ArenaPageLookup(a, &f, key);
	good = ChainIs(a, n, 9, "4321");
	seen = ArenaPageNewest(n, 9);
	first = ArenaOlder(a, ArenaOlder(a, ArenaOlder(a, seen)));
	good &= Reserve(a, &r, CODEC_NODE_SIZE(0));
	header.cid = 5;
	ArenaPagePush(a, &r, n, 9, &header, NULL, first);
	good &= ChainIs(a, n, 9, "51");
	/* a reader on its way through the old chain is not disturbed */
	good &= ArenaOlder(a, seen)->cid == 3;
	good &= Reserve(a, &r, CODEC_NODE_SIZE(0));
	header.cid = 6;
	ArenaPagePush(a, &r, n, 9, &header, NULL, NULL);
	good &= ChainIs(a, n, 9, "6");
	Ok(good, "a push below which entries are dropped");
	free(a);
}

static void
TestFull(void)
{
	Arena	   *a = NewArena(256 * 1024);
	MembufReservation r;
	Size		all = ArenaRoom(256 * 1024);
	bool		good;

	good = !Reserve(a, &r, all + 8) && Reserve(a, &r, all - 16);
	good &= r.next == ArenaFirst(a) && r.end == ArenaUnits(256 * 1024 - 16);
	good &= !Reserve(a, &r, 24) && Reserve(a, &r, 9) && !Reserve(a, &r, 1);
	Ok(good, "a full arena gives nothing and keeps what smaller ones need");
	ArenaOpen(a, 5, 256 * 1024 / ARENA_UNIT, 100);
	good = ArenaReserve(a, 1, UINT32_MAX / 2, &r.next, &r.end) &&
		r.next == ArenaFirst(a) + 100 && r.end == 256 * 1024 / ARENA_UNIT;
	Ok(good, "an arena opened anew; a chunk takes what is left");
	free(a);
}

/* More pages than the index has words: whether they are there is known of each, as long as it grows. */
static void
TestIndex(void)
{
	Size		bytes = 1024 * 1024;
	Arena	   *a = NewArena(bytes);
	uint32		words = bytes / ARENA_INDEX_SHARE / 4;
	uint32		used = 0;
	uint32		pages = 0;
	ArenaFinger f;
	ArenaFinger g;
	MembufReservation r;
	char		key[CODEC_PAGE_KEY_SIZE];
	bool		good = true;

	InitFinger(&f, 6);
	InitFinger(&g, 8);
	for (; Reserve(a, &r, ArenaPageCost()); pages++)
	{
		uint32		other = pages == 0 ? 0 : (uint32) Reseed(pages) % pages;

		MakePageKey(key, pages % 3, pages);
		good &= ArenaPageLookup(a, &g, key) == NULL;
		good &= PageOf(ArenaPageGet(a, &f, &r, key)) == pages;
		good &= ArenaPageLookup(a, &g, key) == ArenaPageGet(a, &f, &r, key);
		MakePageKey(key, other % 3, other);
		good &= other == 0 || PageOf(ArenaPageLookup(a, &g, key)) == other;
		MakePageKey(key, other % 3 + 1, other);
		good &= ArenaPageLookup(a, &g, key) == NULL;
	}
	for (uint32 i = 0; i < words; i++)
		used += ((uint32 *) (a + 1))[i] != 0;
	good &= CountBothWays(a, &f) == (int) pages;
	printf("# %u pages, %u of %u words\n", pages, used, words);
	Ok(good && pages > used && used > words - words / 8, "an index that becomes full");
	free(a);
}

/* A page that its maker has linked and not yet put into the index: whoever finds it in the list does that. */
static void
TestIndexHelp(void)
{
	Arena	   *a = NewArena(1024 * 1024);
	ArenaFinger maker;
	MembufReservation r;
	bool		good = true;

	InitFinger(&maker, 6);
	for (uint32 page = 0; page < 2; page++)
	{
		char		key[CODEC_PAGE_KEY_SIZE];
		ArenaKey	k = PageKey(key);
		ArenaFinger other;
		uint32		place;
		bool		full;

		InitFinger(&other, 8);
		MakePageKey(key, 1, page);
		good &= Reserve(a, &r, ArenaPageCost()) && Find(a, &maker, &k) == 0;
		place = MakeNode(a, &maker, &r, &k, true);
		((ArenaNode *) ArenaAt(a, place))->head = place;
		memset(PageGroups(ArenaAt(a, place)), 0, ARENA_GROUPS * sizeof(uint32));
		good &= LinkNode(a, &maker, &k, place) == place;
		good &= IndexFind(a, &k, HashKey(&k), &full) == 0 && !full;
		if (page == 0)
			good &= ArenaPageGet(a, &other, &r, key) == ArenaAt(a, place);
		else
			good &= ArenaPageLookup(a, &other, key) == ArenaAt(a, place) && other.page == place;
		good &= IndexFind(a, &k, HashKey(&k), &full) == place;
		IndexAdd(a, HashKey(&k), place);	/* the maker comes to it */
		for (int i = 0, n = 0; i < ARENA_BUCKET_WORDS; i++)
		{
			n += Bucket(a, HashKey(&k))[i] == IndexWord(a, HashKey(&k), place);
			good &= n <= 1;
		}
	}
	Ok(good, "a page that has not come to the index is put there by whoever finds it");
	free(a);
}

/* Every key length; the cost is enough whatever the heights. */
static void
TestKeyLengths(void)
{
	Arena	   *a = NewArena(32 * 1024 * 1024);
	ArenaFinger f;
	char		key[MEMBUF_MAX_KEY];
	bool		good = true;
	int			len = 0;

	InitFinger(&f, 4);
	memset(key, 'x', sizeof(key));
	for (int i = 0; i <= MEMBUF_MAX_KEY; i++)
	{
		int			l = (i * 1231) % (MEMBUF_MAX_KEY + 1);

		good &= KvPut(a, &f, ORBIT_PG_INDEXES, key, l, MEMBUF_PUT, &l, sizeof(l));
		good &= KvPut(a, &f, ORBIT_PG_TABLES, key, l, MEMBUF_TOMBSTONE, NULL, 0);
	}
	for (ArenaNode *n = First(a, &f); n != NULL; n = ArenaNext(a, n), len++)
	{
		MembufOp	op;
		const char *value;
		Size		valuelen;
		bool		put = len <= MEMBUF_MAX_KEY;

		ArenaKvValue(a, n, &op, &value, &valuelen);
		good &= n->keylen == len % (MEMBUF_MAX_KEY + 1) && (uintptr_t) value % 8 == 0;
		good &= op == (put ? MEMBUF_PUT : MEMBUF_TOMBSTONE) &&
			valuelen == (put ? sizeof(int) : 0);
		good &= !put || *(const int *) value == len;
	}
	good &= len == 2 * (MEMBUF_MAX_KEY + 1) && CountBothWays(a, &f) == len;
	Ok(good, "keys of every length, prefixes first, families apart");
	free(a);
}

#define MODEL_KEYS	3000

typedef struct ModelKey
{
	uint8		len;
	char		data[12];
	int			value;			/* -1: absent */
} ModelKey;

static int
ModelOrder(const void *x, const void *y)
{
	const ModelKey *a = x;
	const ModelKey *b = y;
	int			c = memcmp(a->data, b->data, Min(a->len, b->len));

	return c != 0 ? c : (int) a->len - (int) b->len;
}

static int
MakeModel(ModelKey *keys, uint64 *chance)
{
	int			n = 0;

	for (int i = 0; i < MODEL_KEYS; i++)
	{
		keys[i].len = Random(chance, 13);
		for (int j = 0; j < keys[i].len; j++)
			keys[i].data[j] = (char) (Random(chance, 4) * 85);
		keys[i].value = -1;
	}
	qsort(keys, MODEL_KEYS, sizeof(ModelKey), ModelOrder);
	for (int i = 0; i < MODEL_KEYS; i++)
		if (n == 0 || ModelOrder(&keys[n - 1], &keys[i]) != 0)
			keys[n++] = keys[i];
	return n;
}

static bool
NodeIsModel(Arena *a, ArenaNode *n, const ModelKey *keys, int nkeys, int i)
{
	ArenaKey	k = {ORBIT_PG_INDEXES, 0, NULL};
	MembufOp	op;
	const char *value;
	Size		valuelen;

	if (i < 0 || i >= nkeys)
		return n == NULL;
	k.len = keys[i].len;
	k.data = keys[i].data;
	if (n == NULL || !ArenaNodeIs(n, &k))
		return false;
	ArenaKvValue(a, n, &op, &value, &valuelen);
	return *(const int *) value == keys[i].value;
}

/* Puts, seeks both ways and steps from a random key, compared with a sorted array. */
static void
TestModel(void)
{
	Arena	   *a = NewArena(16 * 1024 * 1024);
	ModelKey   *keys = malloc(MODEL_KEYS * sizeof(ModelKey));
	uint64		chance = Reseed(5);
	int			nkeys = MakeModel(keys, &chance);
	ArenaFinger f;
	bool		good = true;

	InitFinger(&f, 5);
	for (int round = 0; round < 60000 && good; round++)
	{
		int			i = Random(&chance, nkeys);
		int			up = i;
		int			down = i;
		ArenaKey	k = {ORBIT_PG_INDEXES, keys[i].len, keys[i].data};
		ArenaNode  *n;

		if (Random(&chance, 4) == 0)
		{
			keys[i].value = round;
			good &= KvPut(a, &f, ORBIT_PG_INDEXES, k.data, k.len, MEMBUF_PUT, &round,
						  sizeof(round));
		}
		while (up < nkeys && keys[up].value < 0)
			up++;
		while (down >= 0 && keys[down].value < 0)
			down--;
		n = ArenaSeek(a, &f, &k);
		good &= NodeIsModel(a, n, keys, nkeys, up);
		good &= NodeIsModel(a, ArenaSeekForPrev(a, &f, &k), keys, nkeys, down);
		if (n != NULL)
		{
			do
				up++;
			while (up < nkeys && keys[up].value < 0);
			good &= NodeIsModel(a, ArenaNext(a, n), keys, nkeys, up);
			for (down = i - 1; down >= 0 && keys[down].value < 0; down--)
				;
			good &= NodeIsModel(a, ArenaPrev(a, &f, n), keys, nkeys, down);
		}
	}
	Ok(good, "puts, seeks and steps agree with a sorted array");
	free(keys);
	free(a);
}

/* ---- many threads ----------------------------------------------------------------------- */

typedef struct Shared
{
	Arena	   *arena;
	int			mode;			/* 0 random pages, 1 rising pages */
	uint32		pages;
	uint32		rounds;
	int			stop;			/* readers: atomic */
	int			bad;			/* atomic */
	uint32		tail;			/* atomic: rising page number shared by the writers */
	uint32	   *pushed;			/* per page * 256 + slot, written by the slot's owner */
} Shared;

typedef struct Thread
{
	pthread_t	id;
	Shared	   *s;
	int			no;
	uint32		puts;
} Thread;

static void
Fail(Shared *s, const char *what)
{
	if (__atomic_exchange_n(&s->bad, 1, __ATOMIC_RELAXED) == 0)
		printf("# %s\n", what);
}

/* Slot n belongs to writer n % WRITERS, as a row lock would have it. */
static void *
Writer(void *arg)
{
	Thread	   *t = arg;
	Shared	   *s = t->s;
	uint64		chance = Reseed(100 + t->no);
	ArenaFinger f;

	InitFinger(&f, 200 + t->no);
	for (uint32 i = 0; i < s->rounds; i++)
	{
		int			slot = Random(&chance, 63) * WRITERS + t->no + 1;
		uint32		page = s->mode == 0 ? Random(&chance, s->pages) :
			__atomic_add_fetch(&s->tail, Random(&chance, 8) == 0, __ATOMIC_RELAXED) % s->pages;
		uint32	   *pushed = &s->pushed[page * 256 + slot];
		char		key[8];

		if (!Push(s->arena, &f, 3, page, slot, page * 256 + slot, *pushed + 1,
				  Random(&chance, 60)))
			Fail(s, "arena is full");
		(*pushed)++;
		if (Random(&chance, 4) == 0)
		{
			/* keys that all writers write */
			snprintf(key, sizeof(key), "%u", Random(&chance, 500));
			if (!KvPut(s->arena, &f, ORBIT_PG_TABLES, key, strlen(key), MEMBUF_PUT, key,
					   strlen(key)))
				Fail(s, "arena is full");
			t->puts++;
		}
	}
	return NULL;
}

/* Rows: the numbers of a chain fall by one, down to 1.  Returns the newest. */
static uint32
CheckChain(Shared *s, const CodecEntry *e, uint32 id)
{
	uint32		newest = e->cid;

	for (uint32 cid = newest; cid >= 1; cid--, e = ArenaOlder(s->arena, e))
	{
		if (e == NULL || e->cid != cid || e->xid != id || !EntryIntact(e))
		{
			Fail(s, "a chain is broken");
			return newest;
		}
	}
	if (e != NULL)
		Fail(s, "a chain is too long");
	return newest;
}

static void
CheckNode(Shared *s, ArenaNode *n, uint32 *seen)
{
	const CodecEntry *e;
	const char *value;
	Size		valuelen;
	MembufOp	op;

	if (n->family == ORBIT_PG_DATA)
	{
		uint32		page = PageOf(n);

		for (int slot = 0; (slot = ArenaPageNextSlot(n, slot, &e)) != 0;)
		{
			uint32		newest = CheckChain(s, e, page * 256 + slot);

			if (newest < seen[page * 256 + slot])
				Fail(s, "an entry seen before has vanished");
			seen[page * 256 + slot] = newest;
		}
		return;
	}
	ArenaKvValue(s->arena, n, &op, &value, &valuelen);
	if (op != MEMBUF_PUT || valuelen != n->keylen ||
		memcmp(value, ArenaNodeKey(n), valuelen) != 0)
		Fail(s, "a value is wrong");
}

static void
WalkOnce(Shared *s, ArenaFinger *f, uint32 *seen, bool back)
{
	ArenaNode  *n = back ? Last(s->arena, f) : First(s->arena, f);
	ArenaNode  *next;

	for (; n != NULL; n = next)
	{
		CheckNode(s, n, seen);
		next = back ? ArenaPrev(s->arena, f, n) : ArenaNext(s->arena, n);
		if (next != NULL && (back ? NodeOrder(n, next) : NodeOrder(next, n)) <= 0)
			Fail(s, "nodes are out of order");
	}
}

static void
LookupSome(Shared *s, ArenaFinger *f, uint32 *seen, uint64 *chance)
{
	char		key[CODEC_PAGE_KEY_SIZE];
	ArenaNode  *n;

	for (int i = 0; i < 500; i++)
	{
		uint32		page = Random(chance, s->pages);

		MakePageKey(key, 3, page);
		n = ArenaPageLookup(s->arena, f, key);
		if (n == NULL)
		{
			for (int slot = 1; slot <= ORBIT_MAX_SLOT; slot++)
				if (seen[page * 256 + slot] > 0)
					Fail(s, "a page seen before has vanished");
		}
		else if (PageOf(n) != page)
			Fail(s, "a lookup found another page");
		else
			CheckNode(s, n, seen);
	}
}

static void *
Reader(void *arg)
{
	Thread	   *t = arg;
	Shared	   *s = t->s;
	uint32	   *seen = calloc(s->pages * 256, sizeof(uint32));
	uint64		chance = Reseed(300 + t->no);
	ArenaFinger f;

	InitFinger(&f, 400 + t->no);
	for (int round = t->no; !ArenaLoad(&s->stop); round++)
	{
		WalkOnce(s, &f, seen, round % 2);
		LookupSome(s, &f, seen, &chance);
	}
	free(seen);
	return NULL;
}

/* After all: every push is there, and every put stands in its key's chain. */
static void
CheckFinal(Shared *s, uint32 puts)
{
	ArenaFinger f;
	ArenaNode  *n;
	uint32		values = 0;

	InitFinger(&f, 6);
	for (uint32 page = 0; page < s->pages; page++)
	{
		char		key[CODEC_PAGE_KEY_SIZE];

		MakePageKey(key, 3, page);
		n = ArenaPageLookup(s->arena, &f, key);
		for (int slot = 1; slot <= ORBIT_MAX_SLOT; slot++)
		{
			const CodecEntry *e = n ? ArenaPageNewest(n, slot) : NULL;

			if ((e ? CheckChain(s, e, page * 256 + slot) : 0) != s->pushed[page * 256 + slot])
				Fail(s, "a push is missing");
		}
	}
	for (n = First(s->arena, &f); n != NULL; n = ArenaNext(s->arena, n))
	{
		if (n->family == ORBIT_PG_DATA)
			continue;
		for (uint32 v = ArenaLoad(&n->head); v != 0; v = *(uint32 *) ArenaAt(s->arena, v))
			values++;
	}
	if (values != puts)
		Fail(s, "a put is missing");
	if (CountBothWays(s->arena, &f) < 0)
		Fail(s, "the final order is wrong");
}

static void
TestThreads(int mode, uint32 pages, uint32 rounds, const char *name)
{
	Shared		s = {.mode = mode, .pages = pages, .rounds = rounds};
	Thread		t[WRITERS + READERS] = {0};
	uint32		puts = 0;

	s.arena = NewArena((Size) 32 * 1024 + (Size) WRITERS * rounds *
					   (PushCost(60) + ArenaKvCost(8, 8) / 2));
	s.pushed = calloc(pages * 256, sizeof(uint32));
	for (int i = 0; i < WRITERS + READERS; i++)
	{
		t[i].s = &s;
		t[i].no = i < WRITERS ? i : i - WRITERS;
		if (pthread_create(&t[i].id, NULL, i < WRITERS ? Writer : Reader, &t[i]) != 0)
			abort();
	}
	for (int i = 0; i < WRITERS; i++)
	{
		pthread_join(t[i].id, NULL);
		puts += t[i].puts;
	}
	ArenaStore(&s.stop, 1);
	for (int i = WRITERS; i < WRITERS + READERS; i++)
		pthread_join(t[i].id, NULL);
	CheckFinal(&s, puts);
	Ok(!s.bad, name);
	free(s.pushed);
	free(s.arena);
}

/* Threads that take space until there is none: what they get never overlaps. */
typedef struct Taker
{
	pthread_t	id;
	Arena	   *arena;
	int			no;
} Taker;

static void *
Take8(void *arg)
{
	Taker	   *t = arg;
	uint64		chance = Reseed(500 + t->no);
	uint32		start;
	uint32		end;

	while (ArenaReserve(t->arena, 1, 1 + Random(&chance, 20), &start, &end))
		for (uint32 i = start; i < end; i++)
			*(uint64 *) ArenaAt(t->arena, i) += t->no + 1;
	return NULL;
}

static void
TestTakers(void)
{
	Size		bytes = 1024 * 1024;
	Arena	   *a = NewArena(bytes);
	Taker		t[WRITERS];
	bool		good = true;

	memset(ArenaAt(a, ArenaFirst(a)), 0, ArenaRoom(bytes));
	for (int i = 0; i < WRITERS; i++)
	{
		t[i].arena = a;
		t[i].no = i;
		if (pthread_create(&t[i].id, NULL, Take8, &t[i]) != 0)
			abort();
	}
	for (int i = 0; i < WRITERS; i++)
		pthread_join(t[i].id, NULL);
	for (uint32 i = ArenaFirst(a); i < bytes / ARENA_UNIT; i++)
	{
		uint64		who = *(uint64 *) ArenaAt(a, i);

		good &= who >= 1 && who <= WRITERS;
	}
	Ok(good && a->used == bytes / ARENA_UNIT, "space is handed out once, to the last byte");
	free(a);
}

/* ---- speed: told, not tested --------------------------------------------------------------- */

static double
Seconds(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return ts.tv_sec + ts.tv_nsec / 1e9;
}

static void
TellSpeed(void)
{
	Size		bytes = (Size) 256 * 1024 * 1024;
	Arena	   *a = NewArena(bytes);
	uint64		chance = Reseed(7);
	int			n = 100000;
	ArenaFinger f;
	double		start;
	double		seq;
	double		rnd;

	InitFinger(&f, 7);
	start = Seconds();
	for (int i = 0; i < n; i++)
		Push(a, &f, 1, i / 64, i % 64 + 1, 1, 1, 100);
	seq = Seconds() - start;
	start = Seconds();
	for (int i = 0; i < n; i++)
		Push(a, &f, 2, Random(&chance, 1000000), 1, 1, 1, 100);
	rnd = Seconds() - start;
	printf("# ns a push: rising rows %.0f, random pages %.0f\n", seq * 1e9 / n, rnd * 1e9 / n);
	free(a);
}

int
main(int argc, char **argv)
{
	if (argc > 1)
		seed = strtoull(argv[1], NULL, 10);
	TestEmpty();
	TestSlots();
	TestBelow();
	TestFull();
	TestIndex();
	TestIndexHelp();
	TestKeyLengths();
	TestModel();
	TestTakers();
	TestThreads(0, 400, 40000, "4 writers and 2 readers on random pages");
	TestThreads(0, 3, 5000, "4 writers and 2 readers on three pages");
	TestThreads(1, 20000, 40000, "4 writers and 2 readers on rising pages");
	TellSpeed();
	printf("1..%d\n", tests);
	return failures != 0;
}
