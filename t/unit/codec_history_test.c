/*
 * codec_history_test.c: pruning against a model.  Prints TAP.
 *
 *   cc -std=gnu11 -g -O1 -Isrc -It/unit t/unit/codec_history_test.c src/codec/(every .c)
 *   ./codec_history_test [seed [episodes]]		default: ORBIT_FUZZ_EPISODES, or 5000
 *
 * An episode is the life of one page.  Transactions and subtransactions insert, update, delete
 * and lock its rows by the rules of src/row; write buffers are flushed into parts; VACUUM
 * removes index entries and says so; and compactions at random unite neighbouring
 * parts, or prune single ones, under any of the last few horizons and marks, as
 * compactions do that began earlier and end later.
 *
 * After a crash redo may repeat what is stored already.
 *
 * The truth is the list of all entries ever made, unpruned.  What is stored must always give
 * every reader the same: each snapshot that lives, each running transaction, dirty readers, fetches
 * by TID, followers of updates, and those who look for locks.  A row that indexes still
 * lead to must be there, at least as a dead slot.  When all is over, one frozen version
 * of a row is left, or a dead slot with the right xid, or nothing.
 *
 * Writers decide by what is stored, not by the truth, so an error goes on to show.
 */
#include "codec_history_store.h"

/* How busy an episode is: one in so many. */
typedef struct Pace
{
	uint32_t	insert;
	uint32_t	delete;
	uint32_t	key;			/* change or lock that is not of the weakest kind */
	uint32_t	rows;			/* that are in use */
	uint32_t	end;			/* of a transaction's steps */
	uint32_t	sub;
	uint32_t	keep;			/* of a snapshot's steps, all but one */
} Pace;

static Pace pace;

/* ---- writers ----------------------------------------------------------- */

static Ent *
Push(Row *r, int kind, int xid, uint32_t cid)
{
	Ent		   *e = &r->all[r->n];

	r->lsn[r->n++] = ++wal_end;
	memset(e, 0, sizeof(*e));
	e->kind = (uint8_t) kind;
	e->xid = xid;
	e->cid = cid;
	if (kind <= CODEC_DELETE)
		e->serial = ++serials;
	return e;
}

static bool
Subsumed(const Ent *lock, int xid, int mode)
{
	return lock->xid == xid && lock->tag <= mode;
}

/* Locks at the head of the write buffer that the new entry links past. */
static void
Unlink(Row *r, int xid, int mode, bool carry)
{
	for (int i = r->n - 1; i >= r->flushed; i--)
	{
		Ent		   *e = &r->all[i];

		if (e->unlinked)
			continue;
		if (e->kind != CODEC_LOCK ||
			(!carry && xids[e->xid].state == RUNNING && !Subsumed(e, xid, mode)))
			return;
		e->unlinked = true;
	}
}

/* As row/push.c.  Locks that are carried are made once more above the entry. */
static Ent *
PushOnRow(Row *r, const List *holders, int kind, const Txn *t, int mode)
{
	bool		may_carry = kind == CODEC_UPDATE || kind == CODEC_LOCK;
	int			others = 0;
	bool		carry;
	Ent		   *e;

	for (int i = 0; i < holders->n; i++)
		others += !Subsumed(&holders->e[i], t->current, mode);
	carry = may_carry && others > 0 && Random(3) == 0;
	Unlink(r, t->current, mode, carry);
	e = Push(r, kind, t->current, t->cid);
	if (may_carry && (others == 0 || carry))
		e->flags |= CODEC_NO_LOCKERS;
	for (int i = holders->n - 1; i >= 0 && carry; i--)
	{
		const Ent  *h = &holders->e[i];

		if (!Subsumed(h, t->current, mode))
			Push(r, CODEC_LOCK, h->xid, h->cid)->tag = h->tag;
	}
	return e;
}

static void
Insert(Row *r, const Txn *t)
{
	Ent		   *e = Push(r, CODEC_INSERT, t->current, t->cid);

	r->begun = true;
	r->index = true;
	if (Random(2))
	{
		e->flags |= CODEC_SPECULATIVE;
		r->speculative = t->current;
	}
}

static void
FinishSpeculative(Row *r, const Txn *t)
{
	List		none = {0};
	Txn			self = *t;

	self.current = r->speculative;
	self.cid = r->all[0].cid;
	PushOnRow(r, &none, Random(3) ? CODEC_CONFIRM : CODEC_KILL, &self, 3);
	r->speculative = -1;
}

