/*
 * rocks_files.cpp: what each SST file of pg_data holds.
 *
 * While a file is written, by a flush or by a compaction, a collector sums up its
 * pages and stores the result as one property of the file.  It decides which files
 * are worth compacting, and proves to VACUUM up to where a table is frozen.  A file with
 * a page that could not be read gets none: nothing is proven by it.
 *
 * The property is a list of varints:
 *
 *	version (1), pages, rows, entries, bytes, doomed, doomed bytes, deletes, dead slots,
 *	unfrozen, oldest and newest unfrozen xid, operands, bytes of operands, empty pages,
 *	tombstones, n, and n times
 *		first storage id (difference to the last one before), last - first, how many
 *		storages, bytes, dead slots, and if there are any: oldest and newest full xid
 *		that ended them (the newest as a difference)
 *
 * A file of very many small storages would have a long list: neighbours are then put
 * together.
 */
#include <string.h>

#include <algorithm>

#include "kv/rocks.h"

using rocksdb::Slice;
using rocksdb::Status;
using rocksdb::UserCollectedProperties;

namespace kv
{

namespace
{

constexpr const char *SummaryName = "orbit.summary";
constexpr uint64_t SummaryVersion = 1;
constexpr size_t MaxStorages = 1024;

/* ---- varints ---------------------------------------------------------------------- */

void
PutNumber(std::string *s, uint64_t v)
{
	while (v >= 128)
	{
		s->push_back(static_cast<char>(v | 128));
		v >>= 7;
	}
	s->push_back(static_cast<char>(v));
}

class Reader
{
  public:
	explicit Reader(const std::string &s) : at_(s.data()), end_(s.data() + s.size()) {}

	uint64_t	Next()
	{
		uint64_t	v = 0;

		for (int shift = 0; at_ < end_ && shift < 64; shift += 7)
		{
			uint8_t		byte = static_cast<uint8_t>(*at_++);

			v |= static_cast<uint64_t>(byte & 127) << shift;
			if (byte < 128)
				return v;
		}
		bad_ = true;
		return 0;
	}
	bool		Bad() const { return bad_; }

  private:
	const char *at_;
	const char *const end_;
	bool		bad_ = false;
};

/* ---- the property ------------------------------------------------------------------- */

/* All numbers of a file, in the order of the property. */
template<typename F> void
EachNumber(KvFile *f, F each)
{
	CodecSummary *s = &f->summary;

	for (uint64_t *v : {&s->pages, &s->rows, &s->entries, &s->bytes, &s->doomed,
						&s->doomed_bytes, &s->deletes, &s->deadslots, &s->unfrozen})
		each(v);
	for (uint32_t *v : {&s->oldest_unfrozen, &s->newest_unfrozen})
	{
		uint64_t	wide = *v;

		each(&wide);
		*v = static_cast<uint32_t>(wide);
	}
	for (uint64_t *v : {&f->operands, &f->operand_bytes, &f->empty, &f->tombstones})
		each(v);
}

std::string
Encode(KvFile *f, const std::vector<FileStorage> &storages)
{
	std::string out;
	OrbitStorageId last = 0;

	PutNumber(&out, SummaryVersion);
	EachNumber(f, [&](uint64_t *v) { PutNumber(&out, *v); });
	PutNumber(&out, storages.size());
	for (const auto &s : storages)
	{
		PutNumber(&out, s.first - last);
		PutNumber(&out, s.last - s.first);
		PutNumber(&out, s.count);
		PutNumber(&out, s.bytes);
		PutNumber(&out, s.deadslots);
		if (s.deadslots > 0)
		{
			PutNumber(&out, s.oldest_dead);
			PutNumber(&out, s.newest_dead - s.oldest_dead);
		}
		last = s.last;
	}
	return out;
}

/* False, and nothing filled in: there is no summary that this version can read. */
bool
Decode(const std::string &property, FileInfo *info)
{
	Reader		in(property);
	FileInfo	read = *info;
	OrbitStorageId last = 0;

	if (in.Next() != SummaryVersion)
		return false;
	EachNumber(&read.file, [&](uint64_t *v) { *v = in.Next(); });
	for (uint64_t n = in.Next(); n > 0 && !in.Bad(); n--)
	{
		FileStorage s = {};

		s.first = last + in.Next();
		s.last = s.first + in.Next();
		s.count = in.Next();
		s.bytes = in.Next();
		s.deadslots = in.Next();
		if (s.deadslots > 0)
		{
			s.oldest_dead = in.Next();
			s.newest_dead = s.oldest_dead + in.Next();
		}
		read.storages.push_back(s);
		last = s.last;
	}
	if (in.Bad())
		return false;
	read.file.has_summary = true;
	*info = read;
	return true;
}

/* ---- the collector ---------------------------------------------------------------------- */

class SummaryCollector : public rocksdb::TablePropertiesCollector
{
  public:
	~SummaryCollector() override { CodecBufFree(&copy_); }

