/*
 * rocks_open.cpp: options, opening, catching up.
 *
 * The README says why each option is what it is.  Signals are blocked while a
 * database is opened, so every thread that RocksDB starts then keeps them blocked;
 * all pools are full from the start, and threads of threads inherit the mask.
 */
#include <dirent.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <thread>

#include <rocksdb/cache.h>
#include <rocksdb/filter_policy.h>
#include <rocksdb/table.h>

#include "kv/rocks.h"

using rocksdb::ColumnFamilyDescriptor;
using rocksdb::ColumnFamilyOptions;
using rocksdb::CompressionType;
using rocksdb::DBOptions;
using rocksdb::Iterator;
using rocksdb::Slice;
using rocksdb::Status;

namespace kv
{

constexpr int CatchUpTries = 5;
constexpr int ReopenTries = 5;
constexpr int OpenTries = 10;
constexpr int DefaultOpenFiles = 64;
constexpr uint64_t DefaultCacheBytes = 8 << 20;

uint64_t	manifest_bytes_for_tests = 0;

Instance::~Instance()
{
	if (db == nullptr)
		return;
	for (auto *family : families)
		db->DestroyColumnFamilyHandle(family);
	db->Close().PermitUncheckedError();
	delete db;
}

rocksdb::ReadOptions
PlainRead()
{
	rocksdb::ReadOptions r;

	r.ignore_range_deletions = true;
	r.total_order_seek = true;
	r.verify_checksums = true;
	return r;
}

Slice
FirstKey()
{
	return Slice("\0\0\0\0\0\0\0\1", 8);
}

/* ---- options --------------------------------------------------------------------- */

static Status
Compression(int setting, CompressionType *out)
{
	switch (setting)
	{
		case 0:
			*out = rocksdb::kNoCompression;
			return Status::OK();
		case 1:
			*out = rocksdb::kLZ4Compression;
			return Status::OK();
		case 2:
			*out = rocksdb::kZSTD;
			return Status::OK();
		default:
			return Status::InvalidArgument("unknown compression", std::to_string(setting));
	}
}

/*
 * Index and filter blocks live in the block cache, so its size bounds a process. They are cut into parts, and
 * the index is not compressed: a cache that is small beside the files loses them all the time, and a lookup
 * would read and decompress the index of a whole file.
 */
static rocksdb::BlockBasedTableOptions
TableOptions(const KvDb &db, int family)
{
	rocksdb::BlockBasedTableOptions t;

	t.format_version = 5;
	t.checksum = rocksdb::kXXH3;
	t.block_size = 16 << 10;
	t.block_cache = db.cache;
	t.cache_index_and_filter_blocks = true;
	t.cache_index_and_filter_blocks_with_high_priority = true;
	t.index_type = rocksdb::BlockBasedTableOptions::kTwoLevelIndexSearch;
	/* filters of prefixes alone, cut into parts, miss keys at their borders (RocksDB's pull request 12872) */
	t.partition_filters = family != ORBIT_PG_INDEXES;
	t.enable_index_compression = false;
	t.filter_policy.reset(rocksdb::NewBloomFilterPolicy(10));
	t.whole_key_filtering = family != ORBIT_PG_INDEXES;
	return t;
}

static Status
FamilyOptions(const KvDb &db, int family, ColumnFamilyOptions *out)
{
	ColumnFamilyOptions c;
	Status		s = Compression(db.options.compression, &c.compression);

	if (s.ok())
		s = Compression(db.options.bottommost_compression, &c.bottommost_compression);

	/*
	 * Of zstd; LZ4 has none. Level 3, the default, made rows 1.5 % smaller at half to two thirds of the speed
	 * (zstd -b1 -e3 -B16384 on rows of random bytes and of text).
	 */
	c.compression_opts.level = 1;
	c.table_factory.reset(rocksdb::NewBlockBasedTableFactory(TableOptions(db, family)));
	c.write_buffer_size = 64 << 10; /* memtables are never written */
	c.num_levels = 7;
	c.level_compaction_dynamic_level_bytes = true;
	c.target_file_size_base = db.FileBytes();
	c.max_bytes_for_level_base = 4 * db.FileBytes();
	/* the worker unites files of pg_data before (worker_compact.c) */
	c.level0_file_num_compaction_trigger = family == ORBIT_PG_INDEXES ? 4 : 8;
	c.ttl = 0;
	c.periodic_compaction_seconds = 0;	/* the worker says when (a filter turns it on) */
	if (family == ORBIT_PG_DATA)
	{
		c.merge_operator = NewPageMerge(db.pruner);
		c.optimize_filters_for_hits = !db.primary;
		if (db.primary)
		{
			c.compaction_filter_factory = NewPageFilter(db.pruner);
			c.sst_partitioner_factory = NewStoragePartitioner(db.FileBytes());
			c.table_properties_collector_factories.push_back(NewSummaryCollector());
		}
	}
	else if (family == ORBIT_PG_INDEXES)
		c.prefix_extractor = NewIndexPrefix();
	*out = c;
	return s;
}

/*
 * -1 (every file stays open) unless the limit of the process could be reached:
 * then RocksDB closes what was used least.
 */
static int
PrimaryOpenFiles()
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY ||
		limit.rlim_cur >= 65536)
		return -1;
	return std::max<int>(64, static_cast<int>(limit.rlim_cur / 2));
}

