/*
 * rocks.h: private to src/kv; what its C++ files share.
 *
 * rocks_status.cpp  Status -> KvStatus, exceptions, signals
 * rocks_merge.cpp   merge operator and prefix extractor: called in RocksDB's threads
 * rocks_filter.cpp  horizons, the compaction filter, where files are cut: the same
 * rocks_files.cpp   summaries of files, the list of files
 * rocks_compact.cpp compactions on request
 * rocks_fs.cpp      file system that defers deletions, environment without threads
 * rocks_fault.cpp   file system that fails when a test says so; development builds only
 * rocks_log.cpp     RocksDB's LOG
 * rocks_open.cpp    options, opening, catching up
 * rocks_read.cpp    get and iterators
 * rocks_write.cpp   batches: SST files and the atomic ingest
 * rocks_admin.cpp   housekeeping
 * rocks_snapshot.cpp what backups copy
 */
#ifndef ORBIT_ROCKS_H
#define ORBIT_ROCKS_H

#include <signal.h>

#include <array>
#include <atomic>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include <rocksdb/compaction_filter.h>
#include <rocksdb/db.h>
#include <rocksdb/env.h>
#include <rocksdb/file_system.h>
#include <rocksdb/listener.h>
#include <rocksdb/merge_operator.h>
#include <rocksdb/options.h>
#include <rocksdb/slice_transform.h>
#include <rocksdb/sst_partitioner.h>
#include <rocksdb/table_properties.h>

#include "kv/kv.h"

namespace kv
{

/* ---- rocks_status.cpp ----------------------------------------------------- */

void		SetStatus(KvStatus *st, KvCode code, const char *message);
void		FromStatus(KvStatus *st, const rocksdb::Status &s);
void		FromException(KvStatus *st);	/* inside a catch (...) only */

/* Why the last merge of this thread failed; NULL once it has been reported. */
extern thread_local const char *merge_failure;

/* Runs f, which returns a rocksdb::Status, with no way out but *st. */
template<typename F> void
Guarded(KvStatus *st, F f) noexcept
{
	SetStatus(st, KV_OK, "");
	try
	{
		FromStatus(st, f());
	}
	catch (...)
	{
		FromException(st);
	}
}

/* Every signal is blocked for the life of the object, so for threads born in it. */
class SignalGuard
{
  public:
	SignalGuard();
	~SignalGuard();
	SignalGuard(const SignalGuard &) = delete;
	SignalGuard &operator=(const SignalGuard &) = delete;

  private:
	sigset_t	saved_;
};

/* ---- rocks_merge.cpp -------------------------------------------------------- */

class Pruner;

/* pruner: NULL in a secondary, where nothing is pruned. */
std::shared_ptr<rocksdb::MergeOperator> NewPageMerge(std::shared_ptr<Pruner> pruner);
std::shared_ptr<const rocksdb::SliceTransform> NewIndexPrefix();

/* ---- rocks_filter.cpp -------------------------------------------------------- */

using FateChunk = std::array<uint8_t, CODEC_FATES_CHUNK / 8>;

/* Immutable once published. */
struct Horizon
{
	CodecHorizon h;				/* h.fates is fates */
	std::vector<std::shared_ptr<const FateChunk>> chunks;
	std::vector<const uint8_t *> fates;
	std::shared_ptr<const std::vector<OrbitStorageId>> dead;
	std::shared_ptr<const std::vector<KvCleaned>> cleaned;

	bool		IsDead(OrbitStorageId storage) const;
	uint64_t	CleanedOf(OrbitStorageId storage) const;	/* 0: never */
};

/* The newest horizon, and what has been done with it.  All but Set by any thread. */
class Pruner
{
  public:
	rocksdb::Status Set(const KvHorizon &k);
	std::shared_ptr<const Horizon> Current() const; /* NULL: nothing is pruned */

	void		Count(size_t before, size_t after, bool removed);
	void		CountDamaged() { damaged_++; }
	void		CountCompaction(uint64_t read, uint64_t written);
	void		Get(KvPruned *p) const;

