/*
 * rocks_filter.cpp: what compactions may forget, and the filter that makes them.
 *
 * The worker's main thread publishes horizons; RocksDB's threads take the newest
 * one and keep it as long as they use it.  Nothing of a horizon changes after
 * that.  Chunks of fates are shared from one to the next, for they may be many.
 *
 * The merge operator (rocks_merge.cpp) prunes where pages are united.  RocksDB calls
 * none on a lone put, and a merge cannot remove a key: that is the filter's part (R2).
 *
 *	put			its history is complete: it is pruned, and removed when no row is left
 *	operand		what lies below it is not known, so less may go (R3)
 *	both		removed when the storage is dead
 *
 * Of one key in one compaction, operands pass the filter before they are merged, the
 * base and the result do not pass it.  What a merge leaves empty goes the next time.
 *
 * A filter keeps its horizon for the whole compaction, while merges of the same
 * compaction may use newer ones; the next compaction that reads the result begins
 * later and has none that is older.
 *
 * A page that cannot be read stays as it is: readers report it.
 */
#include <string.h>

#include <algorithm>

#include <rocksdb/compaction_filter.h>
#include <rocksdb/sst_partitioner.h>

#include "kv/rocks.h"

using rocksdb::CompactionFilter;
using rocksdb::Slice;
using rocksdb::Status;

namespace kv
{

/* ---- horizons ----------------------------------------------------------------- */

bool
Horizon::IsDead(OrbitStorageId storage) const
{
	return std::binary_search(dead->begin(), dead->end(), storage);
}

uint64_t
Horizon::CleanedOf(OrbitStorageId storage) const
{
	auto		it = std::lower_bound(cleaned->begin(), cleaned->end(), storage,
									  [](const KvCleaned &c, OrbitStorageId s) {
										  return c.storage < s;
									  });

	return it != cleaned->end() && it->storage == storage ? it->cleaned : 0;
}

std::shared_ptr<const Horizon>
Pruner::Current() const
{
	return std::atomic_load(&horizon_);
}

static bool
Covers(const CodecHorizon &h, uint64_t chunk)
{
	return chunk * CODEC_FATES_CHUNK >= h.base && (chunk + 1) * CODEC_FATES_CHUNK <= h.limit;
}

/* The chunks that [base, limit) touches: new ones, or those of the horizon before. */
static Status
TakeFates(const CodecHorizon &h, const Horizon *before, Horizon *out)
{
	uint64_t	first = h.base / CODEC_FATES_CHUNK;
	uint64_t	end = h.limit > h.base ? (h.limit - 1) / CODEC_FATES_CHUNK + 1 : first;

	for (uint64_t c = first; c < end; c++)
	{
		const uint8_t *bits = h.fates[c - first];

		if (bits != nullptr)
		{
			auto		chunk = std::make_shared<FateChunk>();

			memcpy(chunk->data(), bits, chunk->size());
			out->chunks.push_back(chunk);
		}
		else if (before != nullptr && Covers(before->h, c))
			out->chunks.push_back(before->chunks[c - before->h.base / CODEC_FATES_CHUNK]);
		else
			return Status::InvalidArgument("horizon without fates");
		out->fates.push_back(out->chunks.back()->data());
	}
	return Status::OK();
}

template<typename T> static std::shared_ptr<const std::vector<T>>
TakeList(const T *list, int n, const std::shared_ptr<const std::vector<T>> *before)
{
	if (n == KV_UNCHANGED && before != nullptr)
		return *before;
	return std::make_shared<std::vector<T>>(list, list + std::max(n, 0));
}

/* Called by one thread. */
Status
Pruner::Set(const KvHorizon &k)
{
	std::shared_ptr<const Horizon> before = Current();
	auto		next = std::make_shared<Horizon>();
	Status		s;

	if (k.h.settled > k.h.limit || k.h.base > k.h.limit ||
		(before && (k.h.limit < before->h.limit || k.h.settled < before->h.settled)))
		return Status::InvalidArgument("horizon falls back");
	next->h = k.h;
	s = TakeFates(k.h, before.get(), next.get());
	if (!s.ok())
		return s;
	next->h.fates = next->fates.data();
	next->dead = TakeList(k.dead, k.ndead, before ? &before->dead : nullptr);
	next->cleaned = TakeList(k.cleaned, k.ncleaned, before ? &before->cleaned : nullptr);
	std::atomic_store(&horizon_, std::shared_ptr<const Horizon>(next));
	return s;
}

void
Pruner::Count(size_t before, size_t after, bool removed)
{
	pages_++;
	removed_ += removed;
	if (after < before)
		bytes_ += before - after;
}

void
Pruner::CountCompaction(uint64_t read, uint64_t written)
{
	compactions_++;
	read_ += read;
	written_ += written;
}

void
Pruner::Get(KvPruned *p) const
{
	p->pages = pages_;
	p->removed = removed_;
	p->bytes = bytes_;
	p->damaged = damaged_;
	p->compactions = compactions_;
	p->bytes_read = read_;
	p->bytes_written = written_;
}

/* ---- the filter ------------------------------------------------------------------- */

namespace
{

class PageFilter : public CompactionFilter
{
  public:
	PageFilter(std::shared_ptr<Pruner> pruner, std::shared_ptr<const Horizon> horizon)
		: pruner_(std::move(pruner)), horizon_(std::move(horizon)) {}
	~PageFilter() override { CodecBufFree(&page_); }