/*
 * A secondary reads the whole MANIFEST when it opens (0.1 ms a flush), so it may
 * not grow for months.  But a new one begins with about 100 bytes for every file,
 * and if that alone passed the limit, each edit would start another; so the limit
 * grows with the files there are now.
 */
static uint64_t
ManifestBytes(const std::string &live)
{
	uint64_t	files = 0;

	if (manifest_bytes_for_tests != 0)
		return manifest_bytes_for_tests;
	if (DIR *dir = opendir(live.c_str()))
	{
		while (readdir(dir) != nullptr)
			files++;
		closedir(dir);
	}
	return (UINT64_C(2) << 20) + files * 300;
}

static void
CommonOptions(const KvDb &db, DBOptions *o)
{
	o->paranoid_checks = true;
	o->max_background_jobs = std::max(1, db.options.max_background_jobs);
	o->stats_dump_period_sec = 0;
	o->stats_persist_period_sec = 0;
}

static void
PrimaryOptions(const KvDb &db, Instance *inst)
{
	DBOptions  *o = &inst->options;

	CommonOptions(db, o);
	inst->fs = std::make_shared<DeferFs>(db.live);
	inst->env = rocksdb::NewCompositeEnv(inst->fs);
	o->env = inst->env.get();
	o->create_if_missing = true;
	o->create_missing_column_families = true;
	o->wal_dir = db.dir + "/wal";
	o->max_open_files = PrimaryOpenFiles();
	o->max_manifest_file_size = ManifestBytes(db.live);
	o->bytes_per_sync = 1 << 20;
	o->compaction_readahead_size = 2 << 20;
	o->avoid_flush_during_shutdown = true;
	o->info_log = NewFileLogger(db.live);
	o->info_log_level = rocksdb::InfoLogLevel::INFO_LEVEL;
	o->max_bgerror_resume_count = 0;	/* KvResume decides */
	o->listeners.push_back(db.listener);
}

static void
SecondaryOptions(const KvDb &db, Instance *inst)
{
	DBOptions  *o = &inst->options;

	CommonOptions(db, o);
	inst->env = NewThreadlessEnv();
	o->env = inst->env.get();
	o->wal_dir = db.dir + "/nowal";
	o->max_background_jobs = 1;
	o->max_open_files = db.options.max_open_files > 0 ? db.options.max_open_files
		: DefaultOpenFiles;
	/* in 64 shards the bound would be 64 files, and any two might shut each other out */
	o->table_cache_numshardbits = 0;
	o->max_file_opening_threads = 1;
	o->info_log = NewNullLogger();
	o->info_log_level = rocksdb::InfoLogLevel::HEADER_LEVEL;
	o->skip_stats_update_on_db_open = true;
	/* a stat of every file of the MANIFEST, instead of opening each */
	o->verify_sst_unique_id_in_manifest = false;
	/* one directory listing instead of a stat of every file */
	o->skip_checking_sst_file_sizes_on_db_open = true;
	/* never list the primary's files, never rotate the primary's LOG */
	o->delete_obsolete_files_period_micros = UINT64_C(1) << 60;
	o->keep_log_file_num = 1 << 30;
}

/* ---- opening ---------------------------------------------------------------------------- */

