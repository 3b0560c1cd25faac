/*
 * rocks_write.cpp: a batch becomes SST files and one atomic ingest.
 *
 * Files are written in pgsql_tmp_stage/ and linked into pgsql_tmp_live/ by the ingest.  Durable when
 * KvBatchCommit returns KV_OK, because RocksDB 7.8.3 does in this order, and
 * checks, for each family: fsync of every file, once by SstFileWriter and once
 * through its new name; fsync of pgsql_tmp_live/; and then one MANIFEST record group for all
 * families with fdatasync.  A new MANIFEST is named by CURRENT through write, fsync,
 * rename, fsync of pgsql_tmp_live/.  (rocks_fs.cpp adds the directory's fsync on btrfs;
 * KvOpenPrimary syncs the directory that holds pgsql_tmp_live/.)
 *
 * A commit that fails while the MANIFEST is written may or may not have happened:
 * a secondary may have read it, and a crash may bring it back.  So its generation
 * is never used again, its files stay on the list of deferred deletions, and the
 * caller's next try writes the same changes once more.
 */
#include <string.h>
#include <unistd.h>

#include <rocksdb/convenience.h>
#include <rocksdb/sst_file_writer.h>

#include "kv/rocks.h"

using rocksdb::IngestExternalFileArg;
using rocksdb::Options;
using rocksdb::Slice;
using rocksdb::SstFileWriter;
using rocksdb::Status;

namespace kv
{

struct BatchFamily
{
	std::unique_ptr<SstFileWriter> writer;	/* NULL: no file is open */
	std::vector<std::string> files; /* the open one is the last */
	std::string last;			/* greatest key so far */
};

}								/* namespace kv */

struct KvBatch
{
	explicit KvBatch(KvDb *d) : db(d) {}
	~KvBatch();

	KvDb	   *db;
	bool		committed = false;
	Status		failure;		/* first one; nothing is done after it */
	kv::BatchFamily families[ORBIT_NFAMILIES];
};

/* An ingest that succeeded has already removed the names in pgsql_tmp_stage/. */
KvBatch::~KvBatch()
{
	for (auto &family : families)
	{
		family.writer.reset();
		if (!committed)
			for (const auto &file : family.files)
				(void) unlink(file.c_str());
	}
}