/* -1: none is free. */
static int
NextTag(const List *l)
{
	int			tag = -1;

	for (int i = 0; i < l->n; i++)
	{
		if (IsVersion(&l->e[i]) && tag < 0)
			tag = (l->e[i].tag + 1) % (ORBIT_MAX_TAG + 1);
	}
	for (int i = 0; i < l->n; i++)
	{
		if (IsVersion(&l->e[i]) && l->e[i].tag == tag)
			return -1;
	}
	return tag;
}

static bool
Blocked(const List *holders, const Txn *t, int mode)
{
	for (int i = 0; i < holders->n; i++)
	{
		const Ent  *h = &holders->e[i];

		if (xids[h->xid].top != t->top && ModesConflict(h->tag, mode))
			return true;
	}
	return false;
}

static void
Change(Row *r, const Txn *t, const List *l, const List *holders)
{
	bool		keys = Random(pace.key) == 0;
	int			mode = keys ? 3 : 2;
	int			tag = NextTag(l);
	bool		update = Random(pace.delete) > 0;
	Ent		   *e;

	if (Blocked(holders, t, mode) || (update && tag < 0))
		return;
	e = PushOnRow(r, holders, update ? CODEC_UPDATE : CODEC_DELETE, t, mode);
	e->tag = (uint8_t) (update ? tag : 0);
	e->flags |= keys ? CODEC_KEYS_UPDATED : 0;
}

static void
Lock(Row *r, const Txn *t, const List *holders, int mode)
{
	if (!Blocked(holders, t, mode))
		PushOnRow(r, holders, CODEC_LOCK, t, mode)->tag = (uint8_t) mode;
}

/* One command of a transaction on a row, if it may. */
static bool
Command(Txn *t, Row *r)
{
	List		l;
	List		holders;
	const Ent  *standing;

	if (r->n > MAX_ENTRIES / 2)
		return true;
	t->cid++;
	if (!r->begun)
	{
		if (Random(pace.insert) == 0)
			Insert(r, t);
		return true;
	}
	if (r->speculative >= 0)
	{
		if (r->speculative == t->current)
			FinishSpeculative(r, t);
		return true;
	}
	if (!ReadRow(r, &l))
		return false;
	standing = Standing(&l);
	if (standing == NULL)
		return true;
	Holders(&l, &holders);
	if (Fate(standing) == RUNNING && xids[standing->xid].top != t->top)
	{
		/* KEY SHARE goes together with changes that leave the key alone */
		if (!(standing->flags & CODEC_KEYS_UPDATED))
			Lock(r, t, &holders, 0);
	}
	else if (standing->kind == CODEC_DELETE)
		return true;
	else if (Random(3) == 0)
		Lock(r, t, &holders, Random(pace.key) ? 0 : (int) Random(4));
	else
		Change(r, t, &l, &holders);
	return true;
}

/* ---- transactions ------------------------------------------------------ */

static void
Abort(int xid)
{
	for (int i = 0; i < MAX_ROWS; i++)
	{
		if (rows[i].speculative >= 0 && IsWithin(rows[i].speculative, xid))
			rows[i].speculative = -1;
	}
	EndXid(xid, ABORTED);
}

/* A speculative insertion ends within the command. */
static void
FinishCommand(const Txn *t)
{
	for (int i = 0; i < MAX_ROWS; i++)
	{
		if (rows[i].speculative == t->current)
			FinishSpeculative(&rows[i], t);
	}
}

static void
EndTxn(Txn *t)
{
	if (Random(3) == 0)
		Abort(t->top);
	else
	{
		FinishCommand(t);
		EndXid(t->top, COMMITTED);
	}
	t->active = false;
	for (int i = 0; i < MAX_SNAPSHOTS; i++)
	{
		if (snapshots[i].owner == t->top)
			snapshots[i].active = false;
	}
}

static void
Subtransaction(Txn *t)
{
	if (t->current == t->top || Random(3) == 0)
	{
		FinishCommand(t);
		t->current = NewXid(t->current);
		return;
	}
	if (Random(2))
		Abort(t->current);
	else
		FinishCommand(t);
	t->current = xids[t->current].parent;
}

