/*
 * rocks_snapshot.cpp: snapshots of the primary: what a backup copies.
 *
 * SST files never change, so one more name keeps the contents whatever compactions do to the first;
 * all snapshots share these names, in the pool.  The MANIFEST grows: what of it is valid now is copied.
 * CURRENT is written anew.  RocksDB's log has no part in it: nothing is ever in memtables.
 *
 * No SST file of the current version can go meanwhile: deletions are deferred (rocks_fs.cpp), and only
 * the caller's thread carries them out.  The MANIFEST is not deferred, hence DisableFileDeletions.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/faults.h"
#include "kv/rocks.h"

using rocksdb::LiveFileStorageInfo;
using rocksdb::Status;

namespace kv
{

namespace
{

/* Closes at the end of the scope. */
class File
{
  public:
	File(const std::string &path, int flags) : path_(path)
	{
		errno_ = (flags & O_CREAT) != 0 ? FaultErrno(ORBIT_FAULT_CREATE, path) : 0;
		fd_ = errno_ == 0 ? open(path.c_str(), flags | O_CLOEXEC, 0666) : -1;
		if (errno_ == 0 && fd_ < 0)
			errno_ = errno;
	}
	~File()
	{
		if (fd_ >= 0)
			close(fd_);
	}
	File(const File &) = delete;
	File &operator=(const File &) = delete;

	Status Opened() const
	{
		return fd_ >= 0 ? Status::OK() : ErrnoStatus("could not open", path_, errno_);
	}
	ssize_t Read(char *buf, size_t len) { return read(fd_, buf, len); }
	Status Write(const char *buf, size_t len);
	Status Sync()
	{
		int			err = FaultErrno(ORBIT_FAULT_SYNC, path_);

		if (err == 0 && Syncs() && fsync(fd_) != 0)
			err = errno;
		return err == 0 ? Status::OK() : ErrnoStatus("could not fsync", path_, err);
	}
	const std::string &Path() const { return path_; }

  private:
	std::string path_;
	int			fd_;
	int			errno_;
};

Status
File::Write(const char *buf, size_t len)
{
	int			err = FaultErrno(ORBIT_FAULT_WRITE, path_);

	if (err != 0)
		return ErrnoStatus("could not write", path_, err);
	while (len > 0)
	{
		ssize_t		n = write(fd_, buf, len);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return ErrnoStatus("could not write", path_, n < 0 ? errno : ENOSPC);
		buf += n;
		len -= n;
	}
	return Status::OK();
}

/* The first `bytes` of from, on disk. */
Status
CopyFile(const std::string &from, const std::string &to, uint64_t bytes)
{
	File		in(from, O_RDONLY);
	File		out(to, O_WRONLY | O_CREAT | O_TRUNC);
	std::vector<char> buf(1 << 18);
	Status		s = in.Opened();

	if (s.ok())
		s = out.Opened();
	while (s.ok() && bytes > 0)
	{
		ssize_t		n = in.Read(buf.data(), std::min<uint64_t>(bytes, buf.size()));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return ErrnoStatus("could not read", from, errno);
		if (n == 0)
			return Status::Corruption("file is too short", from);
		s = out.Write(buf.data(), n);
		bytes -= n;
	}
	return s.ok() ? out.Sync() : s;
}

Status
WriteFile(const std::string &path, const std::string &text)
{
	File		out(path, O_WRONLY | O_CREAT | O_TRUNC);
	Status		s = out.Opened();

	if (s.ok())
		s = out.Write(text.data(), text.size());
	return s.ok() ? out.Sync() : s;
}