  private:
	std::shared_ptr<const Horizon> horizon_;	/* by std::atomic_load and _store only */
	std::atomic<uint64_t> pages_{0};
	std::atomic<uint64_t> removed_{0};
	std::atomic<uint64_t> bytes_{0};
	std::atomic<uint64_t> damaged_{0};
	std::atomic<uint64_t> compactions_{0};
	std::atomic<uint64_t> read_{0};
	std::atomic<uint64_t> written_{0};
};

std::shared_ptr<rocksdb::CompactionFilterFactory> NewPageFilter(std::shared_ptr<Pruner> pruner);
std::shared_ptr<rocksdb::SstPartitionerFactory> NewStoragePartitioner(uint64_t file_bytes);

/* ---- rocks_files.cpp ------------------------------------------------------------ */

/* What one file says of a storage, or of several with ids first..last. */
struct FileStorage
{
	OrbitStorageId first;
	OrbitStorageId last;
	uint64_t	count;			/* how many there are */
	uint64_t	bytes;
	uint64_t	deadslots;
	uint64_t	oldest_dead;
	uint64_t	newest_dead;
};

struct FileInfo
{
	KvFile		file;			/* what does not change while the file exists */
	std::vector<FileStorage> storages;	/* ascending, ranges do not overlap */
};

std::shared_ptr<rocksdb::TablePropertiesCollectorFactory> NewSummaryCollector();

/* ---- rocks_compact.cpp ------------------------------------------------------------ */

/* The compaction that KvCompactStart began; its thread writes nothing of KvDb but this. */
struct Job
{
	std::vector<std::string> names;
	int			level;
	uint64_t	file_bytes;
	std::thread thread;
	std::atomic<bool> done{false};

	/* valid once done */
	KvStatus	result;
	uint64_t	read = 0;
	uint64_t	written = 0;
};

void		StopJob(KvDb *db) noexcept;

/* ---- rocks_fault.cpp ------------------------------------------------------------ */

/*
 * The file system below ours: RocksDB's own, in development builds with the faults of tests.  FaultErrno: the
 * same for calls of our own in the primary; the errno to fail with, or 0.
 */
#ifdef ORBIT_DEV
std::shared_ptr<rocksdb::FileSystem> BaseFileSystem(bool primary);
int			FaultErrno(int call, const std::string &path);
/*
 * False with ORBIT_NO_SYNC in the environment: files are not synced, for tests that end processes but no
 * machine.
 */
bool		Syncs();
#else
inline int
FaultErrno(int, const std::string &)
{
	return 0;
}
inline std::shared_ptr<rocksdb::FileSystem>
BaseFileSystem(bool)
{
	return rocksdb::FileSystem::Default();
}

inline bool
Syncs()
{
	return true;
}
#endif

/* ---- rocks_fs.cpp --------------------------------------------------------------- */

/*
 * The primary's file system.  SST files of the live directory are not deleted
 * but put on a list; see KvUnlinkRetired.  Everything may be called from
 * RocksDB's threads.
 */
class DeferFs : public rocksdb::FileSystemWrapper
{
  public:
	explicit DeferFs(const std::string &live);

	const char *Name() const override { return "OrbitDeferFs"; }
	rocksdb::IOStatus DeleteFile(const std::string &name, const rocksdb::IOOptions &o,
								 rocksdb::IODebugContext *dbg) override;
	rocksdb::IOStatus NewWritableFile(const std::string &name, const rocksdb::FileOptions &o,
									  std::unique_ptr<rocksdb::FSWritableFile> *file,
									  rocksdb::IODebugContext *dbg) override;
	rocksdb::IOStatus LinkFile(const std::string &from, const std::string &to,
							   const rocksdb::IOOptions &o,
							   rocksdb::IODebugContext *dbg) override;
	rocksdb::IOStatus RenameFile(const std::string &from, const std::string &to,
								 const rocksdb::IOOptions &o,
								 rocksdb::IODebugContext *dbg) override;
	rocksdb::IOStatus NewDirectory(const std::string &name, const rocksdb::IOOptions &o,
								   std::unique_ptr<rocksdb::FSDirectory> *dir,
								   rocksdb::IODebugContext *dbg) override;

	/* The SST files linked into the live directory since BeginLinks are not used: an ingest has failed. */
	void		BeginLinks();
	void		RetireLinks();

	std::vector<std::string> Untagged();
	void		Tag(const std::vector<std::string> &names, uint64_t generation) noexcept;
	void		Unlink(uint64_t min_generation, int *untagged, int *waiting);

  private:
	bool		LiveSst(const std::string &path, std::string *name) const;
	bool		GiveBack(const std::string &path);
	bool		NamedByCurrent(const std::string &path) const;
	rocksdb::IOStatus RefuseWaiting(const std::string &path);

