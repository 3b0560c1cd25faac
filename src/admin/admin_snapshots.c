/*
 * admin_snapshots.c: the SQL function orbit_snapshots(): one row a snapshot of RocksDB that backups copy.
 *
 * Reads the directories themselves; one that is removed meanwhile is left out.
 */
#include "postgres.h"

#include <sys/stat.h>

#include "fmgr.h"
#include "funcapi.h"
#include "utils/builtins.h"
#include "utils/pg_lsn.h"
#include "utils/timestamp.h"

#include "base/base.h"
#include "store/store.h"

PG_FUNCTION_INFO_V1(orbit_snapshots);

/* Has RocksDB given the file up?  Where there are no hard links this says yes of every file. */
static bool
OnlyInPool(uint64 number)
{
	char		path[MAXPGPATH];
	struct stat st;

	StorePoolPath(path, number);
	return stat(path, &st) == 0 && st.st_nlink == 1;
}

/* Files follow one another without gaps: what no neighbour names no other snapshot names. */
static int64
HeldOnlyBy(StoreSnapshot **all, int n, int i)
{
	int64		held = 0;

	for (int j = 0; j < all[i]->nfiles; j++)
	{
		const StoreSnapshotFile *f = &all[i]->files[j];

		if ((i > 0 && StoreSnapshotHasFile(all[i - 1], f->number)) ||
			(i < n - 1 && StoreSnapshotHasFile(all[i + 1], f->number)))
			continue;
		if (OnlyInPool(f->number))
			held += f->bytes;
	}
	return held;
}

static StoreSnapshot **
ReadAll(int *n)
{
	int			nserials;
	uint64	   *serials = StoreListSnapshots(&nserials);
	StoreSnapshot **all = palloc(Max(nserials, 1) * sizeof(StoreSnapshot *));

	*n = 0;
	for (int i = 0; i < nserials; i++)
	{
		char	   *wrong;
		StoreSnapshot *s = StoreReadSnapshot(serials[i], &wrong);

		if (s != NULL)
			all[(*n)++] = s;
	}
	return all;
}

Datum
orbit_snapshots(PG_FUNCTION_ARGS)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	StoreSnapshot **all;
	int			n;

	OrbitRequirePreload();
	InitMaterializedSRF(fcinfo, 0);
	all = ReadAll(&n);
	for (int i = 0; i < n; i++)
	{
		const StoreSnapshot *s = all[i];
		char		name[STORE_SNAPSHOT_NAME];
		int64		bytes = s->manifest_bytes;
		Datum		values[9];
		bool		nulls[9] = {false};

		for (int j = 0; j < s->nfiles; j++)
			bytes += s->files[j].bytes;
		StoreSnapshotName(name, s->serial);
		values[0] = CStringGetTextDatum(name);
		values[1] = Int64GetDatum((int64) s->generation);
		values[2] = LSNGetDatum(s->covered);
		values[3] = LSNGetDatum(s->flushed);
		values[4] = Int32GetDatum((int32) s->timeline);
		values[5] = TimestampTzGetDatum(s->made);
		values[6] = Int32GetDatum(s->nfiles);
		values[7] = Int64GetDatum(bytes);
		values[8] = Int64GetDatum(HeldOnlyBy(all, n, i));
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
	}
	return (Datum) 0;
}