static bool
TransactionStep(void)
{
	Txn		   *t = &txns[Random(MAX_TXNS)];

	if (next_xid > MAX_XIDS - 20)
		return true;
	if (!t->active)
	{
		t->active = true;
		t->cid = 0;
		t->top = t->current = NewXid(-1);
		return true;
	}
	if (Random(pace.end) == 0)
		EndTxn(t);
	else if (Random(pace.sub) == 0)
		Subtransaction(t);
	else
		return Command(t, &rows[Random(pace.rows)]);
	return true;
}

static void
SnapshotStep(void)
{
	Snapshot   *s = &snapshots[Random(MAX_SNAPSHOTS)];
	const Txn  *t = &txns[Random(MAX_TXNS)];

	if (s->active)
		s->active = Random(pace.keep) > 0;
	else
		TakeSnapshot(s, t->active && Random(2) ? t : NULL);
}

/*
 * The server crashes.  Redo brings back what was in the write buffer, and more: entries
 * that some part has already, in whatever state.  Prepared transactions live on.
 */
static void
Crash(void)
{
	uint32_t	redo = wal_end - Random(wal_end < 30 ? wal_end + 1 : 30);

	for (int i = 0; i < MAX_TXNS; i++)
	{
		if (txns[i].active && Random(4) > 0)
		{
			Abort(txns[i].top);
			txns[i].active = false;
		}
	}
	for (int i = 0; i < MAX_SNAPSHOTS; i++)
		snapshots[i].active = false;
	for (int i = 0; i < MAX_ROWS; i++)
	{
		while (rows[i].flushed > 0 && rows[i].lsn[rows[i].flushed - 1] > redo)
			rows[i].flushed--;
	}
	kept_locks = next_xid;
	vacuum_step = 0;
}

/* ---- checks ------------------------------------------------------------ */

static const char *checking;

static void
PrintList(const char *what, const List *l)
{
	printf("# %s:", what);
	for (int i = 0; i < l->n; i++)
	{
		const Ent  *e = &l->e[i];

		printf(" %c%d.%u/%u%s%s%s", "?IUDLCKX"[e->kind], e->xid, e->cid, e->tag,
			   (e->flags & CODEC_FROZEN) ? "*" : "", (e->flags & CODEC_NO_LOCKERS) ? "n" : "",
			   (e->flags & CODEC_SPECULATIVE) ? "s" : "");
		if (e->kind != CODEC_DEADSLOT)
			printf("%c", "rca"[xids[e->xid].state]);
	}
	printf("\n");
}

static bool
SameOver(const List *truth, const List *stored, const Ent *version)
{
	List		a;
	List		b;

	if (ChangesAbove(truth, version, &a) != ChangesAbove(stored, version, &b))
		return false;
	for (int i = 0; i < a.n; i++)
	{
		a.e[i].flags &= (uint8_t) ~CODEC_FROZEN;
		b.e[i].flags &= (uint8_t) ~CODEC_FROZEN;
		if (memcmp(&a.e[i], &b.e[i], sizeof(Ent)) != 0)
			return false;
	}
	return true;
}

static bool
CheckSnapshots(const List *truth, const List *stored)
{
	checking = "snapshots";
	for (int i = 0; i < MAX_SNAPSHOTS; i++)
	{
		Answer		a;
		Answer		b;

		if (!snapshots[i].active)
			continue;
		a = ReadMvcc(truth, &snapshots[i]);
		b = ReadMvcc(stored, &snapshots[i]);
		if (!SameAnswer(&a, &b) || (a.found && !SameOver(truth, stored, &a.version)))
			return false;
	}
	return true;
}

static bool
CheckNow(const List *truth, const List *stored)
{
	Answer		a = ReadDirty(truth);
	Answer		b = ReadDirty(stored);

	checking = "dirty readers";
	if (!SameAnswer(&a, &b))
		return false;
	checking = "transactions";
	for (int i = -1; i < MAX_TXNS; i++)
	{
		int			top = i < 0 ? -1 : txns[i].top;

		if (i >= 0 && !txns[i].active)
			continue;
		a = ReadLatest(truth, top);
		b = ReadLatest(stored, top);
		if (!SameAnswer(&a, &b) || (a.found && !SameOver(truth, stored, &a.version)))
			return false;
	}
	return true;
}