	const std::string live_;
	std::mutex	mutex_;
	std::map<std::string, uint64_t> waiting_;	/* file name -> tag, 0: none yet */
	std::vector<std::string> linked_;
};

/* Environment of a secondary: starts no thread unless one is really asked for. */
std::unique_ptr<rocksdb::Env> NewThreadlessEnv();

rocksdb::Status ErrnoStatus(const char *what, const std::string &path, int err);
rocksdb::Status MakeDirectory(const std::string &path);
rocksdb::Status SyncDirectory(const std::string &path);
rocksdb::Status EmptyDirectory(const std::string &path);

/* ---- rocks_log.cpp --------------------------------------------------------------- */

std::shared_ptr<rocksdb::Logger> NewFileLogger(const std::string &live);
std::shared_ptr<rocksdb::Logger> NewNullLogger();

/* ---- rocks_admin.cpp -------------------------------------------------------------- */

/*
 * Remembers RocksDB's background error and keeps it from resuming by itself; counts compactions.  No
 * error is left that only a new open would end, and a failed compaction is none at all: see README.md.
 */
class ErrorListener : public rocksdb::EventListener
{
  public:
	explicit ErrorListener(std::shared_ptr<Pruner> pruner) : pruner_(std::move(pruner)) {}
	void		OnBackgroundError(rocksdb::BackgroundErrorReason reason,
								  rocksdb::Status *error) override;
	void		OnErrorRecoveryBegin(rocksdb::BackgroundErrorReason reason,
									 rocksdb::Status error, bool *auto_recovery) override;
	void		OnErrorRecoveryEnd(const rocksdb::BackgroundErrorRecoveryInfo &info) override;
	void		OnCompactionCompleted(rocksdb::DB *db,
									  const rocksdb::CompactionJobInfo &info) override;
	rocksdb::Status Get();
	void		Clear();
	rocksdb::Status TakeCompaction(const char *family);
	bool		TakeDeletionsOff();

  private:
	const std::shared_ptr<Pruner> pruner_;
	std::mutex	mutex_;
	rocksdb::Status error_;
	bool		deletions_off_ = false;
	std::map<std::string, rocksdb::Status> compactions_;	/* failed ones, by family */
};

/* ---- rocks_open.cpp ------------------------------------------------------------------ */

/* RocksDB insists on a family named "default"; it stays empty. */
constexpr int FamilyCount = ORBIT_NFAMILIES + 1;

/*
 * One opened database.  Iterators share it, so a reopened secondary leaves the
 * old one to those that still read from it.
 */
struct Instance
{
	Instance() = default;
	Instance(const Instance &) = delete;
	Instance &operator=(const Instance &) = delete;
	~Instance();

	std::shared_ptr<DeferFs> fs;	/* primary only */
	std::unique_ptr<rocksdb::Env> env;
	rocksdb::DBOptions options;
	std::array<rocksdb::ColumnFamilyOptions, FamilyCount> family_options;
	std::vector<rocksdb::ColumnFamilyHandle *> families;
	rocksdb::DB *db = nullptr;
};

/* What every read uses: no range deletions (K20), no prefix shortcuts. */
rocksdb::ReadOptions PlainRead();

/* Newest generation key that this instance's version of the family holds; 0: none. */
rocksdb::Status ReadGeneration(Instance *inst, int family, uint64_t *generation);

/* The smallest key outside the reserved storage id 0. */
rocksdb::Slice FirstKey();

/* Tests lower it to see MANIFEST files roll over; 0: by the number of files. */
extern uint64_t manifest_bytes_for_tests;

/*
 * Tools that copy a data directory file by file skip names that begin with
 * pgsql_tmp, at any depth; a copy of a live RocksDB would be torn (K15).
 */
constexpr const char *LiveName = KV_LIVE_NAME;
constexpr const char *StageName = KV_STAGE_NAME;
constexpr uint64_t TrimGenerations = 64;
constexpr uint64_t DefaultFileBytes = 64 << 20;

}								/* namespace kv */

struct KvDb
{
	bool		primary;
	std::string dir;
	std::string live;
	KvOptions	options;
	std::shared_ptr<rocksdb::Cache> cache;	/* kept over a reopen */
	std::shared_ptr<kv::Pruner> pruner; /* primary only */
	std::shared_ptr<kv::ErrorListener> listener;	/* primary only */
	std::shared_ptr<kv::Instance> inst;
	uint64_t	proven[ORBIT_NFAMILIES];	/* generations; only grow while inst stays */
	uint64_t	next_generation;	/* primary; never used twice, failed or not */
	uint64_t	trimmed;		/* generation keys up to here have been trimmed */
	uint64_t	stage_serial;	/* names files in stage/ */
	std::map<uint64_t, std::shared_ptr<const kv::FileInfo>> files;	/* by number */
	std::unique_ptr<kv::Job> job;	/* primary; NULL: none */

	std::string Stage() const { return dir + "/" + kv::StageName; }
	uint64_t	FileBytes() const
	{
		return options.target_file_bytes ? options.target_file_bytes : kv::DefaultFileBytes;
	}
};

#endif							/* ORBIT_ROCKS_H */
