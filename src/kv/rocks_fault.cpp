/*
 * rocks_fault.cpp: a file system that fails when a test says so.  In development builds it lies below
 * everything that RocksDB does with files, in the worker and in backends; in others there is none.
 *
 * The table of faults lies in shared memory.  RocksDB's threads read it as it is: what a test changes
 * counts from the next call on.
 */
#ifdef ORBIT_DEV

#include <fnmatch.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <chrono>

#include "base/faults.h"
#include "kv/rocks.h"

using rocksdb::DirFsyncOptions;
using rocksdb::FileOptions;
using rocksdb::FSDirectory;
using rocksdb::FSRandomAccessFile;
using rocksdb::FSReadRequest;
using rocksdb::FSSequentialFile;
using rocksdb::FSWritableFile;
using rocksdb::IODebugContext;
using rocksdb::IOOptions;
using rocksdb::IOStatus;
using rocksdb::Slice;

namespace kv
{

namespace
{

OrbitFaultTable *table = nullptr;

bool
Armed(const OrbitFault &f)
{
	return __atomic_load_n(&f.armed, __ATOMIC_ACQUIRE) != 0;
}

/* The fault that this call meets, and counts for; NULL: none. */
const OrbitFault *
Met(bool primary, int call, const std::string &path)
{
	if (table == nullptr || __atomic_load_n(&table->armed, __ATOMIC_ACQUIRE) == 0)
		return nullptr;
	for (OrbitFault &f : table->faults)
	{
		if (!Armed(f) || (f.calls & call) == 0 || (f.backends != 0) == primary ||
			fnmatch(f.pattern, path.c_str(), 0) != 0)
			continue;
		if (OrbitFaultHits(&f))
			return &f;
	}
	return nullptr;
}

[[noreturn]] void
Die()
{
	kill(getpid(), SIGKILL);
	for (;;)
		pause();
}

/* As RocksDB's own file system puts them. */
IOStatus
Failure(int action, const std::string &path)
{
	const char *made_up = "made up by a test";

	if (action == ORBIT_FAULT_EXDEV)
		return IOStatus::NotSupported(made_up);
	if (action != ORBIT_FAULT_NO_SPACE && action != ORBIT_FAULT_SHORT)
		return IOStatus::IOError(std::string(made_up) + ": " + path,
								 strerror(OrbitFaultErrno(action)));

	IOStatus	s = IOStatus::NoSpace(std::string(made_up) + ": " + path, strerror(ENOSPC));

	s.SetRetryable(true);
	return s;
}

/* Runs the call f, or not; half: what is done of a write that is cut short. */
template<typename F, typename H> IOStatus
Call(bool primary, int call, const std::string &path, F f, H half)
{
	const OrbitFault *fault = Met(primary, call, path);
	int			action = fault == nullptr ? ORBIT_FAULT_NONE : fault->action;

	if (action == ORBIT_FAULT_KILL)
		Die();
	while (action == ORBIT_FAULT_WAIT && Armed(*fault))
		std::this_thread::sleep_for(std::chrono::milliseconds(5));
	if (action == ORBIT_FAULT_SHORT)
		half();
	if (OrbitFaultErrno(action) != 0)
		return Failure(action, path);

	IOStatus	s = f();

	if (action == ORBIT_FAULT_KILL_AFTER)
		Die();
	return s;
}

template<typename F> IOStatus
Call(bool primary, int call, const std::string &path, F f)
{
	return Call(primary, call, path, f, []() {});
}

/* ---- files ---------------------------------------------------------------------- */

class FaultySequential : public rocksdb::FSSequentialFileOwnerWrapper
{
  public:
	FaultySequential(std::unique_ptr<FSSequentialFile> &&f, bool primary, const std::string &path)
		: FSSequentialFileOwnerWrapper(std::move(f)), primary_(primary), path_(path) {}