namespace kv
{

namespace
{

enum class Op
{
	Put, Merge, Delete
};

/*
 * SstFileWriter compresses for the bottom level whatever comes; so it is told what
 * to use.  A file of pg_data that begins with a put holds new pages, which go
 * there and stay; deltas will be rewritten soon.
 */
rocksdb::CompressionType
FileCompression(const Instance &inst, int family, Op first)
{
	const auto &options = inst.family_options[family];

	if (family == ORBIT_PG_DATA && first == Op::Put)
		return options.bottommost_compression;
	return options.compression;
}

Status
OpenFile(KvDb *db, int family, rocksdb::CompressionType compression, bool filter,
		 BatchFamily *bf)
{
	Instance   *inst = db->inst.get();
	Options		options(inst->options, inst->family_options[family]);
	std::string path = db->Stage() + "/" + std::to_string(++db->stage_serial) + ".sst";

	options.compression = compression;
	options.bottommost_compression = rocksdb::kDisableCompressionOption;
	bf->files.push_back(path);
	/* The pages stay in the system's cache: readers want them next. */
	bf->writer.reset(new SstFileWriter(rocksdb::EnvOptions(inst->options), options,
									   inst->families[family],
									   /* invalidate_page_cache */ false,
									   rocksdb::Env::IOPriority::IO_TOTAL,
									   /* skip_filters */ !filter));
	return bf->writer->Open(path);
}

Status
FinishFile(BatchFamily *bf)
{
	Status		s;

	if (bf->writer)
		s = bf->writer->Finish();
	bf->writer.reset();
	return s;
}

Status
CheckKey(const BatchFamily &bf, const Slice &key)
{
	if (key.compare(FirstKey()) < 0)
		return Status::InvalidArgument("key is reserved", key.ToString(true));
	if (!bf.last.empty() && key.compare(bf.last) <= 0)
		return Status::InvalidArgument("keys of a batch must ascend", key.ToString(true));
	return Status::OK();
}

Status
Add(KvBatch *b, int family, Op op, const Slice &key, const Slice &value)
{
	BatchFamily *bf = &b->families[family];
	Status		s = CheckKey(*bf, key);

	if (s.ok() && op == Op::Merge && family != ORBIT_PG_DATA)
		s = Status::InvalidArgument("family does not merge",
									KvFamilyName(static_cast<OrbitFamily>(family)));
	if (s.ok() && !bf->writer)
		s = OpenFile(b->db, family, FileCompression(*b->db->inst, family, op), true, bf);
	if (!s.ok())
		return s;

	if (op == Op::Put)
		s = bf->writer->Put(key, value);
	else if (op == Op::Merge)
		s = bf->writer->Merge(key, value);
	else
		s = bf->writer->Delete(key);
	bf->last.assign(key.data(), key.size());
	if (s.ok() && bf->writer->FileSize() >= b->db->FileBytes())
		s = FinishFile(bf);
	return s;
}

/* Runs one step of a batch unless an earlier one has failed, and remembers. */
template<typename F> void
Step(KvBatch *b, KvStatus *st, F f) noexcept
{
	Guarded(st, [&]() -> Status {
		if (b->failure.ok())
		{
			b->failure = Status::Aborted("batch has failed");	/* should f throw */
			b->failure = f();
		}
		return b->failure;
	});
}

/*
 * The generation key goes into a file of its own, which overlaps nothing and
 * stays at the bottom; in a data file it would stretch the file's range over all
 * smaller keys (R12).
 */
Status
AddGeneration(KvDb *db, int family, uint64_t generation, BatchFamily *bf)
{
	char		key[CODEC_GENERATION_KEY_SIZE];
	Status		s = FinishFile(bf);

	if (s.ok())
		s = OpenFile(db, family, rocksdb::kNoCompression, false, bf);
	if (!s.ok())
		return s;
	CodecGenerationKey(key, generation);
	s = bf->writer->Put(Slice(key, sizeof key),
						Slice(reinterpret_cast<const char *>(&generation),
							  sizeof generation));
	return s.ok() ? FinishFile(bf) : s;
}

Status
Ingest(KvDb *db, KvBatch *b)
{
	std::vector<IngestExternalFileArg> args(ORBIT_NFAMILIES);

	for (int f = 0; f < ORBIT_NFAMILIES; f++)
	{
		args[f].column_family = db->inst->families[f];
		args[f].external_files = b->families[f].files;
		args[f].options.move_files = true;
		args[f].options.failed_move_fall_back_to_copy = true;
		args[f].options.write_global_seqno = false;
		args[f].options.snapshot_consistency = false;
		args[f].options.allow_blocking_flush = false;
	}
	return db->inst->db->IngestExternalFiles(args);
}

/*
 * Drops the files of old generation keys; the newest key of each family stays.
 * A failure costs nothing but those files and shows at the next ingest.
 */
void
TrimGenerationKeys(KvDb *db, uint64_t generation)
{
	char		from[CODEC_GENERATION_KEY_SIZE];
	char		to[CODEC_GENERATION_KEY_SIZE];
	Slice		first(from, sizeof from);
	Slice		last(to, sizeof to);

	CodecGenerationKey(from, 0);
	CodecGenerationKey(to, generation - 1);
	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		DeleteFilesInRange(db->inst->db, db->inst->families[f], &first, &last)
			.PermitUncheckedError();
	db->trimmed = generation;
}

/*
 * Files retired while the ingest runs may have been dropped by an edit behind it
 * in the MANIFEST, so only those listed before it get its generation as their tag.
 */
Status
Commit(KvBatch *b, uint64_t *generation)
{
	KvDb	   *db = b->db;
	uint64_t	mine = db->next_generation++;
	SignalGuard guard;
	Status		s;

	for (int f = 0; f < ORBIT_NFAMILIES && s.ok(); f++)
		s = AddGeneration(db, f, mine, &b->families[f]);
	if (!s.ok())
		return s;

	std::vector<std::string> retired = db->inst->fs->Untagged();

	db->inst->fs->BeginLinks();
	s = Ingest(db, b);
	if (!s.ok())
	{
		db->inst->fs->RetireLinks();
		return s;
	}
	b->committed = true;
	*generation = mine;
	for (int f = 0; f < ORBIT_NFAMILIES; f++)
		db->proven[f] = mine;
	db->inst->fs->Tag(retired, mine);
	/* MANIFEST and CURRENT are good again: not before this may an old MANIFEST go */
	if (db->listener->TakeDeletionsOff())
		db->inst->db->EnableFileDeletions(true).PermitUncheckedError();
	return s;
}

}								/* namespace */

}								/* namespace kv */

using namespace kv;

KvBatch *
KvBatchBegin(KvDb *db, KvStatus *st)
{
	KvBatch    *b = nullptr;

	Guarded(st, [&]() -> Status {
		if (!db->primary)
			return Status::InvalidArgument("a secondary cannot write");
		b = new KvBatch(db);
		return Status::OK();
	});
	return b;
}

void
KvBatchPut(KvBatch *b, OrbitFamily f, const char *key, size_t keylen,
		   const char *value, size_t len, KvStatus *st)
{
	Step(b, st, [&]() { return Add(b, f, Op::Put, Slice(key, keylen), Slice(value, len)); });
}

void
KvBatchMerge(KvBatch *b, OrbitFamily f, const char *key, size_t keylen,
			 const char *value, size_t len, KvStatus *st)
{
	Step(b, st, [&]() { return Add(b, f, Op::Merge, Slice(key, keylen), Slice(value, len)); });
}

void
KvBatchDelete(KvBatch *b, OrbitFamily f, const char *key, size_t keylen, KvStatus *st)
{
	Step(b, st, [&]() { return Add(b, f, Op::Delete, Slice(key, keylen), Slice()); });
}

void
KvBatchSplit(KvBatch *b, OrbitFamily f, KvStatus *st)
{
	Step(b, st, [&]() { return FinishFile(&b->families[f]); });
}

/* After the ingest nothing may turn success into failure any more. */
void
KvBatchCommit(KvBatch *b, uint64_t *generation, KvStatus *st)
{
	KvDb	   *db = b->db;

	*generation = 0;
	Step(b, st, [&]() { return Commit(b, generation); });
	if (b->committed)
		SetStatus(st, KV_OK, "");
	KvBatchAbort(b);
	if (*generation != 0 && *generation >= db->trimmed + TrimGenerations)
	{
		KvStatus	ignored;

		Guarded(&ignored, [&]() -> Status {
			SignalGuard guard;

			TrimGenerationKeys(db, *generation);
			return Status::OK();
		});
	}
}

void
KvBatchAbort(KvBatch *b)
{
	try
	{
		delete b;
	}
	catch (...)
	{
	}
}