	const char *Name() const override { return "OrbitPageFilter"; }
	Decision	FilterV2(int, const Slice &key, ValueType type, const Slice &value,
						 std::string *changed, std::string *) const override
	{
		try
		{
			return Decide(key, type == ValueType::kValue, value, changed);
		}
		catch (...)
		{
			return Decision::kKeep;		/* out of memory: another time */
		}
	}

  private:
	Decision	Decide(const Slice &key, bool complete, const Slice &value,
					   std::string *changed) const;

	const std::shared_ptr<Pruner> pruner_;
	const std::shared_ptr<const Horizon> horizon_;
	mutable CodecBuf page_ = {};	/* a filter belongs to one thread */
};

CompactionFilter::Decision
PageFilter::Decide(const Slice &key, bool complete, const Slice &value,
				   std::string *changed) const
{
	OrbitStorageId storage;
	uint32_t	number;
	CodecPage	page;
	bool		change = false;

	if (!CodecPageKeyParse(key.data(), key.size(), &storage, &number) ||
		storage == ORBIT_INVALID_STORAGE)
		return Decision::kKeep;
	if (horizon_->IsDead(storage))
	{
		pruner_->Count(value.size(), 0, true);
		return Decision::kRemove;
	}

	CodecPruning p = {&horizon_->h, horizon_->CleanedOf(storage)};

	page_.len = 0;
	if (!CodecPrune(value.data(), value.size(), complete, &p, &page_, &change, nullptr))
	{
		pruner_->CountDamaged();
		return Decision::kKeep;
	}
	/* Nothing in a page means the same as no page, above a base too. */
	if (!CodecPageOpen(&page, change ? page_.data : value.data(),
					   change ? page_.len : value.size()))
		return Decision::kKeep;
	if (page.nchains == 0)
	{
		pruner_->Count(value.size(), 0, true);
		return Decision::kRemove;
	}
	if (!change)
		return Decision::kKeep;
	pruner_->Count(value.size(), page_.len, false);
	changed->assign(page_.data, page_.len);
	return Decision::kChangeValue;
}

class PageFilterFactory : public rocksdb::CompactionFilterFactory
{
  public:
	explicit PageFilterFactory(std::shared_ptr<Pruner> pruner) : pruner_(std::move(pruner)) {}

	const char *Name() const override { return "OrbitPageFilterFactory"; }
	std::unique_ptr<CompactionFilter>
				CreateCompactionFilter(const CompactionFilter::Context &) override
	{
		try
		{
			auto		horizon = pruner_->Current();

			if (horizon)
				return std::unique_ptr<CompactionFilter>(new PageFilter(pruner_, horizon));
		}
		catch (...)
		{
		}
		return nullptr;
	}

  private:
	const std::shared_ptr<Pruner> pruner_;
};

/*
 * Files end where a storage ends, unless they would become small: then a table that
 * changes or is dropped shares no file with the others.
 */
class StoragePartitioner : public rocksdb::SstPartitioner
{
  public:
	explicit StoragePartitioner(uint64_t least) : least_(least) {}

	const char *Name() const override { return "OrbitStoragePartitioner"; }
	rocksdb::PartitionerResult ShouldPartition(const rocksdb::PartitionerRequest &r) override
	{
		return r.current_output_file_size >= least_ &&
			(r.prev_user_key->size() < sizeof(OrbitStorageId) ||
			 r.current_user_key->size() < sizeof(OrbitStorageId) ||
			 memcmp(r.prev_user_key->data(), r.current_user_key->data(),
					sizeof(OrbitStorageId)) != 0) ? rocksdb::kRequired : rocksdb::kNotRequired;
	}
	bool		CanDoTrivialMove(const Slice &, const Slice &) override { return true; }

  private:
	const uint64_t least_;
};

class StoragePartitionerFactory : public rocksdb::SstPartitionerFactory
{
  public:
	explicit StoragePartitionerFactory(uint64_t least) : least_(least) {}

	const char *Name() const override { return "OrbitStoragePartitionerFactory"; }
	std::unique_ptr<rocksdb::SstPartitioner>
				CreatePartitioner(const rocksdb::SstPartitioner::Context &) const override
	{
		try
		{
			return std::unique_ptr<rocksdb::SstPartitioner>(new StoragePartitioner(least_));
		}
		catch (...)
		{
			return nullptr;
		}
	}

  private:
	const uint64_t least_;
};

}								/* namespace */

std::shared_ptr<rocksdb::CompactionFilterFactory>
NewPageFilter(std::shared_ptr<Pruner> pruner)
{
	return std::make_shared<PageFilterFactory>(std::move(pruner));
}

std::shared_ptr<rocksdb::SstPartitionerFactory>
NewStoragePartitioner(uint64_t file_bytes)
{
	return std::make_shared<StoragePartitionerFactory>(file_bytes / 64);
}

}								/* namespace kv */

using namespace kv;

void
KvSetHorizon(KvDb *db, const KvHorizon *h, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		if (!db->primary)
			return Status::InvalidArgument("a secondary does not prune");
		return db->pruner->Set(*h);
	});
}

void
KvGetPruned(KvDb *db, KvPruned *p)
{
	memset(p, 0, sizeof(*p));
	if (db->primary)
		db->pruner->Get(p);
}
