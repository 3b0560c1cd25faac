/*
 * worker_history.c: what RocksDB holds must be of the history that is replayed.
 *
 * Redo skips the records that end at or before F.  If F was reached on a timeline that the
 * history left before F, the records up there are others than those that RocksDB holds, and
 * skipping them would lose the new ones and keep what never happened.  That is an old
 * primary that follows the promoted standby without pg_rewind.
 *
 * PostgreSQL refuses it where it knows how far the data directory has come: by the minimum recovery
 * point, which each flush in archive recovery moves past F, or by what has been replayed.
 * A primary that has crashed has no such point.  If its pg_wal was exchanged, or has the new
 * timeline's segments, then only RocksDB knows.
 *
 * F and its timeline are looked at where redo begins, and again at each record that switches to another
 * timeline: the history may become known when redo is already under way.
 */
#include "postgres.h"

#include "access/timeline.h"
#include "access/xlog.h"
#include "access/xlog_internal.h"
#include "access/xlogrecovery.h"
#include "catalog/pg_control.h"

#include "base/base.h"
#include "store/store.h"
#include "worker/worker_internal.h"

static void
Refuse(XLogRecPtr flushed, TimeLineID timeline, TimeLineID target, XLogRecPtr left)
{
	ereport(FATAL,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("orbit's RocksDB directory \"%s\" is not part of the history of timeline %u",
					StoreDirectory(), target),
			 XLogRecPtrIsInvalid(left) ?
			 errdetail("It holds changes up to %X/%X on timeline %u, which is not in that history.",
					   LSN_FORMAT_ARGS(flushed), timeline) :
			 errdetail("It holds changes up to %X/%X on timeline %u, which that history left at %X/%X.",
					   LSN_FORMAT_ARGS(flushed), timeline, LSN_FORMAT_ARGS(left)),
			 errhint("Use pg_rewind, or make this server anew from a base backup.")));
}

/*
 * Without a history file PostgreSQL takes a timeline for one without ancestors, and recovers; an
 * older timeline beside F says nothing then.
 */
void
WorkerCheckHistory(void)
{
	XLogRecPtr	flushed = StoreFlushedLsn();
	TimeLineID	timeline = StoreFlushedTimeline();
	List	   *history;
	ListCell   *lc;

	if (XLogRecPtrIsInvalid(flushed) || timeline == 0)
		return;					/* new */
	history = readTimeLineHistory(recoveryTargetTLI);
	foreach(lc, history)
	{
		TimeLineHistoryEntry *entry = (TimeLineHistoryEntry *) lfirst(lc);

		if (entry->tli != timeline)
			continue;
		if (XLogRecPtrIsInvalid(entry->end) || flushed <= entry->end)
			return;
		Refuse(flushed, timeline, recoveryTargetTLI, entry->end);
	}
	if (list_length(history) > 1 || timeline > recoveryTargetTLI)
		Refuse(flushed, timeline, recoveryTargetTLI, InvalidXLogRecPtr);
}

/* The timeline that a record switches to; 0: it does not. */
static TimeLineID
SwitchesTo(XLogReaderState *record)
{
	uint8		info = XLogRecGetInfo(record) & ~XLR_INFO_MASK;
	TimeLineID	to = 0;
	TimeLineID	from = 0;

	if (info == XLOG_END_OF_RECOVERY)
	{
		xl_end_of_recovery end;

		memcpy(&end, XLogRecGetData(record), sizeof(end));
		to = end.ThisTimeLineID;
		from = end.PrevTimeLineID;
	}
	else if (info == XLOG_CHECKPOINT_SHUTDOWN)
	{
		CheckPoint	checkpoint;

		memcpy(&checkpoint, XLogRecGetData(record), sizeof(checkpoint));
		to = checkpoint.ThisTimeLineID;
		from = checkpoint.PrevTimeLineID;
	}
	return to != from ? to : 0;
}

/*
 * Timelines grow along a history.  F beyond the switch is of this timeline or of a later one, or
 * else of one that is left here.
 */
void
WorkerCheckSwitch(XLogReaderState *record)
{
	TimeLineID	to = SwitchesTo(record);

	if (to != 0 && StoreFlushedTimeline() < to && StoreFlushedLsn() > record->ReadRecPtr)
		Refuse(StoreFlushedLsn(), StoreFlushedTimeline(), to, record->ReadRecPtr);
}
