/*
 * admin_stats.c: SQL functions that show the write buffers and RocksDB, and the one
 * that flushes.
 *
 *	orbit_flush()					what is in the write buffers goes to RocksDB
 *	orbit_stat_write_buffers()		one row a write buffer that is not yet released
 *	orbit_stat_storage()			one row: positions and counters
 *	orbit_column_families()			one row a column family
 *	orbit_stat_reclaim()			one row: what compactions may forget, and have done
 *
 * RocksDB's figures come from the storage worker through shared memory; they are a
 * few seconds old at most and fresh after orbit_flush().
 */
#include "postgres.h"

#include "fmgr.h"
#include "funcapi.h"
#include "lib/stringinfo.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"
#include "utils/xid8.h"

#include "base/base.h"
#include "kv/kv.h"
#include "membuf/membuf.h"
#include "store/store.h"
#include "worker/worker.h"

PG_FUNCTION_INFO_V1(orbit_flush);
PG_FUNCTION_INFO_V1(orbit_stat_write_buffers);
PG_FUNCTION_INFO_V1(orbit_stat_storage);
PG_FUNCTION_INFO_V1(orbit_column_families);
PG_FUNCTION_INFO_V1(orbit_stat_reclaim);

Datum
orbit_flush(PG_FUNCTION_ARGS)
{
	WorkerFlushAll();
	PG_RETURN_VOID();
}

/* LSN 0 means "none" and is shown as NULL. */
static Datum
LsnOrNull(XLogRecPtr lsn, bool *isnull)
{
	*isnull = XLogRecPtrIsInvalid(lsn);
	return LSNGetDatum(lsn);
}

Datum
orbit_stat_write_buffers(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	uint64		oldest;
	uint64		active;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	MembufGetRange(&oldest, &active);
	for (uint64 seq = oldest; seq <= active; seq++)
	{
		MembufArenaInfo info;
		Datum		values[5];
		bool		nulls[5] = {false};

		/* False: it was released meanwhile. */
		if (!MembufArenaGetInfo(seq, &info))
			continue;
		values[0] = Int64GetDatum((int64) info.seq);
		values[1] = CStringGetTextDatum(info.sealed ? "sealed" : "active");
		values[2] = Int64GetDatum((int64) info.used);
		values[3] = Int64GetDatum((int64) MembufMaxReservation());
		values[4] = LsnOrNull(info.max_lsn, &nulls[4]);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
orbit_stat_storage(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	WorkerStats stats;
	uint64		oldest;
	uint64		active;
	int			pid;
	int			i = 0;
	Datum		values[14];
	bool		nulls[14] = {false};

	OrbitRequirePreload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 14)
		elog(ERROR, "orbit_stat_storage is not declared as the extension declares it");
	WorkerGetStats(&stats);
	StoreGetFlushStats(&stats.flush);
	MembufGetRange(&oldest, &active);

	pid = WorkerPid();
	nulls[i] = pid == 0;
	values[i++] = Int32GetDatum(pid);
	values[i++] = Int64GetDatum((int64) MembufRequiredGeneration());
	values[i] = LsnOrNull(StoreFlushedLsn(), &nulls[i]);
	i++;
	values[i] = LsnOrNull(StoreCoveredRedo(), &nulls[i]);
	i++;
	values[i++] = Int64GetDatum((int64) stats.flush.flushes);
	values[i++] = Int64GetDatum((int64) stats.flush.pages_put);
	values[i++] = Int64GetDatum((int64) stats.flush.pages_merged);
	values[i++] = Int64GetDatum((int64) stats.flush.bytes);
	values[i++] = Int64GetDatum((int64) MembufWaitCount());
	values[i++] = Int64GetDatum((int64) oldest);
	values[i++] = Int64GetDatum((int64) active);
	values[i++] = Int32GetDatum((int32) stats.pinned);
	values[i++] = Int32GetDatum((int32) stats.retired);
	values[i++] = Int32GetDatum(MembufWriterCount());
	Assert(i == lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}

/* "L0: 2, L6: 14"; levels without files are left out. */
static uint32
DescribeLevels(const WorkerFamilyStats *f, StringInfo text)
{
	uint32		files = 0;

	for (int level = 0; level < WORKER_LEVELS; level++)
	{
		if (f->files[level] == 0)
			continue;
		files += f->files[level];
		appendStringInfo(text, "%sL%d: %u", text->len > 0 ? ", " : "", level, f->files[level]);
	}
	return files;
}

Datum
orbit_column_families(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	WorkerStats stats;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	WorkerGetStats(&stats);
	if (stats.taken == 0)
		return (Datum) 0;
	for (int family = 0; family < ORBIT_NFAMILIES; family++)
	{
		StringInfoData levels;
		uint32		files;
		Datum		values[5];
		bool		nulls[5] = {false};

		initStringInfo(&levels);
		files = DescribeLevels(&stats.family[family], &levels);
		values[0] = CStringGetTextDatum(KvFamilyName(family));
		values[1] = Int32GetDatum((int32) files);
		values[2] = Int64GetDatum((int64) stats.family[family].bytes);
		values[3] = CStringGetTextDatum(levels.data);
		values[4] = Int64GetDatum((int64) stats.family[family].keys);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}

Datum
orbit_stat_reclaim(PG_FUNCTION_ARGS)
{
	TupleDesc	desc;
	WorkerStats stats;
	const WorkerCompactStats *c = &stats.compact;
	int			i = 0;
	Datum		values[15];
	bool		nulls[15] = {false};

	OrbitRequirePreload();
	if (get_call_result_type(fcinfo, NULL, &desc) != TYPEFUNC_COMPOSITE || desc->natts != 15)
		elog(ERROR, "orbit_stat_reclaim is not declared as the extension declares it");
	WorkerGetStats(&stats);

	nulls[0] = nulls[1] = nulls[2] = !stats.horizon_known;
	values[i++] = FullTransactionIdGetDatum(FullTransactionIdFromU64(stats.horizon));
	values[i++] = FullTransactionIdGetDatum(FullTransactionIdFromU64(stats.settled));
	values[i++] = TimestampTzGetDatum(stats.horizon_moved);
	values[i++] = BoolGetDatum(c->running);
	values[i++] = Int64GetDatum((int64) c->jobs);
	values[i++] = Int64GetDatum((int64) c->failures);
	values[i++] = Int64GetDatum((int64) c->read);
	values[i++] = Int64GetDatum((int64) c->written);
	values[i++] = Int64GetDatum((int64) c->compactions);
	values[i++] = Int64GetDatum((int64) c->bytes_read);
	values[i++] = Int64GetDatum((int64) c->bytes_written);
	values[i++] = Int64GetDatum((int64) c->pages);
	values[i++] = Int64GetDatum((int64) c->removed);
	values[i++] = Int64GetDatum((int64) c->pruned);
	values[i++] = Int64GetDatum((int64) c->damaged);
	Assert(i == lengthof(values));
	PG_RETURN_DATUM(HeapTupleGetDatum(heap_form_tuple(BlessTupleDesc(desc), values, nulls)));
}
