/*
 * rocks_merge.cpp: what RocksDB calls back in its own threads: the merge operator
 * of pg_data and the prefix extractor of pg_indexes.
 *
 * Nothing here calls PostgreSQL or throws.  In the primary the operator prunes by
 * the newest horizon: what it leaves out no reader would look at, so it does not
 * matter that a secondary's does not.  Generation keys are puts and never get here.
 */
#include <string.h>

#include "kv/rocks.h"

using rocksdb::Logger;
using rocksdb::Slice;

namespace kv
{

namespace
{

class PageMerge : public rocksdb::MergeOperator
{
  public:
	explicit PageMerge(std::shared_ptr<Pruner> pruner) : pruner_(std::move(pruner)) {}
	const char *Name() const override { return "OrbitPageMerge"; }

	bool		FullMergeV2(const MergeOperationInput &in,
							MergeOperationOutput *out) const override
	{
		return Unite(in.key, in.operand_list, in.existing_value, true, &out->new_value,
					 in.logger);
	}

	/* Some operands only: what they do not show may exist, hence not complete (R3). */
	bool		PartialMergeMulti(const Slice &key, const std::deque<Slice> &operands,
								  std::string *out, Logger *logger) const override
	{
		return Unite(key, operands, nullptr, false, out, logger);
	}

  private:
	template<typename Operands>
	bool		Unite(const Slice &key, const Operands &oldest_first, const Slice *base,
					  bool complete, std::string *out, Logger *logger) const noexcept;

	const std::shared_ptr<Pruner> pruner_;
};

/* What may be left out of this page; the horizon is kept alive by the caller. */
static CodecPruning
PruningOf(const Horizon &horizon, const Slice &key)
{
	OrbitStorageId storage;
	uint32_t	page;
	CodecPruning p = {&horizon.h, 0};

	if (CodecPageKeyParse(key.data(), key.size(), &storage, &page))
		p.cleaned = horizon.CleanedOf(storage);
	return p;
}

/* Newest first.  pruner: may be NULL.  Throws std::bad_alloc. */
static bool
UniteParts(const std::shared_ptr<Pruner> &pruner, const Slice &key, const CodecPart *parts, int nparts,
		   bool complete, CodecBuf *page, const char **error)
{
	auto		horizon = pruner ? pruner->Current() : nullptr;
	CodecPruning pruning = {};

	if (horizon)
		pruning = PruningOf(*horizon, key);
	return CodecUnite(parts, nparts, complete, horizon ? &pruning : nullptr, page, error);
}

/*
 * False makes RocksDB report Corruption to a reader and stop a compaction; a page
 * is never made up from what could be read.
 */
template<typename Operands> bool
PageMerge::Unite(const Slice &key, const Operands &oldest_first, const Slice *base,
				 bool complete, std::string *out, Logger *logger) const noexcept
{
	CodecBuf	page = {};
	const char *error = nullptr;
	bool		ok = false;

	try
	{
		std::vector<CodecPart> parts;

		parts.reserve(oldest_first.size() + 1);
		for (auto it = oldest_first.rbegin(); it != oldest_first.rend(); ++it)
			parts.push_back({it->data(), it->size()});
		if (base != nullptr)
			parts.push_back({base->data(), base->size()});
		ok = UniteParts(pruner_, key, parts.data(), static_cast<int>(parts.size()), complete, &page, &error);
		if (ok)
			out->assign(page.data, page.len);
	}
	catch (...)
	{
		ok = false;
		error = "out of memory";
	}
	CodecBufFree(&page);
	if (!ok)
	{
		merge_failure = error != nullptr ? error : "merge failed";
		rocksdb::Error(logger, "page merge: %s", merge_failure);
	}
	return ok;
}

/*
 * Index entries end with the row's TID (6 bytes); what stands before it is the
 * prefix whose presence the filter answers.  Shorter keys and the reserved
 * storage id 0 are not in the filter and never looked up in it.
 */
class IndexPrefix : public rocksdb::SliceTransform
{
  public:
	const char *Name() const override { return "OrbitIndexPrefix"; }
	bool		InDomain(const Slice &key) const override
	{
		return key.size() >= 8 + TidBytes && !CodecKeyIsReserved(key.data(), key.size());
	}
	Slice		Transform(const Slice &key) const override
	{
		return Slice(key.data(), key.size() - TidBytes);
	}

  private:
	static constexpr size_t TidBytes = 6;
};

}								/* namespace */

std::shared_ptr<rocksdb::MergeOperator>
NewPageMerge(std::shared_ptr<Pruner> pruner)
{
	return std::make_shared<PageMerge>(std::move(pruner));
}

std::shared_ptr<const rocksdb::SliceTransform>
NewIndexPrefix()
{
	return std::make_shared<IndexPrefix>();
}

}								/* namespace kv */

bool
KvUnitePages(KvDb *db, const char *key, size_t keylen, const CodecPart *parts, int nparts, CodecBuf *out)
{
	const char *error;

	try
	{
		return kv::UniteParts(db->pruner, Slice(key, keylen), parts, nparts, true, out, &error);
	}
	catch (...)
	{
		return false;
	}
}
