/*
 * kvscan.c: walks the key/value records of a family in key order, united over the
 * write buffers and RocksDB; the newest value of a key counts.
 *
 * For rare questions over few records (pg_tables), so one view is kept open over the whole
 * walk and the arenas are sought again for every key.
 */
#include "postgres.h"

#include "store/store_internal.h"

typedef struct KvWalk
{
	StoreView	view;
	OrbitFamily family;
	KvIter	   *iter;
	char		key[MEMBUF_MAX_KEY + 1];	/* look at keys >= this one */
	Size		keylen;
} KvWalk;

/* What the walk meets next: the least key, and the newest value that belongs to it. */
typedef struct KvFound
{
	const char *key;
	Size		keylen;
	const char *value;
	Size		len;
	bool		put;
} KvFound;

/* Sources come newest first, so of equal keys the first one met stays. */
static void
Offer(KvFound *f, const char *key, Size keylen, const char *value, Size len, bool put)
{
	if (f->key != NULL && StoreCompareKeys(key, keylen, f->key, f->keylen) >= 0)
		return;
	f->key = key;
	f->keylen = keylen;
	f->value = value;
	f->len = len;
	f->put = put;
}

static void
OfferArena(KvWalk *w, uint64 seq, KvFound *f)
{
	MembufIter	it;
	MembufOp	op;
	const char *key;
	const char *value;
	Size		keylen;
	Size		len;

	MembufIterInit(&it, seq);
	if (!MembufIterSeek(&it, w->family, w->key, w->keylen) ||
		MembufIterKey(&it, &key, &keylen) != w->family)
		return;
	MembufIterValue(&it, &op, &value, &len);
	Offer(f, key, keylen, value, len, op == MEMBUF_PUT);
}

static void
OfferRocks(KvWalk *w, KvFound *f)
{
	const char *key;
	const char *value;
	Size		keylen;
	Size		len;

	while (KvIterValid(w->iter))
	{
		KvIterKey(w->iter, &key, &keylen);
		if (!CodecKeyIsReserved(key, keylen) &&
			StoreCompareKeys(key, keylen, w->key, w->keylen) >= 0)
		{
			KvIterValue(w->iter, &value, &len);
			Offer(f, key, keylen, value, len, true);
			return;
		}
		KvIterNext(w->iter);
	}
}

static void
CheckRocks(KvWalk *w)
{
	KvStatus	st;

	st.code = KV_OK;
	KvIterStatus(w->iter, &st);
	if (st.code != KV_OK)
		StoreViewFailed(&st, "could not read from RocksDB storage");
}

static bool
NextKey(KvWalk *w, KvFound *f)
{
	memset(f, 0, sizeof(*f));
	for (uint64 seq = w->view.pin.active; seq >= w->view.pin.oldest; seq--)
		OfferArena(w, seq, f);
	if (w->iter != NULL)
	{
		OfferRocks(w, f);
		CheckRocks(w);
	}
	return f->key != NULL;
}

/* The least key after this one is the key with a zero byte behind it. */
static void
StepBehind(KvWalk *w, const KvFound *f)
{
	memcpy(w->key, f->key, f->keylen);
	w->key[f->keylen] = '\0';
	w->keylen = f->keylen + 1;
}

static void
Walk(KvWalk *w, const char *prefix, Size prefixlen, StoreKvCallback callback, void *arg)
{
	KvFound		f;

	while (NextKey(w, &f))
	{
		if (f.keylen < prefixlen || memcmp(f.key, prefix, prefixlen) != 0)
			return;
		if (f.put && !callback(f.key, f.keylen, f.value, f.len, arg))
			return;
		StepBehind(w, &f);
	}
}

static void
OpenIterator(KvWalk *w)
{
	uint64		g;
	KvDb	   *handle = StoreViewProve(&w->view, &g);
	KvStatus	st;

	if (handle == NULL)
		return;
	st.code = KV_OK;
	w->iter = KvIterCreate(handle, w->family, NULL, 0, NULL, 0, 0, &st);
	if (w->iter == NULL)
	{
		if (st.code == KV_OK)
			StoreOutOfMemory();
		StoreViewFailed(&st, "could not read from RocksDB storage");
	}
	KvIterSeek(w->iter, w->key, w->keylen);
}

void
StoreKvForEach(OrbitFamily family, const char *prefix, Size prefixlen,
			   StoreKvCallback callback, void *arg)
{
	KvWalk	   *w = palloc0(sizeof(KvWalk));

	Assert(family != ORBIT_PG_DATA && prefixlen <= MEMBUF_MAX_KEY);
	w->family = family;
	memcpy(w->key, prefix, prefixlen);
	w->keylen = prefixlen;
	StoreViewOpen(&w->view);
	PG_TRY();
	{
		OpenIterator(w);
		Walk(w, prefix, prefixlen, callback, arg);
	}
	PG_FINALLY();
	{
		KvIterDestroy(w->iter);
	}
	PG_END_TRY();
	StoreViewClose(&w->view);
	pfree(w);
}
