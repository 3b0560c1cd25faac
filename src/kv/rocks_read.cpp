/*
 * rocks_read.cpp: get and iterators, of a primary or a secondary.
 *
 * An iterator holds the instance it reads, so it stays sound when a secondary is
 * reopened or closed under it; it then still shows the old version.
 */
#include "kv/rocks.h"

using rocksdb::Iterator;
using rocksdb::PinnableSlice;
using rocksdb::Slice;
using rocksdb::Status;

struct KvIter
{
	std::shared_ptr<kv::Instance> inst; /* goes last */
	std::string lower;
	std::string upper;
	Slice		lower_bound;
	Slice		upper_bound;
	std::unique_ptr<Iterator> it;	/* goes first */
	bool		failed = false; /* by an exception, kept in failure */
	KvStatus	failure;
};

using namespace kv;

void
KvGet(KvDb *db, OrbitFamily family, const char *key, size_t keylen, CodecBuf *out,
	  KvStatus *st)
{
	out->len = 0;
	merge_failure = nullptr;
	Guarded(st, [&]() -> Status {
		PinnableSlice value;
		Status		s = db->inst->db->Get(PlainRead(), db->inst->families[family],
										  Slice(key, keylen), &value);

		if (s.ok() && !CodecBufAppend(out, value.data(), value.size()))
			s = Status::MemoryLimit("out of memory");
		return s;
	});
}

/*
 * Generation keys are never shown: the lower bound is at least the first key of
 * storage id 1.  A caller that asks for readahead reads more than it will use
 * again, so the blocks do not enter the cache.
 */
static Status
Create(KvDb *db, OrbitFamily family, const char *lower, size_t lowerlen,
	   const char *upper, size_t upperlen, size_t readahead, KvIter **out)
{
	std::unique_ptr<KvIter> it(new KvIter());
	rocksdb::ReadOptions r = PlainRead();

	it->inst = db->inst;
	it->lower = FirstKey().ToString();
	if (lower != nullptr && Slice(lower, lowerlen).compare(FirstKey()) > 0)
		it->lower.assign(lower, lowerlen);
	it->lower_bound = it->lower;
	r.iterate_lower_bound = &it->lower_bound;
	if (upper != nullptr)
	{
		it->upper.assign(upper, upperlen);
		it->upper_bound = it->upper;
		r.iterate_upper_bound = &it->upper_bound;
	}
	r.readahead_size = readahead;
	r.fill_cache = readahead == 0;
	it->it.reset(it->inst->db->NewIterator(r, it->inst->families[family]));

	Status		s = it->it->status();

	if (s.ok())
		*out = it.release();
	return s;
}

KvIter *
KvIterCreate(KvDb *db, OrbitFamily family, const char *lower, size_t lowerlen,
			 const char *upper, size_t upperlen, size_t readahead, KvStatus *st)
{
	KvIter	   *it = nullptr;

	merge_failure = nullptr;
	Guarded(st, [&]() -> Status {
		return Create(db, family, lower, lowerlen, upper, upperlen, readahead, &it);
	});
	return it;
}

void
KvIterDestroy(KvIter *it)
{
	try
	{
		delete it;
	}
	catch (...)
	{
	}
}

template<typename F> static void
Move(KvIter *it, F f) noexcept
{
	if (it->failed)
		return;
	try
	{
		f(it->it.get());
	}
	catch (...)
	{
		it->failed = true;
		FromException(&it->failure);
	}
}

void
KvIterSeek(KvIter *it, const char *key, size_t keylen)
{
	Move(it, [&](Iterator *i) { i->Seek(Slice(key, keylen)); });
}

void
KvIterSeekForPrev(KvIter *it, const char *key, size_t keylen)
{
	Move(it, [&](Iterator *i) { i->SeekForPrev(Slice(key, keylen)); });
}

void
KvIterNext(KvIter *it)
{
	Move(it, [](Iterator *i) { i->Next(); });
}

void
KvIterPrev(KvIter *it)
{
	Move(it, [](Iterator *i) { i->Prev(); });
}

bool
KvIterValid(KvIter *it)
{
	return !it->failed && it->it->Valid();
}

void
KvIterKey(KvIter *it, const char **key, size_t *len)
{
	Slice		k = it->it->key();

	*key = k.data();
	*len = k.size();
}

void
KvIterValue(KvIter *it, const char **value, size_t *len)
{
	Slice		v = it->it->value();

	*value = v.data();
	*len = v.size();
}

void
KvIterStatus(KvIter *it, KvStatus *st)
{
	if (it->failed)
	{
		*st = it->failure;
		return;
	}
	Guarded(st, [&]() -> Status { return it->it->status(); });
}

void
KvStorageBytes(KvDb *db, const OrbitStorageId *storages, int n, uint64_t *bytes, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		std::vector<std::array<char, 2 * CODEC_PAGE_KEY_SIZE>> keys(n);
		std::vector<rocksdb::Range> ranges(n);
		rocksdb::SizeApproximationOptions o;

		for (int i = 0; i < n; i++)
		{
			char	   *from = keys[i].data();
			char	   *to = from + CODEC_PAGE_KEY_SIZE;

			CodecPageKey(from, storages[i], 0);
			CodecPageKey(to, storages[i] + 1, 0);
			ranges[i] = rocksdb::Range(Slice(from, CODEC_PAGE_KEY_SIZE),
									   Slice(to, CODEC_PAGE_KEY_SIZE));
		}
		o.include_memtables = false;
		o.include_files = true;
		return db->inst->db->GetApproximateSizes(o, db->inst->families[ORBIT_PG_DATA],
												 ranges.data(), n, bytes);
	});
}
