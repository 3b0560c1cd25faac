/*
 * rocks_admin.cpp: housekeeping of the primary, properties.
 */
#include <string.h>

#include <algorithm>


#include "kv/rocks.h"

using rocksdb::BackgroundErrorReason;
using rocksdb::BackgroundErrorRecoveryInfo;
using rocksdb::Slice;
using rocksdb::Status;

namespace kv
{

/*
 * A compaction that fails is tried again and needs nothing else to stand still; as a background
 * error it would refuse every flush, for a block of one table that cannot be read, until the next
 * open and again after that.
 *
 * Other errors concern the MANIFEST or CURRENT.  As a "soft" error they stop background work only, and the
 * next commit writes a new MANIFEST from memory.  They must not become "hard": after a resume
 * RocksDB 7.8 goes on refusing ingests, with the status OK and no file numbers (IsDBStopped is never reset),
 * which ends the process by an assertion or, without those, the files of others.  From "fatal" there is
 * no resuming at all.
 */
void
ErrorListener::OnBackgroundError(BackgroundErrorReason reason, Status *error)
{
	if (reason == BackgroundErrorReason::kCompaction)
	{
		*error = Status::OK();	/* OnCompactionCompleted has noted it */
		return;
	}
	*error = Status(*error, Status::Severity::kSoftError);

	std::lock_guard<std::mutex> lock(mutex_);

	error_ = *error;
	deletions_off_ = true;
}

/* Does RocksDB keep all files since it failed to write its MANIFEST or CURRENT?  Asked once. */
bool
ErrorListener::TakeDeletionsOff()
{
	std::lock_guard<std::mutex> lock(mutex_);
	bool		off = deletions_off_;

	deletions_off_ = false;
	return off;
}

/* Compactions on request do not come by here. */
void
ErrorListener::OnCompactionCompleted(rocksdb::DB *, const rocksdb::CompactionJobInfo &info)
{
	if (info.status.ok() && info.cf_name == KvFamilyName(ORBIT_PG_DATA))
		pruner_->CountCompaction(info.stats.total_input_bytes, info.stats.total_output_bytes);
	if (info.status.ok() || info.status.IsManualCompactionPaused() ||
		info.status.IsShutdownInProgress() || info.status.IsColumnFamilyDropped())
		return;

	std::lock_guard<std::mutex> lock(mutex_);

	compactions_[info.cf_name] = info.status;
}

Status
ErrorListener::TakeCompaction(const char *family)
{
	std::lock_guard<std::mutex> lock(mutex_);
	auto		it = compactions_.find(family);
	Status		s;

	if (it != compactions_.end())
	{
		s = it->second;
		compactions_.erase(it);
	}
	return s;
}

/* The worker resumes when it sees fit; a resume of RocksDB's own would race it. */
void
ErrorListener::OnErrorRecoveryBegin(BackgroundErrorReason, Status, bool *auto_recovery)
{
	*auto_recovery = false;
}

void
ErrorListener::OnErrorRecoveryEnd(const BackgroundErrorRecoveryInfo &info)
{
	std::lock_guard<std::mutex> lock(mutex_);

	error_ = info.new_bg_error;
}

Status
ErrorListener::Get()
{
	std::lock_guard<std::mutex> lock(mutex_);

	return error_;
}

void
ErrorListener::Clear()
{
	std::lock_guard<std::mutex> lock(mutex_);

	error_ = Status::OK();
}

}								/* namespace kv */

using namespace kv;

void
KvUnlinkRetired(KvDb *db, uint64_t min_generation, int *untagged, int *waiting)
{
	*untagged = 0;
	*waiting = 0;
	if (!db->primary)
		return;
	try
	{
		db->inst->fs->Unlink(min_generation, untagged, waiting);
	}
	catch (...)
	{
		/* out of memory: what has not been deleted stays listed */
	}
}

/*
 * Rewrites the lowest level too: that is where small files side by side, which no
 * automatic compaction touches, become large ones.
 *
 * Generation keys are kept out of the range: compacted together with data they
 * would make every later one overlap it.  Signals stay as they are, for this may
 * take long and starts no thread (the pools are full since the open).
 */
void
KvCompactRange(KvDb *db, OrbitFamily f, const char *begin, size_t beginlen,
			   const char *end, size_t endlen, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		rocksdb::CompactRangeOptions o;
		Slice		first = FirstKey();
		Slice		last(end, end != nullptr ? endlen : 0);

		if (begin != nullptr && Slice(begin, beginlen).compare(first) > 0)
			first = Slice(begin, beginlen);
		o.exclusive_manual_compaction = false;
		o.bottommost_level_compaction =
			rocksdb::BottommostLevelCompaction::kForceOptimized;
		return db->inst->db->CompactRange(o, db->inst->families[f], &first,
										  end != nullptr ? &last : nullptr);
	});
}

bool
KvIntProperty(KvDb *db, OrbitFamily f, const char *name, uint64_t *value)
{
	try
	{
		return db->inst->db->GetIntProperty(db->inst->families[f], name, value);
	}
	catch (...)
	{
		return false;
	}
}

char *
KvTextProperty(KvDb *db, OrbitFamily f, const char *name)
{
	try
	{
		std::string text;

		if (db->inst->db->GetProperty(db->inst->families[f], name, &text))
			return strdup(text.c_str());
	}
	catch (...)
	{
	}
	return nullptr;
}

int
KvLevelZeroFiles(KvDb *db)
{
	uint64_t	most = 0;

	for (int f = 0; f < ORBIT_NFAMILIES; f++)
	{
		char	   *text = KvTextProperty(db, static_cast<OrbitFamily>(f),
										  "rocksdb.num-files-at-level0");

		if (text != nullptr)
			most = std::max<uint64_t>(most, strtoull(text, nullptr, 10));
		free(text);
	}
	return static_cast<int>(most);
}

void
KvResume(KvDb *db, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		SignalGuard guard;
		Status		s = db->inst->db->Resume();

		if (s.ok() && db->listener)
			db->listener->Clear();
		return s;
	});
}

void
KvBackgroundError(KvDb *db, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		return db->listener ? db->listener->Get() : Status::OK();
	});
}

bool
KvCompactionFailed(KvDb *db, OrbitFamily f, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		return db->listener ? db->listener->TakeCompaction(KvFamilyName(f)) : Status::OK();
	});
	return st->code != KV_OK;
}

void
KvPauseCompaction(KvDb *db, OrbitFamily f, bool pause, KvStatus *st)
{
	Guarded(st, [&]() -> Status {
		SignalGuard guard;

		return db->inst->db->SetOptions(db->inst->families[f],
										{{"disable_auto_compactions", pause ? "true" : "false"}});
	});
}

const char *
KvFamilyName(OrbitFamily f)
{
	switch (f)
	{
		case ORBIT_PG_DATA:
			return "pg_data";
		case ORBIT_PG_INDEXES:
			return "pg_indexes";
		case ORBIT_PG_TABLES:
			return "pg_tables";
		case ORBIT_PG_METADATA:
			return "pg_metadata";
		default:
			return "unknown";
	}
}