static Status
OpenInstance(const KvDb &db, std::shared_ptr<Instance> *out)
{
	auto		inst = std::make_shared<Instance>();
	std::vector<ColumnFamilyDescriptor> descriptors;

	if (db.primary)
		PrimaryOptions(db, inst.get());
	else
		SecondaryOptions(db, inst.get());
	for (int f = 0; f < FamilyCount; f++)
	{
		Status		s = FamilyOptions(db, f, &inst->family_options[f]);

		if (!s.ok())
			return s;
		descriptors.emplace_back(f < ORBIT_NFAMILIES
								 ? std::string(KvFamilyName(static_cast<OrbitFamily>(f)))
								 : rocksdb::kDefaultColumnFamilyName,
								 inst->family_options[f]);
	}

	SignalGuard guard;
	Status		s;

	if (db.primary)
		s = rocksdb::DB::Open(inst->options, db.live, descriptors, &inst->families, &inst->db);
	else
		s = rocksdb::DB::OpenAsSecondary(inst->options, db.live, db.dir, descriptors,
										 &inst->families, &inst->db);
	if (s.ok())
		*out = inst;
	return s;
}

Status
ReadGeneration(Instance *inst, int family, uint64_t *generation)
{
	char		key[CODEC_GENERATION_KEY_SIZE];
	uint64_t	value;

	*generation = 0;
	CodecGenerationKey(key, UINT64_MAX);

	std::unique_ptr<Iterator> it(inst->db->NewIterator(PlainRead(), inst->families[family]));

	it->SeekForPrev(Slice(key, sizeof key));
	if (!it->Valid())
		return it->status();
	if (!CodecGenerationKeyParse(it->key().data(), it->key().size(), generation) ||
		it->value().size() != sizeof value)
		return Status::Corruption("damaged generation key",
								  KvFamilyName(static_cast<OrbitFamily>(family)));
	memcpy(&value, it->value().data(), sizeof value);
	if (value != *generation)
		return Status::Corruption("generation key and value differ",
								  KvFamilyName(static_cast<OrbitFamily>(family)));
	return Status::OK();
}

/* Reads every family's generation of inst into db->proven. */
static Status
Prove(KvDb *db)
{
	Status		s;

	for (int f = 0; f < ORBIT_NFAMILIES && s.ok(); f++)
	{
		db->proven[f] = 0;
		s = ReadGeneration(db->inst.get(), f, &db->proven[f]);
	}
	return s;
}

static uint64_t
Lowest(const KvDb *db)
{
	return *std::min_element(db->proven, db->proven + ORBIT_NFAMILIES);
}

static std::unique_ptr<KvDb>
NewDb(const char *dir, const KvOptions *o, bool primary)
{
	std::unique_ptr<KvDb> db(new KvDb());
	uint64_t	cache = o->block_cache_bytes ? o->block_cache_bytes : DefaultCacheBytes;

	db->primary = primary;
	db->dir = dir;
	while (db->dir.size() > 1 && db->dir.back() == '/')
		db->dir.pop_back();
	db->live = db->dir + "/" + LiveName;
	db->options = *o;
	/* A backend reads with one thread: shards would only split a small cache. */
	db->cache = rocksdb::NewLRUCache(cache, primary ? -1 : 0, false, 0.5);
	if (primary)
	{
		db->pruner = std::make_shared<Pruner>();
		db->listener = std::make_shared<ErrorListener>(db->pruner);
	}
	return db;
}

static Status
MakeDirectories(const KvDb &db)
{
	Status		s;

	for (const char *name : {LiveName, StageName, "wal", "nowal"})
		if (s.ok())
			s = MakeDirectory(db.dir + "/" + name);
	return s.ok() ? SyncDirectory(db.dir) : s;
}

/*
 * One ingest gives all families the same generation in one atomic group, so a
 * difference means that files or the MANIFEST have been lost or tampered with.
 */
static Status
StartGenerations(KvDb *db)
{
	Status		s = Prove(db);

	if (!s.ok())
		return s;
	for (int f = 1; f < ORBIT_NFAMILIES; f++)
		if (db->proven[f] != db->proven[0])
			return Status::Corruption("families hold different generations",
									  std::to_string(db->proven[0]) + " and " +
									  std::to_string(db->proven[f]));
	db->next_generation = db->proven[0] + 1;
	db->trimmed = 0;
	return s;
}

/* ---- catching up ---------------------------------------------------------------------------- */