	IOStatus	Read(size_t n, const IOOptions &o, Slice *result, char *scratch,
					 IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_READ, path_, [&]() {
			return FSSequentialFileOwnerWrapper::Read(n, o, result, scratch, dbg);
		});
	}

  private:
	const bool	primary_;
	const std::string path_;
};

class FaultyRandomAccess : public rocksdb::FSRandomAccessFileOwnerWrapper
{
  public:
	FaultyRandomAccess(std::unique_ptr<FSRandomAccessFile> &&f, bool primary,
					   const std::string &path)
		: FSRandomAccessFileOwnerWrapper(std::move(f)), primary_(primary), path_(path) {}

	IOStatus	Read(uint64_t offset, size_t n, const IOOptions &o, Slice *result, char *scratch,
					 IODebugContext *dbg) const override
	{
		return Call(primary_, ORBIT_FAULT_READ, path_, [&]() {
			return FSRandomAccessFileOwnerWrapper::Read(offset, n, o, result, scratch, dbg);
		});
	}

	IOStatus	MultiRead(FSReadRequest *requests, size_t n, const IOOptions &o,
						  IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_READ, path_, [&]() {
			return FSRandomAccessFileOwnerWrapper::MultiRead(requests, n, o, dbg);
		});
	}

  private:
	const bool	primary_;
	const std::string path_;
};

class FaultyWritable : public rocksdb::FSWritableFileOwnerWrapper
{
  public:
	FaultyWritable(std::unique_ptr<FSWritableFile> &&f, bool primary, const std::string &path)
		: FSWritableFileOwnerWrapper(std::move(f)), primary_(primary), path_(path) {}

	using FSWritableFileOwnerWrapper::Append;
	IOStatus	Append(const Slice &data, const IOOptions &o, IODebugContext *dbg) override
	{
		return Write(data, [&](const Slice &part) {
			return FSWritableFileOwnerWrapper::Append(part, o, dbg);
		});
	}
	IOStatus	Append(const Slice &data, const IOOptions &o,
					   const rocksdb::DataVerificationInfo &, IODebugContext *dbg) override
	{
		return Append(data, o, dbg);
	}
	IOStatus	Sync(const IOOptions &o, IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_SYNC, path_, [&]() {
			return Syncs() ? FSWritableFileOwnerWrapper::Sync(o, dbg) : IOStatus::OK();
		});
	}
	IOStatus	Fsync(const IOOptions &o, IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_SYNC, path_, [&]() {
			return Syncs() ? FSWritableFileOwnerWrapper::Fsync(o, dbg) : IOStatus::OK();
		});
	}

  private:
	template<typename F> IOStatus
	Write(const Slice &data, F append)
	{
		return Call(primary_, ORBIT_FAULT_WRITE, path_, [&]() { return append(data); },
					[&]() {
						append(Slice(data.data(), data.size() / 2)).PermitUncheckedError();
					});
	}

	const bool	primary_;
	const std::string path_;
};

class FaultyDirectory : public rocksdb::FSDirectoryWrapper
{
  public:
	FaultyDirectory(std::unique_ptr<FSDirectory> &&d, bool primary, const std::string &path)
		: FSDirectoryWrapper(std::move(d)), primary_(primary), path_(path) {}

	IOStatus	FsyncWithDirOptions(const IOOptions &o, IODebugContext *dbg,
									const DirFsyncOptions &how) override
	{
		return Call(primary_, ORBIT_FAULT_SYNC, path_, [&]() {
			return Syncs() ? FSDirectoryWrapper::FsyncWithDirOptions(o, dbg, how) : IOStatus::OK();
		});
	}

  private:
	const bool	primary_;
	const std::string path_;
};

/* ---- the file system ----------------------------------------------------------------- */

class FaultFs : public rocksdb::FileSystemWrapper
{
  public:
	explicit FaultFs(bool primary)
		: FileSystemWrapper(rocksdb::FileSystem::Default()), primary_(primary) {}

	const char *Name() const override { return "OrbitFaultFs"; }

