/*
 * bufmap.c: the ordered map of an arena by its number: publishing and reading.
 *
 * Keeps a finger for each arena, so that accesses near the last one need no search from the
 * top; nothing else is remembered between calls.
 */
#include "postgres.h"

#include "miscadmin.h"

#include "membuf/control.h"
#include "membuf/section.h"

#define FINGERS		64			/* at least the greatest number of blocks */

static ArenaFinger fingers[FINGERS];

static ArenaFinger *
Finger(uint64 seq)
{
	ArenaFinger *f = &fingers[seq % FINGERS];

	if (unlikely(f->seq != seq))
	{
		/* Any seed will do; processes differ so that their heights do. */
		if (f->random == 0)
			f->random = ((uint64) MyProcPid << 32) ^ seq;
		ArenaFingerReset(f, seq);
	}
	return f;
}

/* Division costs more than the rest of a short step: remember the last one. */
static Arena *
ReadArena(uint64 seq)
{
	static uint64 last_seq = 0;
	static Arena *last = NULL;

	Assert(MembufMayRead(seq));
	if (unlikely(seq != last_seq))
	{
		last = MembufArenaAt(seq);
		last_seq = seq;
	}
	Assert(ArenaLoad(&last->seq) == seq);
	return last;
}

static Arena *
WriteArena(MembufReservation *r)
{
	MembufUseReservation(r);
	return ReadArena(r->seq);
}

void
ArenaOverrun(void)
{
	elog(PANIC, "a write buffer reservation is too small for what is published");
}

/* ---- costs -------------------------------------------------------------------- */

Size
MembufPageCost(void)
{
	return ArenaPageCost();
}

Size
MembufGroupCost(void)
{
	return ARENA_GROUP_BYTES;
}

Size
MembufEntryCost(Size payload_len)
{
	return CODEC_NODE_SIZE(payload_len);
}

Size
MembufKvCost(Size keylen, Size valuelen)
{
	return ArenaKvCost(keylen, valuelen);
}

/* ---- publishing ------------------------------------------------------------------ */

MembufPage *
MembufPageGet(MembufReservation *r, OrbitStorageId storage, BlockNumber page)
{
	Arena	   *a = WriteArena(r);
	char		key[CODEC_PAGE_KEY_SIZE];

	CodecPageKey(key, storage, page);
	return (MembufPage *) ArenaPageGet(a, Finger(r->seq), r, key);
}

const CodecEntry *
MembufPageNewest(MembufPage *p, int slot)
{
	return ArenaPageNewest((ArenaNode *) p, slot);
}

void
MembufPagePush(MembufReservation *r, MembufPage *p, int slot, const CodecEntry *header,
			   const void *payload, const CodecEntry *below)
{
	ArenaPagePush(WriteArena(r), r, (ArenaNode *) p, slot, header, payload, below);
}

void
MembufKvPublish(MembufReservation *r, OrbitFamily family, const char *key, Size keylen,
				MembufOp op, const void *value, Size valuelen)
{
	ArenaKey	k = {family, keylen, key};

	Assert(keylen <= MEMBUF_MAX_KEY && family != ORBIT_PG_DATA);
	ArenaKvPublish(WriteArena(r), Finger(r->seq), r, &k, op, value, valuelen);
}

/* ---- reading ------------------------------------------------------------------------ */

MembufPage *
MembufPageLookup(uint64 seq, OrbitStorageId storage, BlockNumber page)
{
	char		key[CODEC_PAGE_KEY_SIZE];

	CodecPageKey(key, storage, page);
	return (MembufPage *) ArenaPageLookup(ReadArena(seq), Finger(seq), key);
}

const CodecEntry *
MembufOlder(uint64 seq, const CodecEntry *e)
{
	return ArenaOlder(ReadArena(seq), e);
}

int
MembufPageNextSlot(uint64 seq, MembufPage *p, int slot, const CodecEntry **e)
{
	Assert(MembufMayRead(seq));
	return ArenaPageNextSlot((ArenaNode *) p, slot, e);
}

bool
MembufKvLookup(uint64 seq, OrbitFamily family, const char *key, Size keylen,
			   MembufOp *op, const char **value, Size *valuelen)
{
	Arena	   *a = ReadArena(seq);
	ArenaKey	k = {family, keylen, key};
	ArenaNode  *n = ArenaSeek(a, Finger(seq), &k);

	Assert(keylen <= MEMBUF_MAX_KEY && family != ORBIT_PG_DATA);
	if (n == NULL || !ArenaNodeIs(n, &k))
		return false;
	ArenaKvValue(a, n, op, value, valuelen);
	return true;
}

/* ---- walking -------------------------------------------------------------------------- */

static bool
IterSet(MembufIter *it, Arena *a, ArenaNode *n)
{
	it->node = n == NULL ? 0 : (uint32) (((char *) n - (char *) a) / ARENA_UNIT);
	return n != NULL;
}

static ArenaNode *
IterNode(MembufIter *it)
{
	Assert(it->node != 0);
	return ArenaAt(ReadArena(it->seq), it->node);
}

void
MembufIterInit(MembufIter *it, uint64 seq)
{
	it->seq = seq;
	it->node = 0;
}

bool
MembufIterSeek(MembufIter *it, OrbitFamily f, const char *key, Size keylen)
{
	Arena	   *a = ReadArena(it->seq);
	ArenaKey	k = {f, keylen, key};

	return IterSet(it, a, ArenaSeek(a, Finger(it->seq), &k));
}

bool
MembufIterSeekForPrev(MembufIter *it, OrbitFamily f, const char *key, Size keylen)
{
	Arena	   *a = ReadArena(it->seq);
	ArenaKey	k = {f, keylen, key};

	return IterSet(it, a, ArenaSeekForPrev(a, Finger(it->seq), &k));
}

bool
MembufIterNext(MembufIter *it)
{
	ArenaNode  *n = IterNode(it);
	Arena	   *a = ReadArena(it->seq);

	return IterSet(it, a, ArenaNext(a, n));
}

bool
MembufIterPrev(MembufIter *it)
{
	ArenaNode  *n = IterNode(it);
	Arena	   *a = ReadArena(it->seq);

	return IterSet(it, a, ArenaPrev(a, Finger(it->seq), n));
}

OrbitFamily
MembufIterKey(MembufIter *it, const char **key, Size *keylen)
{
	ArenaNode  *n = IterNode(it);

	*key = ArenaNodeKey(n);
	*keylen = n->keylen;
	return (OrbitFamily) n->family;
}

MembufPage *
MembufIterPage(MembufIter *it)
{
	ArenaNode  *n = IterNode(it);

	Assert(n->family == ORBIT_PG_DATA);
	return (MembufPage *) n;
}

void
MembufIterValue(MembufIter *it, MembufOp *op, const char **value, Size *valuelen)
{
	ArenaNode  *n = IterNode(it);

	ArenaKvValue(ReadArena(it->seq), n, op, value, valuelen);
}