static void
Nap(int ms)
{
	if (ms > 0)
		std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

/*
 * Catch-ups say OK without being caught up, and an error sticks (K22): only the
 * generation keys count, and after an error only a reopen helps.
 */
static Status
CatchUp(KvDb *db, uint64_t want)
{
	Status		s;

	for (int i = 0; i < CatchUpTries && s.ok(); i++)
	{
		Nap(i);
		s = db->inst->db->TryCatchUpWithPrimary();
		if (s.ok())
			s = Prove(db);
		if (s.ok() && Lowest(db) >= want)
			break;
	}
	return s;
}

/* The old instance lives on as long as an iterator uses it. */
static Status
Reopen(KvDb *db)
{
	std::shared_ptr<Instance> inst;
	Status		s = OpenInstance(*db, &inst);

	if (s.ok())
	{
		db->inst = inst;
		s = Prove(db);
	}
	return s;
}

static Status
SecondaryCatchUp(KvDb *db, uint64_t want, bool *reopened)
{
	SignalGuard guard;
	Status		s = CatchUp(db, want);

	for (int i = 0; i < ReopenTries && !(s.ok() && Lowest(db) >= want); i++)
	{
		std::shared_ptr<Instance> before = db->inst;

		Nap(5 * i);
		s = Reopen(db);
		*reopened = *reopened || db->inst != before;
		if (s.ok() && Lowest(db) < want)
			s = CatchUp(db, want);
	}
	return s;
}

static void
SetStale(KvStatus *st, uint64_t want, uint64_t reached, const Status &last)
{
	std::string text = "generation " + std::to_string(want) + " wanted, " +
		std::to_string(reached) + " reached";

	if (!last.ok())
		text += ": " + last.ToString();
	SetStatus(st, KV_STALE, text.c_str());
}

}								/* namespace kv */

/* ---- interface ------------------------------------------------------------------------ */

using namespace kv;

void
KvOpenPrimary(const char *dir, const KvOptions *o, KvDb **out, KvStatus *st)
{
	*out = nullptr;
	Guarded(st, [&]() -> Status {
		std::unique_ptr<KvDb> db = NewDb(dir, o, true);
		Status		s = MakeDirectories(*db);

		if (s.ok())
			s = OpenInstance(*db, &db->inst);
		if (s.ok())
			s = EmptyDirectory(db->Stage());	/* ours now: the lock is held */
		if (s.ok())
			s = StartGenerations(db.get());
		if (s.ok())
			*out = db.release();
		return s;
	});
}

/* Between reading CURRENT and opening the MANIFEST the primary may replace both. */
void
KvOpenSecondary(const char *dir, const KvOptions *o, KvDb **out, KvStatus *st)
{
	*out = nullptr;
	Guarded(st, [&]() -> Status {
		std::unique_ptr<KvDb> db = NewDb(dir, o, false);
		Status		s = Status::IOError();

		if (access((db->live + "/CURRENT").c_str(), F_OK) != 0)
			return Status::InvalidArgument("no database in", db->live);
		for (int i = 0; i < OpenTries && !s.ok() && !s.IsInvalidArgument(); i++)
		{
			Nap(i);
			s = OpenInstance(*db, &db->inst);
			if (s.ok())
				s = Prove(db.get());
		}
		if (s.ok())
			*out = db.release();
		return s;
	});
}

bool
KvExists(const char *dir)
{
	char		path[4096];

	snprintf(path, sizeof path, "%s/%s/CURRENT", dir, kv::LiveName);
	return access(path, F_OK) == 0;
}

void
KvClose(KvDb *db)
{
	try
	{
		if (db != nullptr)
			StopJob(db);
		delete db;
	}
	catch (...)
	{
	}
}

void
KvGeneration(KvDb *db, OrbitFamily family, uint64_t *generation, KvStatus *st)
{
	*generation = 0;
	Guarded(st, [&]() -> Status {
		return ReadGeneration(db->inst.get(), family, generation);
	});
}

void
KvCatchUp(KvDb *db, uint64_t want, uint64_t *reached, bool *reopened, KvStatus *st)
{
	*reopened = false;
	*reached = Lowest(db);
	SetStatus(st, KV_OK, "");
	if (*reached >= want)
		return;
	try
	{
		Status		s = db->primary ? Prove(db) : SecondaryCatchUp(db, want, reopened);

		*reached = Lowest(db);
		if (!s.ok() || *reached < want)
			SetStale(st, want, *reached, s);
	}
	catch (...)
	{
		FromException(st);
	}
}