	IOStatus	NewSequentialFile(const std::string &name, const FileOptions &o,
								  std::unique_ptr<FSSequentialFile> *file,
								  IODebugContext *dbg) override
	{
		IOStatus	s = Call(primary_, ORBIT_FAULT_OPEN, name, [&]() {
			return FileSystemWrapper::NewSequentialFile(name, o, file, dbg);
		});

		if (s.ok())
			file->reset(new FaultySequential(std::move(*file), primary_, name));
		return s;
	}

	IOStatus	NewRandomAccessFile(const std::string &name, const FileOptions &o,
									std::unique_ptr<FSRandomAccessFile> *file,
									IODebugContext *dbg) override
	{
		IOStatus	s = Call(primary_, ORBIT_FAULT_OPEN, name, [&]() {
			return FileSystemWrapper::NewRandomAccessFile(name, o, file, dbg);
		});

		if (s.ok())
			file->reset(new FaultyRandomAccess(std::move(*file), primary_, name));
		return s;
	}

	IOStatus	NewWritableFile(const std::string &name, const FileOptions &o,
								std::unique_ptr<FSWritableFile> *file,
								IODebugContext *dbg) override
	{
		IOStatus	s = Call(primary_, ORBIT_FAULT_CREATE, name, [&]() {
			return FileSystemWrapper::NewWritableFile(name, o, file, dbg);
		});

		if (s.ok())
			file->reset(new FaultyWritable(std::move(*file), primary_, name));
		return s;
	}

	IOStatus	ReopenWritableFile(const std::string &name, const FileOptions &o,
								   std::unique_ptr<FSWritableFile> *file,
								   IODebugContext *dbg) override
	{
		IOStatus	s = Call(primary_, ORBIT_FAULT_CREATE, name, [&]() {
			return FileSystemWrapper::ReopenWritableFile(name, o, file, dbg);
		});

		if (s.ok())
			file->reset(new FaultyWritable(std::move(*file), primary_, name));
		return s;
	}

	IOStatus	NewDirectory(const std::string &name, const IOOptions &o,
							 std::unique_ptr<FSDirectory> *dir, IODebugContext *dbg) override
	{
		IOStatus	s = FileSystemWrapper::NewDirectory(name, o, dir, dbg);

		if (s.ok())
			dir->reset(new FaultyDirectory(std::move(*dir), primary_, name));
		return s;
	}

	IOStatus	LinkFile(const std::string &from, const std::string &to, const IOOptions &o,
						 IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_LINK, to, [&]() {
			return FileSystemWrapper::LinkFile(from, to, o, dbg);
		});
	}

	IOStatus	RenameFile(const std::string &from, const std::string &to, const IOOptions &o,
						   IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_RENAME, to, [&]() {
			return FileSystemWrapper::RenameFile(from, to, o, dbg);
		});
	}

	IOStatus	DeleteFile(const std::string &name, const IOOptions &o,
						   IODebugContext *dbg) override
	{
		return Call(primary_, ORBIT_FAULT_DELETE, name, [&]() {
			return FileSystemWrapper::DeleteFile(name, o, dbg);
		});
	}

  private:
	const bool	primary_;
};

}								/* namespace */

bool
Syncs()
{
	static const bool syncs = getenv("ORBIT_NO_SYNC") == nullptr;

	return syncs;
}

std::shared_ptr<rocksdb::FileSystem>
BaseFileSystem(bool primary)
{
	return std::make_shared<FaultFs>(primary);
}

int
FaultErrno(int call, const std::string &path)
{
	const OrbitFault *fault = Met(true, call, path);

	if (fault != nullptr && fault->action == ORBIT_FAULT_KILL)
		Die();
	return fault == nullptr ? 0 : OrbitFaultErrno(fault->action);
}

}								/* namespace kv */

void
KvUseFaults(struct OrbitFaultTable *faults)
{
	kv::table = faults;
}

#endif							/* ORBIT_DEV */
