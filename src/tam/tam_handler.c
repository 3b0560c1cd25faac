/*
 * tam_handler.c: the table access method: the callbacks on single rows, which pass on to
 * row, and the struct that names all callbacks, in the order of tableam.h.
 *
 * The handler works without preload, so that catalogs can be read and tables dropped; what
 * touches a table's contents raises an error then (RowStorage).
 */
#include "postgres.h"

#include "access/heaptoast.h"
#include "fmgr.h"

#include "tam/tam_internal.h"

PG_FUNCTION_INFO_V1(orbit_tableam_handler);
PG_FUNCTION_INFO_V1(orbit_check_preload);

static const TupleTableSlotOps *
orbit_slot_callbacks(Relation rel)
{
	return &TTSOpsOrbit;
}

/* ---- single rows, read -------------------------------------------------------------- */

static bool
orbit_tuple_fetch_row_version(Relation rel, ItemPointer tid, Snapshot snapshot,
							  TupleTableSlot *slot)
{
	return RowFetchExact(rel, tid, snapshot, slot);
}

static bool
orbit_tuple_tid_valid(TableScanDesc scan, ItemPointer tid)
{
	return ItemPointerIsValid(tid) &&
		OrbitTidSlot(tid) != 0 && OrbitTidTag(tid) <= ORBIT_MAX_TAG &&
		OrbitTidPage(tid) < ((TamScan *) scan)->npages;
}

static void
orbit_tuple_get_latest_tid(TableScanDesc scan, ItemPointer tid)
{
	RowLatestTid(((TamScan *) scan)->rel, tid, scan->rs_snapshot);
}

static bool
orbit_tuple_satisfies_snapshot(Relation rel, TupleTableSlot *slot, Snapshot snapshot)
{
	OrbitStorageId storage = RowStorage(rel);
	ItemPointer tid = &slot->tts_tid;
	StoreView	view;
	StoreChain	c;
	RowVersion	v;
	bool		seen;

	StoreViewOpen(&view);
	StoreChainOpen(&c, &view, storage, OrbitTidPage(tid), OrbitTidSlot(tid));
	if (snapshot->snapshot_type == SNAPSHOT_ANY)
		seen = RowFindVersion(&c, OrbitTidTag(tid), &v);
	else
		seen = RowVisible(&c, rel, snapshot, &v, NULL) && ItemPointerEquals(&v.tid, tid);
	StoreViewClose(&view);
	return seen;
}

/* ---- single rows, written --------------------------------------------------------------- */

static void
orbit_tuple_insert(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
				   struct BulkInsertStateData *bistate)
{
	slot->tts_tableOid = RelationGetRelid(rel);
	RowInsert(rel, slot, cid, options, false, 0);
}

static void
orbit_tuple_insert_speculative(Relation rel, TupleTableSlot *slot, CommandId cid, int options,
							   struct BulkInsertStateData *bistate, uint32 token)
{
	slot->tts_tableOid = RelationGetRelid(rel);
	RowInsert(rel, slot, cid, options, true, token);
}

static void
orbit_tuple_complete_speculative(Relation rel, TupleTableSlot *slot, uint32 token,
								 bool succeeded)
{
	RowFinishSpeculative(rel, slot, token, succeeded);
}

static void
orbit_multi_insert(Relation rel, TupleTableSlot **slots, int nslots, CommandId cid,
				   int options, struct BulkInsertStateData *bistate)
{
	for (int i = 0; i < nslots; i++)
		slots[i]->tts_tableOid = RelationGetRelid(rel);
	RowMultiInsert(rel, slots, nslots, cid, options);
}

static TM_Result
orbit_tuple_delete(Relation rel, ItemPointer tid, CommandId cid, Snapshot snapshot,
				   Snapshot crosscheck, bool wait, TM_FailureData *tmfd, bool changingPart)
{
	return RowDelete(rel, tid, cid, snapshot, crosscheck, wait, tmfd, changingPart);
}

static TM_Result
orbit_tuple_update(Relation rel, ItemPointer otid, TupleTableSlot *slot, CommandId cid,
				   Snapshot snapshot, Snapshot crosscheck, bool wait, TM_FailureData *tmfd,
				   LockTupleMode *lockmode, bool *update_indexes)
{
	slot->tts_tableOid = RelationGetRelid(rel);
	return RowUpdate(rel, otid, slot, cid, snapshot, crosscheck, wait, tmfd,
					 lockmode, update_indexes);
}