/* Each version of a running transaction, and the one it replaced, can be fetched by TID. */
static bool
CheckTids(const List *truth, const List *stored)
{
	checking = "fetch by TID";
	if (Standing(truth) == NULL)
		return true;
	for (int i = 0; i < truth->n; i++)
	{
		const Ent  *e = &truth->e[i];
		Answer		a;
		Answer		b;

		if (PassesBy(e) || Fate(e) == ABORTED)
			continue;
		if (IsVersion(e))
		{
			a = ReadTag(truth, e->tag);
			b = ReadTag(stored, e->tag);
			if (!SameAnswer(&a, &b))
				return false;
		}
		if (Fate(e) != RUNNING)
			break;
	}
	return true;
}

/* Who has no row any more has no use for locks. */
static bool
CheckLocks(const List *truth, const List *stored)
{
	const Ent  *standing = Standing(truth);
	List		a;
	List		b;

	checking = "locks";
	if (standing == NULL || (standing->kind == CODEC_DELETE && Fate(standing) == COMMITTED))
		return true;
	StrongestHolders(truth, &a);
	StrongestHolders(stored, &b);
	return SameHolders(&a, &b);
}

static bool
CheckIndex(const Row *r, const List *stored)
{
	checking = "index entries lead somewhere";
	for (int i = 0; i < stored->n; i++)
	{
		if (!PassesBy(&stored->e[i]))
			return true;
	}
	return !r->index;
}

static bool
CheckAll(void)
{
	CodecBuf	bytes = {0};
	CodecPage	page;
	bool		ok = ReadStore(&bytes, &page);

	for (int i = 0; i < MAX_ROWS && ok; i++)
	{
		List		truth;
		List		stored;

		if (!rows[i].begun)
			continue;
		TrueRow(&rows[i], &truth);
		DecodeRow(&page, rows[i].slot, &stored);
		ok = CheckSnapshots(&truth, &stored) && CheckNow(&truth, &stored) &&
			CheckTids(&truth, &stored) && CheckLocks(&truth, &stored) && CheckIndex(&rows[i], &stored);
		if (!ok)
		{
			printf("# row %d: %s\n", i, checking);
			PrintList("truth", &truth);
			PrintList("stored", &stored);
		}
	}
	CodecBufFree(&bytes);
	return ok;
}

/* ---- the end ----------------------------------------------------------- */

/* Who ended a row that is dead. */
static int
Ender(const List *truth)
{
	for (int i = 0; i < truth->n; i++)
	{
		const Ent  *e = &truth->e[i];

		if (e->kind == CODEC_KILL || e->kind == CODEC_INSERT ||
			(e->kind == CODEC_DELETE && Fate(e) == COMMITTED))
			return e->xid;
	}
	return -1;
}

static bool
CheckLast(const Row *r, const List *truth, const List *stored, bool cleaned)
{
	Answer		a = ReadLatest(truth, -1);
	const Ent  *e = &stored->e[0];

	if (a.found)
		return stored->n == 1 && IsVersion(e) && (e->flags & CODEC_FROZEN) &&
			!(e->flags & CODEC_SPECULATIVE) && e->serial == a.version.serial;
	if (cleaned)
		return stored->n == 0;
	if (stored->n == 0)
		return !r->index;
	return stored->n == 1 && e->kind == CODEC_DEADSLOT && e->xid == Ender(truth) &&
		e->cid == (uint32_t) ((origin + (uint64_t) e->xid) >> 32);
}

static bool
CheckEnd(bool cleaned)
{
	bool		ok = true;

	checking = "what is left in the end";
	for (int i = 0; i < MAX_ROWS && ok; i++)
	{
		List		truth;
		List		stored;

		TrueRow(&rows[i], &truth);
		ok = ReadRow(&rows[i], &stored) &&
			(rows[i].begun ? CheckLast(&rows[i], &truth, &stored, cleaned) : stored.n == 0);
		if (!ok)
		{
			printf("# row %d: %s\n", i, checking);
			PrintList("truth", &truth);
			PrintList("stored", &stored);
		}
	}
	return ok;
}

