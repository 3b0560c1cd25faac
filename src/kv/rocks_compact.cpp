/*
 * rocks_compact.cpp: compactions on request, and files that can be dropped whole.
 *
 * CompactFiles rewrites what it is given, and what overlaps that down to the level asked
 * for, in one pass in the calling thread; a manual compaction of a range would rewrite
 * it once a level.  It refuses when another compaction has one of the files, or writes
 * where it would: then nothing has changed, and the caller tries again later.
 *
 * The job's thread is born with all signals blocked and touches nothing of KvDb.
 * Nothing but closing the database stops it early; what it has written is then deleted as unreferenced.
 */
#include <stdio.h>

#include <array>
#include <vector>

#include <rocksdb/convenience.h>

#include "kv/rocks.h"

using rocksdb::Slice;
using rocksdb::Status;

namespace kv
{

/*
 * RocksDB's defaults for these options would make one file of everything, compressed
 * with Snappy.
 */
static Status
CompactFiles(Instance *inst, Job *job)
{
	rocksdb::CompactionOptions o;
	rocksdb::CompactionJobInfo info;
	Status		s;

	o.compression = rocksdb::kDisableCompressionOption;
	o.output_file_size_limit = job->file_bytes;
	o.max_subcompactions = 1;
	s = inst->db->CompactFiles(o, inst->families[ORBIT_PG_DATA], job->names, job->level, -1,
							   nullptr, &info);
	if (s.ok())
	{
		job->read = info.stats.total_input_bytes;
		job->written = info.stats.total_output_bytes;
	}
	return s;
}

/* Files that are gone or taken are no error: the list was old. */
static void
SetResult(KvStatus *st, const Status &s)
{
	FromStatus(st, s);
	if (s.IsAborted() || s.IsInvalidArgument() || s.IsIncomplete() ||
		s.IsShutdownInProgress() || s.IsTryAgain())
		st->code = KV_AGAIN;
	else if (s.IsCompactionTooLarge())
		st->code = KV_NO_SPACE;
}

static void
RunJob(Job *job, std::shared_ptr<Instance> inst) noexcept
{
	try
	{
		SetResult(&job->result, CompactFiles(inst.get(), job));
	}
	catch (...)
	{
		FromException(&job->result);
	}
	inst.reset();
	job->done = true;
}

/* Ends the job, whose files stay as they were. */
void
StopJob(KvDb *db) noexcept
{
	if (!db->job)
		return;
	rocksdb::CancelAllBackgroundWork(db->inst->db, false);
	db->job->thread.join();
	db->job.reset();
}

}								/* namespace kv */

using namespace kv;

bool
KvCompactStart(KvDb *db, const uint64_t *numbers, int n, int level, KvStatus *st)
{
	bool		started = false;

	SetStatus(st, KV_OK, "");
	if (db->job)
		return false;
	Guarded(st, [&]() -> Status {
		std::unique_ptr<Job> job(new Job());
		SignalGuard guard;

		if (!db->primary || n < 1)
			return Status::InvalidArgument("nothing to compact");
		for (int i = 0; i < n; i++)
		{
			char		name[32];

			snprintf(name, sizeof name, "/%06llu.sst", static_cast<unsigned long long>(numbers[i]));
			job->names.push_back(name);
		}
		job->level = level;
		job->file_bytes = db->FileBytes();
		job->thread = std::thread(RunJob, job.get(), db->inst);
		db->job = std::move(job);
		started = true;
		return Status::OK();
	});
	return started;
}

bool
KvCompactPoll(KvDb *db, uint64_t *read, uint64_t *written, KvStatus *st)
{
	SetStatus(st, KV_OK, "");
	*read = *written = 0;
	if (!db->job)
		return false;
	if (!db->job->done)
		return true;
	db->job->thread.join();
	*st = db->job->result;
	*read = db->job->read;
	*written = db->job->written;
	if (st->code == KV_OK)
		db->pruner->CountCompaction(*read, *written);
	db->job.reset();
	return false;
}

void
KvDropStorages(KvDb *db, const OrbitStorageId *storages, int n, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		std::vector<std::array<char, CODEC_PAGE_KEY_SIZE>> keys(2 * n);
		std::vector<Slice> slices;
		std::vector<rocksdb::RangePtr> ranges;
		SignalGuard guard;

		for (int i = 0; i < n; i++)
		{
			if (!db->primary || storages[i] == ORBIT_INVALID_STORAGE)
				return Status::InvalidArgument("not a storage that can be dropped");
			CodecPageKey(keys[2 * i].data(), storages[i], 0);
			CodecPageKey(keys[2 * i + 1].data(), storages[i], UINT32_MAX);
		}
		for (const auto &key : keys)
			slices.emplace_back(key.data(), key.size());
		for (int i = 0; i < n; i++)
			ranges.emplace_back(&slices[2 * i], &slices[2 * i + 1]);
		return rocksdb::DeleteFilesInRanges(db->inst->db, db->inst->families[ORBIT_PG_DATA],
											ranges.data(), ranges.size());
	});
}
