/*
 * rocks_status.cpp: how RocksDB's errors, and C++ exceptions, become a KvStatus;
 * and the blocking of signals.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include <exception>
#include <new>

#include "kv/rocks.h"

using rocksdb::Status;

namespace kv
{

thread_local const char *merge_failure;

void
SetStatus(KvStatus *st, KvCode code, const char *message)
{
	st->code = code;
	snprintf(st->message, sizeof st->message, "%s", message);
}

/*
 * RocksDB reports a lock held elsewhere, and a quota used up, as plain I/O errors
 * whose only mark is the text.
 */
static KvCode
IoErrorCode(const Status &s, const std::string &text)
{
	if (s.subcode() == Status::kNoSpace || s.subcode() == Status::kSpaceLimit)
		return KV_NO_SPACE;
	if (text.find(strerror(EDQUOT)) != std::string::npos)
		return KV_NO_SPACE;
	if (text.find("While lock file") != std::string::npos ||
		text.find("lock hold by current process") != std::string::npos)
		return KV_BUSY;
	return KV_IO_ERROR;
}

static KvCode
StatusCode(const Status &s, const std::string &text)
{
	if (s.IsMemoryLimit())
		return KV_NO_MEMORY;
	switch (s.code())
	{
		case Status::kOk:
			return KV_OK;
		case Status::kNotFound:
			return KV_NOT_FOUND;
		case Status::kCorruption:
			return KV_CORRUPTION;
		case Status::kIOError:
			return IoErrorCode(s, text);
		case Status::kInvalidArgument:
		case Status::kNotSupported:
			return KV_INVALID;
		case Status::kTryAgain:
			return KV_STALE;	/* of a secondary that finds no MANIFEST */
		default:
			return KV_OTHER;
	}
}

/*
 * A failed merge reaches us as Corruption without a reason; the operator has left
 * the reason in merge_failure when it ran in this thread.
 */
void
FromStatus(KvStatus *st, const Status &s)
{
	if (s.ok())
	{
		SetStatus(st, KV_OK, "");
		return;
	}

	std::string text = s.ToString();

	/* an SST file that is missing was looked for under LevelDB's name last */
	for (size_t at; (at = text.find(".ldb")) != std::string::npos;)
		text.replace(at, 4, ".sst");

	KvCode		code = StatusCode(s, text);

	if (code == KV_CORRUPTION && merge_failure != nullptr)
	{
		if (strstr(merge_failure, "memory") != nullptr)
			code = KV_NO_MEMORY;
		text += std::string(" (") + merge_failure + ")";
	}
	merge_failure = nullptr;
	SetStatus(st, code, text.c_str());
}

void
FromException(KvStatus *st)
{
	try
	{
		throw;
	}
	catch (const std::bad_alloc &)
	{
		SetStatus(st, KV_NO_MEMORY, "out of memory");
	}
	catch (const std::exception &e)
	{
		SetStatus(st, KV_OTHER, e.what());
	}
	catch (...)
	{
		SetStatus(st, KV_OTHER, "unknown exception");
	}
}

SignalGuard::SignalGuard()
{
	sigset_t	all;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &saved_);
}

SignalGuard::~SignalGuard()
{
	pthread_sigmask(SIG_SETMASK, &saved_, nullptr);
}

}								/* namespace kv */