/* All transactions end, and the last compactions see everything. */
static bool
Finish(void)
{
	CodecPruning p;
	bool		ok;

	for (int i = 0; i < MAX_TXNS; i++)
	{
		if (txns[i].active)
			EndTxn(&txns[i]);
	}
	for (int i = 0; i < MAX_SNAPSHOTS; i++)
		snapshots[i].active = false;
	/* a compaction, or VACUUM, may still be about */
	ok = CheckAll() && Flush(Random(2)) && CheckAll();
	Publish(true);
	Publish(true);
	p = SomePruning(true);
	for (int i = 0; i < nparts - 1 && ok; i++)
		ok = Filter(i, false, &p);
	ok = ok && CheckAll();
	if (nparts > 0)
		ok = ok && Merge(0, nparts - 1, true, &p);
	ok = ok && CheckAll() && CheckEnd(false);
	p.cleaned = p.horizon->limit;
	for (int i = 0; i < MAX_ROWS; i++)
		rows[i].index = false;
	if (nparts > 0)
		ok = ok && Filter(0, true, &p);
	return ok && CheckEnd(true);
}

/* ---- episodes ---------------------------------------------------------- */

static void
Begin(void)
{
	static const uint64_t origins[] = {
		3,
		UINT64_C(5) * CODEC_FATES_CHUNK - 60,
		(UINT64_C(1) << 31) - 60,
		(UINT64_C(1) << 32) - 60,
		(UINT64_C(7) << 32) + (UINT64_C(1) << 31) - 60,
		(UINT64_C(9) << 32) - 90,
	};

	origin = origins[Random(sizeof(origins) / sizeof(origins[0]))];
	next_xid = 0;
	serials = wal_end = 0;
	kept_locks = 0;
	vacuum_step = 0;
	nparts = nhorizons = nmarks = nsettlings = 0;
	pace.insert = 1 + Random(12);
	pace.delete = 2 + Random(8);
	pace.key = 1 + Random(8);
	pace.rows = 1 + Random(MAX_ROWS);
	pace.end = 2 + Random(16);
	pace.sub = 3 + Random(20);
	pace.keep = 1 + Random(3);
	memset(txns, 0, sizeof(txns));
	memset(snapshots, 0, sizeof(snapshots));
	for (int i = 0; i < MAX_ROWS; i++)
	{
		Row		   *r = &rows[i];

		r->begun = r->index = false;
		r->speculative = -1;
		r->n = r->flushed = 0;
		r->slot = i == 0 ? 1 : rows[i - 1].slot + 1 + (int) Random(35);
	}
}

static void
Cleanup(void)
{
	for (int i = 0; i < nparts; i++)
	{
		CodecBufFree(&parts[i]);
		memset(&parts[i], 0, sizeof(CodecBuf));
	}
	for (int i = 0; i < nhorizons; i++)
		FreeHorizon(&horizons[i]);
}

static bool
Step(void)
{
	if (Random(100) == 0)
	{
		Crash();
		return CheckAll();
	}
	switch (Random(16))
	{
		case 0:
			for (int i = 0; i < MAX_SNAPSHOTS; i++)
				SnapshotStep();
			return true;
		case 1:
			return Flush(Random(2)) && CheckAll();
		case 2:
		case 3:
			Publish(false);
			return true;
		case 4:
		case 5:
			return Compact() && CheckAll();
		case 6:
			return VacuumStep();
		default:
			return TransactionStep();
	}
}

static bool
Episode(int number)
{
	int			steps = 100 + (int) Random(500);
	bool		ok = true;

	Reseed((uint64_t) number * 7919);
	Begin();
	for (int i = 0; i < steps && ok; i++)
		ok = Step();
	ok = ok && CheckAll() && Finish();
	if (!ok)
		printf("# seed %llu, episode %d\n", (unsigned long long) seed, number);
	Cleanup();
	return ok;
}

int
main(int argc, char **argv)
{
	const char *wish = getenv("ORBIT_FUZZ_EPISODES");
	int			episodes = wish != NULL ? atoi(wish) : 5000;
	int			good = 0;

	if (argc > 1)
		seed = strtoull(argv[1], NULL, 10);
	if (argc > 2)
		episodes = atoi(argv[2]);
	printf("# seed %llu, %d episodes\n", (unsigned long long) seed, episodes);
	while (good < episodes && Episode(good))
		good++;
	Ok(good == episodes, "history: pruned in any order, every reader sees what was there");
	printf("1..%d\n", tests);
	return failures > 0;
}