	const char *Name() const override { return "OrbitSummary"; }
	Status		AddUserKey(const Slice &key, const Slice &value, rocksdb::EntryType type,
						   rocksdb::SequenceNumber, uint64_t) override
	{
		try
		{
			broken_ = broken_ || !Add(key, value, type);
		}
		catch (...)
		{
			broken_ = true;
		}
		return Status::OK();
	}
	Status		Finish(UserCollectedProperties *properties) override
	{
		try
		{
			if (!broken_)
				(*properties)[SummaryName] = Encode(&file_, storages_);
		}
		catch (...)
		{
			return Status::MemoryLimit("out of memory");
		}
		return Status::OK();
	}
	UserCollectedProperties GetReadableProperties() const override { return {}; }

  private:
	bool		Add(const Slice &key, const Slice &value, rocksdb::EntryType type);
	bool		AddDeadSlots(const Slice &value, FileStorage *s);
	FileStorage *StorageAt(OrbitStorageId storage);

	KvFile		file_ = {};
	std::vector<FileStorage> storages_;
	CodecBuf	copy_ = {};
	bool		broken_ = false;
};

/* Every second one is added to the one before it. */
void
Thin(std::vector<FileStorage> *list)
{
	size_t		n = 0;

	for (size_t i = 0; i < list->size(); i += 2)
	{
		FileStorage s = (*list)[i];

		if (i + 1 < list->size())
		{
			const FileStorage &next = (*list)[i + 1];

			if (next.deadslots > 0)
			{
				s.oldest_dead = s.deadslots > 0 ? std::min(s.oldest_dead, next.oldest_dead)
					: next.oldest_dead;
				s.newest_dead = std::max(s.newest_dead, next.newest_dead);
			}
			s.last = next.last;
			s.count += next.count;
			s.bytes += next.bytes;
			s.deadslots += next.deadslots;
		}
		(*list)[n++] = s;
	}
	list->resize(n);
}

/* Keys ascend, so it is the last one or a new one. */
FileStorage *
SummaryCollector::StorageAt(OrbitStorageId storage)
{
	if (storages_.empty() || storages_.back().last != storage)
	{
		FileStorage s = {};

		if (storages_.size() >= MaxStorages)
			Thin(&storages_);
		s.first = s.last = storage;
		s.count = 1;
		storages_.push_back(s);
	}
	return &storages_.back();
}

/* A dead slot is the oldest entry of its chain. */
bool
SummaryCollector::AddDeadSlots(const Slice &value, FileStorage *s)
{
	CodecPage	page;

	copy_.len = 0;				/* aligned there */
	if (!CodecBufAppend(&copy_, value.data(), value.size()) ||
		!CodecPageOpen(&page, copy_.data, copy_.len))
		return false;
	for (int i = 0; i < page.nchains; i++)
	{
		int			slot;

		for (const CodecEntry *e = CodecPageChain(&page, i, &slot); e != nullptr;
			 e = CodecPageOlder(&page, i, e))
		{
			uint64_t	ended = static_cast<uint64_t>(e->cid) << 32 | e->xid;

			if (CodecEntryKind(e) != CODEC_DEADSLOT)
				continue;
			s->oldest_dead = s->deadslots > 0 ? std::min(s->oldest_dead, ended) : ended;
			s->newest_dead = std::max(s->newest_dead, ended);
			s->deadslots++;
		}
	}
	return true;
}

/* False: a page could not be read, so there is no summary of this file. */
bool
SummaryCollector::Add(const Slice &key, const Slice &value, rocksdb::EntryType type)
{
	OrbitStorageId storage;
	uint32_t	number;
	CodecSummary before = file_.summary;
	FileStorage *s;

	if (CodecKeyIsReserved(key.data(), key.size()))
		return true;
	if (!CodecPageKeyParse(key.data(), key.size(), &storage, &number))
		return false;
	s = StorageAt(storage);
	if (type != rocksdb::kEntryPut && type != rocksdb::kEntryMerge)
	{
		file_.tombstones++;
		return true;
	}
	CodecSummarize(value.data(), value.size(), &file_.summary);
	if (file_.summary.pages != before.pages + 1)
		return false;
	file_.empty += file_.summary.rows == before.rows;
	if (type == rocksdb::kEntryMerge)
	{
		file_.operands++;
		file_.operand_bytes += value.size();
	}
	s->bytes += value.size();
	return file_.summary.deadslots == before.deadslots || AddDeadSlots(value, s);
}

class SummaryCollectorFactory : public rocksdb::TablePropertiesCollectorFactory
{
  public:
	const char *Name() const override { return "OrbitSummaryFactory"; }
	rocksdb::TablePropertiesCollector *
				CreateTablePropertiesCollector(Context) override
	{
		return new SummaryCollector();
	}
};

/* ---- the list ------------------------------------------------------------------------------ */

/* A file of pg_data as the version lists it. */
struct Listed
{
	int			level;
	const rocksdb::SstFileMetaData *meta;
};

/* False: nothing but generation keys. */
bool
Bounds(const rocksdb::SstFileMetaData &meta, KvFile *f)
{
	if (CodecKeyIsReserved(meta.largestkey.data(), meta.largestkey.size()))
		return false;
	if (!CodecPageKeyParse(meta.smallestkey.data(), meta.smallestkey.size(),
						   &f->first_storage, &f->first_page))
	{
		f->first_storage = 1;
		f->first_page = 0;
	}
	if (!CodecPageKeyParse(meta.largestkey.data(), meta.largestkey.size(),
						   &f->last_storage, &f->last_page))
	{
		f->last_storage = UINT64_MAX;
		f->last_page = UINT32_MAX;
	}
	return true;
}

std::string
PathOf(const rocksdb::SstFileMetaData &meta)
{
	return meta.directory + "/" + meta.relative_filename;
}

std::vector<Listed>
Select(const rocksdb::ColumnFamilyMetaData &family, OrbitStorageId from, OrbitStorageId to)
{
	std::vector<Listed> out;

	for (const auto &level : family.levels)
	{
		for (const auto &meta : level.files)
		{
			KvFile		f;

			if (Bounds(meta, &f) && f.last_storage >= from && f.first_storage <= to)
				out.push_back({level.level, &meta});
		}
	}
	return out;
}

/*
 * Reads the properties of those files that have not been read yet.  RocksDB gives
 * those of a range of keys; what is known is put into the collection first, so that
 * it is not read again.
 */
Status
ReadInfos(KvDb *db, const std::vector<Listed> &files)
{
	rocksdb::TablePropertiesCollection known;
	Status		s;

	for (const auto &f : files)
		if (db->files.count(f.meta->file_number) != 0)
			known[PathOf(*f.meta)] = nullptr;
	for (const auto &f : files)
	{
		rocksdb::Range range(f.meta->smallestkey, f.meta->largestkey);
		std::string path = PathOf(*f.meta);

		if (db->files.count(f.meta->file_number) != 0)
			continue;
		if (known.count(path) == 0)
			s = db->inst->db->GetPropertiesOfTablesInRange(db->inst->families[ORBIT_PG_DATA],
														   &range, 1, &known);
		if (!s.ok())
			return s;
		auto		it = known.find(path);

		if (it == known.end())
			continue;			/* gone meanwhile: a summary will be missing */
		auto		info = std::make_shared<FileInfo>();
		auto		property = it->second->user_collected_properties.find(SummaryName);

		info->file = {};
		if (property != it->second->user_collected_properties.end())
			(void) Decode(property->second, info.get());
		db->files[f.meta->file_number] = info;
	}
	return s;
}

/* Of files that are gone nothing is kept. */
void
Forget(KvDb *db, const rocksdb::ColumnFamilyMetaData &family)
{
	std::vector<uint64_t> live;

	if (db->files.size() <= family.file_count)
		return;
	for (const auto &level : family.levels)
		for (const auto &meta : level.files)
			live.push_back(meta.file_number);
	std::sort(live.begin(), live.end());
	for (auto it = db->files.begin(); it != db->files.end();)
		it = std::binary_search(live.begin(), live.end(), it->first) ? std::next(it)
			: db->files.erase(it);
}

/* Storages of [s.first, s.last] that are dead; of several they may be others. */
uint64_t
DeadIn(const Horizon &h, const FileStorage &s)
{
	auto		from = std::lower_bound(h.dead->begin(), h.dead->end(), s.first);
	auto		to = std::upper_bound(h.dead->begin(), h.dead->end(), s.last);

	return std::min<uint64_t>(to - from, s.count);
}

/* The greatest cleaned mark of [s.first, s.last]. */
uint64_t
CleanedIn(const Horizon &h, const FileStorage &s)
{
	uint64_t	most = 0;
	auto		it = std::lower_bound(h.cleaned->begin(), h.cleaned->end(), s.first,
									  [](const KvCleaned &c, OrbitStorageId id) {
										  return c.storage < id;
									  });

	for (; it != h.cleaned->end() && it->storage <= s.last; ++it)
		most = std::max(most, it->cleaned);
	return most;
}

/* What the horizon says to the storages of a file. */
void
Appraise(const Horizon &h, const FileInfo &info, KvFile *f)
{
	for (const auto &s : info.storages)
	{
		f->dropped_bytes += s.bytes / s.count * DeadIn(h, s);
		if (s.deadslots == 0)
			continue;

		uint64_t	cleaned = CleanedIn(h, s);

		if (cleaned > s.newest_dead)
			f->cleaned_slots += s.deadslots;
		else if (cleaned > s.oldest_dead)
			f->cleaned_slots += s.deadslots *
				(cleaned - s.oldest_dead) / (s.newest_dead - s.oldest_dead + 1);
	}
}

Status
ListFiles(KvDb *db, OrbitStorageId from, OrbitStorageId to, std::vector<KvFile> *out)
{
	rocksdb::ColumnFamilyMetaData family;
	auto		horizon = db->pruner ? db->pruner->Current() : nullptr;
	Status		s;

	db->inst->db->GetColumnFamilyMetaData(db->inst->families[ORBIT_PG_DATA], &family);
	Forget(db, family);

	std::vector<Listed> files = Select(family, from, to);

	s = ReadInfos(db, files);
	if (!s.ok())
		return s;
	for (const auto &listed : files)
	{
		auto		it = db->files.find(listed.meta->file_number);
		KvFile		f = {};

		if (it != db->files.end())
		{
			f = it->second->file;
			if (horizon)
				Appraise(*horizon, *it->second, &f);
		}
		(void) Bounds(*listed.meta, &f);
		f.number = listed.meta->file_number;
		f.level = listed.level;
		f.bytes = listed.meta->size;
		f.compacting = listed.meta->being_compacted;
		out->push_back(f);
	}
	return s;
}

}								/* namespace */

std::shared_ptr<rocksdb::TablePropertiesCollectorFactory>
NewSummaryCollector()
{
	return std::make_shared<SummaryCollectorFactory>();
}

}								/* namespace kv */

using namespace kv;

void
KvListFiles(KvDb *db, OrbitStorageId from, OrbitStorageId to, KvFile **files, int *n,
			KvStatus *st)
{
	*files = nullptr;
	*n = 0;
	Guarded(st, [&]() -> Status {
		std::vector<KvFile> list;
		Status		s = ListFiles(db, from, to, &list);

		if (!s.ok() || list.empty())
			return s;
		*files = static_cast<KvFile *>(malloc(list.size() * sizeof(KvFile)));
		if (*files == nullptr)
			return Status::MemoryLimit("out of memory");
		std::copy(list.begin(), list.end(), *files);
		*n = static_cast<int>(list.size());
		return s;
	});
}
