/*
 * publish.c: items -> the active arena, and the lock of a row.
 *
 * The one way by which rows get into a write buffer, for backends (after
 * XLogInsert, in its critical section) and for redo alike.  Nothing here can fail.
 */
#include "postgres.h"

#include "access/xlogutils.h"

#include "store/store_internal.h"

#define SLOTS_A_GROUP	16		/* see MembufGroupCost */
#define GROUPS_A_PAGE	16

/*
 * Groups of slots that a run of items of one page may touch, at most.  Holds
 * wherever the groups' borders lie.
 */
static int
GroupsTouched(int items, int lowest, int highest)
{
	int			groups = (highest - lowest) / SLOTS_A_GROUP + 2;

	return Min(Min(groups, items), GROUPS_A_PAGE);
}

Size
StorePublishCost(const StoreItem *items, int n)
{
	Size		cost = 0;

	for (int i = 0; i < n;)
	{
		int			first = i;
		int			lowest = items[i].slot;
		int			highest = items[i].slot;

		for (; i < n && items[i].page == items[first].page; i++)
		{
			lowest = Min(lowest, items[i].slot);
			highest = Max(highest, items[i].slot);
			cost += MembufEntryCost(items[i].len);
		}
		cost += MembufPageCost() +
			(GroupsTouched(i - first, lowest, highest) - 1) * MembufGroupCost();
	}
	return cost;
}

/* Has an earlier item of the batch pushed onto the same row? */
static bool
PushedBefore(const StoreItem *items, int i)
{
	for (int j = i - 1; j >= 0; j--)
	{
		if (items[j].slot == items[i].slot && items[j].page == items[i].page)
			return true;
	}
	return false;
}

void
StorePublish(MembufReservation *r, OrbitStorageId storage, const StoreItem *items, int n)
{
	MembufPage *page = NULL;

	for (int i = 0; i < n; i++)
	{
		const StoreItem *item = &items[i];
		const CodecEntry *below = item->below;
		CodecEntry	header;

		if (page == NULL || item->page != items[i - 1].page)
			page = MembufPageGet(r, storage, item->page);

		/*
		 * Redo has no chain in hand; nor had the caller when an earlier item of
		 * this batch made the entry below.  A fresh slot's items are looked up
		 * too: that costs nothing and makes a chain copied to a new row right.
		 */
		if (item->fresh || InRecovery || PushedBefore(items, i))
			below = MembufPageNewest(page, item->slot);

		header.len = item->len;
		header.xid = item->xid;
		header.cid = item->cid;
		header.kind_flags = item->kind_flags;
		header.tag = item->tag;
		MembufPagePush(r, page, item->slot, &header, item->payload, below);
	}
}

LWLock *
StoreRowLock(OrbitStorageId storage, BlockNumber page, int slot)
{
	uint64		row = ((uint64) page << 8) | (uint64) slot;
	uint64		h = storage * UINT64CONST(0x9E3779B97F4A7C15) ^ row;

	h ^= h >> 33;
	h *= UINT64CONST(0xFF51AFD7ED558CCD);
	h ^= h >> 33;
	return &orbit_row_locks[h % ORBIT_ROW_LOCKS].lock;
}