static TM_Result
orbit_tuple_lock(Relation rel, ItemPointer tid, Snapshot snapshot, TupleTableSlot *slot,
				 CommandId cid, LockTupleMode mode, LockWaitPolicy wait_policy, uint8 flags,
				 TM_FailureData *tmfd)
{
	return RowLock(rel, tid, snapshot, slot, cid, mode, wait_policy, flags, tmfd);
}

/* Every row is logged and published by its own insertion: nothing to finish. */
static void
orbit_finish_bulk_insert(Relation rel, int options)
{
}

/* ---- the routine -------------------------------------------------------------------------- */

static const TableAmRoutine tam_routine = {
	.type = T_TableAmRoutine,

	.slot_callbacks = orbit_slot_callbacks,

	.scan_begin = TamScanBegin,
	.scan_end = TamScanEnd,
	.scan_rescan = TamScanRescan,
	.scan_getnextslot = TamScanGetNextSlot,

	.scan_set_tidrange = TamScanSetTidRange,
	.scan_getnextslot_tidrange = TamScanGetNextSlotTidRange,

	.parallelscan_estimate = table_block_parallelscan_estimate,
	.parallelscan_initialize = TamParallelScanInitialize,
	.parallelscan_reinitialize = table_block_parallelscan_reinitialize,

	.index_fetch_begin = TamFetchBegin,
	.index_fetch_reset = TamFetchReset,
	.index_fetch_end = TamFetchEnd,
	.index_fetch_tuple = TamFetchTuple,

	.tuple_fetch_row_version = orbit_tuple_fetch_row_version,
	.tuple_tid_valid = orbit_tuple_tid_valid,
	.tuple_get_latest_tid = orbit_tuple_get_latest_tid,
	.tuple_satisfies_snapshot = orbit_tuple_satisfies_snapshot,
	.index_delete_tuples = TamIndexDeleteTuples,

	.tuple_insert = orbit_tuple_insert,
	.tuple_insert_speculative = orbit_tuple_insert_speculative,
	.tuple_complete_speculative = orbit_tuple_complete_speculative,
	.multi_insert = orbit_multi_insert,
	.tuple_delete = orbit_tuple_delete,
	.tuple_update = orbit_tuple_update,
	.tuple_lock = orbit_tuple_lock,
	.finish_bulk_insert = orbit_finish_bulk_insert,

	.relation_set_new_filenode = TamSetNewFilenode,
	.relation_nontransactional_truncate = TamNontransactionalTruncate,
	.relation_copy_data = TamCopyData,
	.relation_copy_for_cluster = TamCopyForCluster,
	.relation_vacuum = TamVacuum,
	.scan_analyze_next_block = TamAnalyzeNextBlock,
	.scan_analyze_next_tuple = TamAnalyzeNextTuple,
	.index_build_range_scan = TamIndexBuildRangeScan,
	.index_validate_scan = TamIndexValidateScan,

	.relation_size = TamRelationSize,
	.relation_needs_toast_table = TamNeedsToastTable,
	.relation_toast_am = TamToastAm,

	/* called for TOAST tables only, which are heap tables */
	.relation_fetch_toast_slice = heap_fetch_toast_slice,

	.relation_estimate_size = TamEstimateSize,

	.scan_bitmap_next_block = TamBitmapNextBlock,
	.scan_bitmap_next_tuple = TamBitmapNextTuple,
	.scan_sample_next_block = TamSampleNextBlock,
	.scan_sample_next_tuple = TamSampleNextTuple
};

const TableAmRoutine *
TamRoutine(void)
{
	return &tam_routine;
}

/* ---- SQL ------------------------------------------------------------------------------------ */

Datum
orbit_tableam_handler(PG_FUNCTION_ARGS)
{
	PG_RETURN_POINTER(&tam_routine);
}

/* For the extension's script: CREATE EXTENSION fails where no table could be used. */
Datum
orbit_check_preload(PG_FUNCTION_ARGS)
{
	OrbitRequirePreload();
	PG_RETURN_VOID();
}