bool
SameFile(const std::string &a, const std::string &b)
{
	struct stat x;
	struct stat y;

	return stat(a.c_str(), &x) == 0 && stat(b.c_str(), &y) == 0 &&
		x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

/* 0, or an errno. */
int
TryLink(const std::string &from, const std::string &to)
{
	int			err = FaultErrno(ORBIT_FAULT_LINK, to);

	if (err == 0 && link(from.c_str(), to.c_str()) != 0)
		err = errno;
	return err;
}

/* *made: the name is new.  What lay there under it is of no snapshot: left over by an earlier life. */
Status
Link(const std::string &from, const std::string &to, uint64_t bytes, bool *made)
{
	int			err = TryLink(from, to);

	*made = err == 0;
	if (err == EEXIST && SameFile(from, to))
		return Status::OK();
	if (err == EEXIST)
	{
		if (unlink(to.c_str()) != 0)
			return ErrnoStatus("could not remove", to, errno);
		err = TryLink(from, to);
		*made = err == 0;
	}
	if (err == 0)
		return Status::OK();
	if (!KvLinkImpossible(err))
		return ErrnoStatus("could not link", to, err);
	*made = true;
	return CopyFile(from, to, bytes);
}

/* File deletions are off during its life. */
class KeepFiles
{
  public:
	explicit KeepFiles(rocksdb::DB *db) : db_(db), status_(db->DisableFileDeletions()) {}
	~KeepFiles()
	{
		if (status_.ok())
			db_->EnableFileDeletions(false).PermitUncheckedError();
	}
	const Status &Result() const { return status_; }

  private:
	rocksdb::DB *db_;
	Status		status_;
};

Status
ListLive(KvDb *db, std::vector<LiveFileStorageInfo> *files)
{
	rocksdb::LiveFilesStorageInfoOptions o;

	o.wal_size_for_flush = UINT64_MAX;	/* memtables are empty: flush nothing */
	return db->inst->db->GetLiveFilesStorageInfo(o, files);
}

/* Puts the SST files into the pool; names that are new are added to *made. */
Status
FillPool(const std::vector<LiveFileStorageInfo> &live, const std::string &pool, KvPooled pooled,
		 void *arg, std::vector<std::string> *made)
{
	Status		s;

	for (const auto &f : live)
	{
		std::string to = pool + "/" + f.relative_filename;
		bool		is_new;

		if (f.file_type != rocksdb::kTableFile || pooled(f.file_number, arg))
			continue;
		s = Link(f.directory + "/" + f.relative_filename, to, f.size, &is_new);
		if (is_new)
			made->push_back(to);
		if (!s.ok())
			break;
	}
	return s.ok() ? SyncDirectory(pool) : s;
}

Status
WriteHead(const std::vector<LiveFileStorageInfo> &live, const std::string &dir, KvSnapshot *out)
{
	Status		s;

	for (const auto &f : live)
	{
		std::string to = dir + "/" + f.relative_filename;

		if (f.file_type == rocksdb::kDescriptorFile)
		{
			s = CopyFile(f.directory + "/" + f.relative_filename, to, f.size);
			snprintf(out->manifest, sizeof out->manifest, "%s", f.relative_filename.c_str());
			out->manifest_bytes = f.size;
		}
		else if (f.file_type == rocksdb::kCurrentFile)
			s = WriteFile(to, f.replacement_contents);
		if (!s.ok())
			return s;
	}
	return SyncDirectory(dir);
}

Status
Report(const std::vector<LiveFileStorageInfo> &live, KvSnapshot *out)
{
	out->files = static_cast<KvSnapshotFile *>(malloc((live.size() + 1) * sizeof(KvSnapshotFile)));
	if (out->files == nullptr)
		return Status::MemoryLimit("out of memory");
	for (const auto &f : live)
		if (f.file_type == rocksdb::kTableFile)
			out->files[out->nfiles++] = {f.file_number, f.size};
	std::sort(out->files, out->files + out->nfiles,
			  [](const KvSnapshotFile &a, const KvSnapshotFile &b) { return a.number < b.number; });
	return Status::OK();
}

Status
MakeSnapshot(KvDb *db, const std::string &dir, const std::string &pool, KvPooled pooled, void *arg,
			 KvSnapshot *out)
{
	KeepFiles	keep(db->inst->db);
	std::vector<LiveFileStorageInfo> live;
	std::vector<std::string> made;
	/* CURRENT, or what it names, may not be what RocksDB believes in then */
	Status		s = db->listener->Get();

	if (s.ok())
		s = keep.Result();
	if (s.ok())
		s = ListLive(db, &live);
	if (s.ok())
		s = ReadGeneration(db->inst.get(), ORBIT_PG_METADATA, &out->generation);
	if (s.ok())
		s = Report(live, out);
	if (s.ok())
		s = FillPool(live, pool, pooled, arg, &made);
	if (s.ok())
		s = WriteHead(live, dir, out);
	if (!s.ok())
		for (const auto &path : made)
			unlink(path.c_str());
	return s;
}

}								/* namespace */

}								/* namespace kv */

using namespace kv;

void
KvMakeSnapshot(KvDb *db, const char *dir, const char *pool, KvPooled pooled, void *arg,
			   KvSnapshot *out, KvStatus *st)
{
	memset(out, 0, sizeof *out);
	Guarded(st, [&]() -> Status { return MakeSnapshot(db, dir, pool, pooled, arg, out); });
	if (st->code != KV_OK)
		KvFreeSnapshot(out);
}

void
KvFreeSnapshot(KvSnapshot *s)
{
	free(s->files);
	s->files = nullptr;
	s->nfiles = 0;
}

void
KvLiveFiles(KvDb *db, uint64_t **numbers, int *n, KvStatus *st)
{
	*numbers = nullptr;
	*n = 0;
	Guarded(st, [&]() -> Status {
		std::vector<std::string> names;
		uint64_t	manifest_bytes;
		Status		s = db->inst->db->GetLiveFiles(names, &manifest_bytes, false);

		if (!s.ok())
			return s;
		*numbers = static_cast<uint64_t *>(malloc((names.size() + 1) * sizeof(uint64_t)));
		if (*numbers == nullptr)
			return Status::MemoryLimit("out of memory");
		for (const auto &name : names)
			if (name.size() > 5 && name.compare(name.size() - 4, 4, ".sst") == 0)
				(*numbers)[(*n)++] = strtoull(name.c_str() + 1, nullptr, 10);
		std::sort(*numbers, *numbers + *n);
		return s;
	});
}
