/*
 * kv_prune_test.cpp: what src/kv forgets in compactions, its list of files and its
 * compaction jobs, without a server.  Prints TAP.
 *
 *   kv_prune_test [scratch directory] [factor] [seed]
 *
 * The model (struct World) is a small database: transactions, snapshots, rows with all
 * entries that were ever made.  What it does in a generation follows from seed and
 * generation, so a process that comes after a kill can tell what must be there.  After each flush
 * the horizon is published; compactions run when they like.  Whatever a snapshot sees, a
 * locker holds, or VACUUM has not been told yet must be read from RocksDB as it is in the model.
 */
#include "kv_testing.h"

static uint64_t seed = 1;

/* ---- a generator that belongs to one generation ------------------------------------ */

struct Dice
{
	uint64_t	a, n = 0;

	explicit Dice(uint64_t g) : a(g * 7919 + seed * 104729) {}
	uint32_t	operator() (uint32_t below) { return Hash(a, n++) % below; }
	bool		Chance(uint32_t percent) { return (*this)(100) < percent; }
};

/* ---- the model -------------------------------------------------------------------------- */

using Full = uint64_t;			/* xid with its epoch */

enum class Fate
{
	Running, Committed, Aborted
};

struct Entry
{
	CodecKind	kind;
	Full		xid;
	uint32_t	cid;
	uint8_t		tag;
	uint8_t		flags;

	bool		IsVersion() const { return kind == CODEC_INSERT || kind == CODEC_UPDATE; }
	bool		Counts() const { return kind != CODEC_LOCK && kind != CODEC_CONFIRM; }
};

using Chain = vector<Entry>;	/* newest first */

struct RowId
{
	uint64_t	storage;
	uint32_t	page;
	int			slot;

	bool		operator<(const RowId &o) const
	{
		return std::tie(storage, page, slot) < std::tie(o.storage, o.page, o.slot);
	}
};

struct Snapshot
{
	Full		xmin, xmax;
	std::set<Full> running;

	/* xid: of a transaction that committed */
	bool		Sees(Full xid) const { return xid < xmax && !running.count(xid); }
};

/* What a version is known by. */
struct Seen
{
	bool		found = false;
	Full		xid = 0;
	uint32_t	cid = 0;
	int			tag = 0;

	bool		operator==(const Seen &o) const
	{
		return found == o.found && xid == o.xid && cid == o.cid && tag == o.tag;
	}
};

/* The 32 bits wrap soon; far enough before that for chunks of fates to be complete. */
constexpr Full FirstXid = (UINT64_C(1) << 32) - CODEC_FATES_CHUNK - 300;
constexpr uint64_t Storages = 3;

struct World
{
	uint64_t	generation = 0;
	Full		next = FirstXid;
	uint32_t	cid = 0;
	std::map<Full, Fate> fates;
	std::set<Full> running;
	std::map<Full, vector<RowId>> speculative;	/* neither confirmed nor killed */
	std::map<RowId, Chain> rows;
	vector<Snapshot> snapshots;
	uint32_t	pages[Storages + 1] = {};	/* the last one of each storage */
	int			slots[Storages + 1] = {};	/* used on it */
	Full		cleaned[Storages + 1] = {};
	std::map<std::pair<uint64_t, uint32_t>, std::map<int, Chain>> delta;	/* of this generation */

	/* the horizon that is published with this generation */
	Full		limit = FirstXid, settled = 0;
	vector<std::pair<Full, Full>> pairs;

	Full		Begin(Dice &dice);
	void		End(Full xid, bool commit);
	void		Push(const RowId &row, Entry e);
	bool		OthersLock(const Chain &chain, Full xid) const;
	const Entry *Top(const Chain &chain) const;
	void		Insert(Full xid, Dice &dice);
	void		Change(Full xid, Dice &dice);
	void		Act(Dice &dice);
	void		SetHorizon();
	void		Step();
	void		To(uint64_t g) { while (generation < g) Step(); }

	Full		Oldest() const { return running.empty() ? next : *running.begin(); }
	Seen		Look(const Chain &chain, const Snapshot &s) const;
	std::set<Full> Lockers(const Chain &chain) const;
	bool		IsDead(const Chain &chain, Full *ended) const;
};

Full
World::Begin(Dice &dice)
{
	next += dice(100);			/* transactions that wrote elsewhere */
	while (static_cast<uint32_t>(next) < 3)
		next++;
	fates[next] = Fate::Running;
	running.insert(next);
	return next++;
}

void
World::Push(const RowId &row, Entry e)
{
	Chain	   &d = delta[{row.storage, row.page}][row.slot];
	Chain	   &chain = rows[row];

	e.cid = cid++;
	chain.insert(chain.begin(), e);
	d.insert(d.begin(), e);
}

void
World::End(Full xid, bool commit)
{
	for (const auto &row : speculative[xid])
		if (commit)
			Push(row, {CODEC_CONFIRM, xid, 0, 0, 0});
	speculative.erase(xid);
	fates[xid] = commit ? Fate::Committed : Fate::Aborted;
	running.erase(xid);
}

bool
World::OthersLock(const Chain &chain, Full xid) const
{
	for (const auto &e : chain)
		if (e.kind == CODEC_LOCK && e.xid != xid && running.count(e.xid))
			return true;
	return false;
}

/* The newest entry that stands, locks and confirmations apart. */
const Entry *
World::Top(const Chain &chain) const
{
	for (const auto &e : chain)
		if (e.Counts() && fates.at(e.xid) != Fate::Aborted)
			return &e;
	return nullptr;
}

void
World::Insert(Full xid, Dice &dice)
{
	uint64_t	storage = 1 + dice(Storages);
	bool		spec = dice.Chance(15);

	for (uint32_t n = dice.Chance(20) ? 20 : 1; n > 0; n--)
	{
		if (slots[storage] == 40)
		{
			pages[storage]++;
			slots[storage] = 0;
		}

		RowId		row = {storage, pages[storage], ++slots[storage]};

		Push(row, {CODEC_INSERT, xid, 0, 0, static_cast<uint8_t>(spec ? CODEC_SPECULATIVE : 0)});
		if (spec)
			speculative[xid].push_back(row);
	}
}

/* Some row: an update, a delete, a lock, or the end of a speculative one. */
void
World::Change(Full xid, Dice &dice)
{
	uint64_t	storage = 1 + dice(Storages);
	RowId		row = {storage, dice(pages[storage] + 1), 1 + static_cast<int>(dice(40))};
	auto		it = rows.find(row);
	auto		spec = speculative.find(xid);

	if (spec != speculative.end() && !spec->second.empty())
	{
		Push(spec->second.back(), {dice.Chance(50) ? CODEC_CONFIRM : CODEC_KILL, xid, 0, 0, 0});
		spec->second.pop_back();
		return;
	}
	if (it == rows.end())
		return;
	if (dice.Chance(30))
		row = {storage, pages[storage], 1 + static_cast<int>(dice(3))};	/* a hot one */
	it = rows.find(row);

	const Entry *top = it != rows.end() ? Top(it->second) : nullptr;

	if (top == nullptr || !top->IsVersion() || (top->flags & CODEC_SPECULATIVE && top->xid == xid))
		return;

	bool		taken = fates[top->xid] == Fate::Running && top->xid != xid;
	bool		locked = OthersLock(it->second, xid);
	uint8_t		alone = locked ? 0 : CODEC_NO_LOCKERS;

	if (dice.Chance(30))
	{
		/* KEY SHARE of what somebody else may be updating; not of an unseen row */
		if (!taken || top->kind == CODEC_UPDATE)
			Push(row, {CODEC_LOCK, xid, 0, 0, alone});
	}
	else if (taken)
		return;
	else if (dice.Chance(60))
	{
		int			tag = 0;

		for (const auto &e : it->second)
			if (e.IsVersion())
			{
				tag = (e.tag + 1) % 255;
				break;
			}
		Push(row, {CODEC_UPDATE, xid, 0, static_cast<uint8_t>(tag), alone});
	}
	else if (!locked)
		Push(row, {CODEC_DELETE, xid, 0, 0, CODEC_KEYS_UPDATED});
}

void
World::Act(Dice &dice)
{
	uint32_t	what = dice(100);

	if (running.empty() || (what < 12 && running.size() < 8))
		Begin(dice);

	auto		it = running.begin();

	std::advance(it, dice(running.size()));

	Full		xid = *it;

	if (what < 12)
		return;
	if (what < 24)
		End(xid, dice.Chance(75));
	else if (what < 29 && snapshots.size() < 4)
		snapshots.push_back({Oldest(), next, running});
	else if (what < 36 && !snapshots.empty())
		snapshots.erase(snapshots.begin() + dice(snapshots.size()));
	else if (what < 55)
		Insert(xid, dice);
	else
		Change(xid, dice);
}

/* As the storage worker does it. */
void
World::SetHorizon()
{
	Full		oldest = Oldest(), horizon = oldest;

	for (const auto &s : snapshots)
		horizon = std::min(horizon, s.xmin);
	limit = std::max(limit, horizon);
	while (!pairs.empty() && pairs.front().second <= oldest)
	{
		settled = pairs.front().first;
		pairs.erase(pairs.begin());
	}
	pairs.push_back({limit, next});
}

void
World::Step()
{
	Dice		dice(++generation);

	delta.clear();
	for (uint32_t n = 5 + dice(50); n > 0; n--)
		Act(dice);
	SetHorizon();
	/* a VACUUM has cleaned the indexes of whatever was dead to all */
	if (dice.Chance(10))
		cleaned[1 + dice(Storages)] = limit;
}

Seen
World::Look(const Chain &chain, const Snapshot &s) const
{
	for (const auto &e : chain)
	{
		if (!e.Counts())
			continue;
		if (e.kind == CODEC_KILL)
			break;
		if (fates.at(e.xid) != Fate::Committed || !s.Sees(e.xid))
			continue;
		if (e.IsVersion())
			return {true, e.xid, e.cid, e.tag};
		break;
	}
	return {};
}

/* As state.c looks for them: an entry may say that there are none below, but its own maker. */
std::set<Full>
World::Lockers(const Chain &chain) const
{
	std::set<Full> out;

	for (const auto &e : chain)
	{
		if (e.kind == CODEC_LOCK && running.count(e.xid))
			out.insert(e.xid);
		if ((e.kind == CODEC_LOCK || e.kind == CODEC_UPDATE) && (e.flags & CODEC_NO_LOCKERS))
			break;
	}
	return out;
}

/* Dead to every snapshot from the limit on?  Then since when. */
bool
World::IsDead(const Chain &chain, Full *ended) const
{
	for (const auto &e : chain)
		if (e.kind != CODEC_LOCK && e.xid >= limit)
			return false;
	for (const auto &e : chain)
	{
		*ended = e.xid;
		if (e.kind == CODEC_KILL)
			return true;
		if (e.Counts() && fates.at(e.xid) == Fate::Committed)
			return e.kind == CODEC_DELETE;
	}
	return true;				/* aborted: the oldest entry is the insertion */
}

/* ---- bytes ------------------------------------------------------------------------------ */

static string
EncodePage(const std::map<int, Chain> &page)
{
	CodecBuf	out = {};
	CodecBuilder b;
	string		image;

	CodecBuildBegin(&b, &out);
	for (auto &chain : page)
	{
		CHECK(CodecBuildChain(&b, chain.first), "chain");
		for (auto &e : chain.second)
		{
			uint32_t	len = e.IsVersion() ? 12 + e.cid % 90 : e.kind == CODEC_DELETE ? 8 : 0;
			vector<char> bytes(CODEC_ENTRY_HEADER + len);
			CodecEntry *entry = reinterpret_cast<CodecEntry *>(bytes.data());

			entry->len = len;
			entry->xid = static_cast<uint32_t>(e.xid);
			entry->cid = e.cid;
			entry->kind_flags = e.kind | e.flags;
			entry->tag = e.tag;
			for (uint32_t i = 0; i < len && e.IsVersion(); i++)
				entry->payload[i] = static_cast<char>(Hash(e.cid, i));
			CHECK(CodecBuildEntry(&b, entry), "entry");
		}
	}
	CHECK(CodecBuildFinish(&b), "page");
	CodecBuildFree(&b);
	image.assign(out.data, out.len);
	CodecBufFree(&out);
	return image;
}

/* A stored page, ready to be read. */
struct StoredPage
{
	CodecBuf	buf = {};
	CodecPage	page = {};
	bool		exists = false;

	StoredPage(KvDb *db, uint64_t storage, uint32_t number)
	{
		string		value;
		KvStatus	st = Get(db, ORBIT_PG_DATA, PageKey(storage, number), &value);

		if (st.code == KV_NOT_FOUND)
			return;
		MUST(st);
		CHECK(CodecBufAppend(&buf, value.data(), value.size()) &&
			  CodecPageOpen(&page, buf.data, buf.len), "damaged page");
		exists = true;
	}
	~StoredPage() { CodecBufFree(&buf); }
	StoredPage(const StoredPage &) = delete;

	vector<const CodecEntry *> Row(int slot) const
	{
		vector<const CodecEntry *> out;
		int			chain;
		const CodecEntry *e = exists ? CodecPageFind(&page, slot, &chain) : nullptr;

		for (; e != nullptr; e = CodecPageOlder(&page, chain, e))
			out.push_back(e);
		return out;
	}
};

/* ---- reading as a backend would ----------------------------------------------------------- */

static Full
FullOf(const World &w, uint32_t xid)
{
	return w.next - static_cast<uint32_t>(static_cast<uint32_t>(w.next) - xid);
}

static Fate
FateOf(const World &w, const CodecEntry *e)
{
	if (e->kind_flags & CODEC_FROZEN)
		return Fate::Committed;
	auto		it = w.fates.find(FullOf(w, e->xid));

	CHECK(it != w.fates.end(), "xid %u was never used", e->xid);
	return it->second;
}

static Seen
LookStored(const World &w, const vector<const CodecEntry *> &chain, const Snapshot &s)
{
	for (const auto *e : chain)
	{
		CodecKind	kind = CodecEntryKind(e);

		if (kind == CODEC_LOCK || kind == CODEC_CONFIRM)
			continue;
		if (kind == CODEC_KILL || kind == CODEC_DEADSLOT)
			break;
		if (!(e->kind_flags & CODEC_FROZEN) &&
			(FateOf(w, e) != Fate::Committed || !s.Sees(FullOf(w, e->xid))))
			continue;
		if (kind == CODEC_DELETE)
			break;
		return {true, FullOf(w, e->xid), e->cid, e->tag};
	}
	return {};
}

static std::set<Full>
LockersStored(const World &w, const vector<const CodecEntry *> &chain)
{
	std::set<Full> out;

	for (const auto *e : chain)
	{
		CodecKind	kind = CodecEntryKind(e);

		if (kind == CODEC_LOCK && w.running.count(FullOf(w, e->xid)))
			out.insert(FullOf(w, e->xid));
		if ((kind == CODEC_LOCK || kind == CODEC_UPDATE) && (e->kind_flags & CODEC_NO_LOCKERS))
			break;
	}
	return out;
}

static void
CompareRow(const World &w, const RowId &row, const Chain &chain,
		   const vector<const CodecEntry *> &stored)
{
	Snapshot	now = {w.Oldest(), w.next, w.running};
	Full		ended;

	for (size_t i = 0; i <= w.snapshots.size(); i++)
	{
		const Snapshot &s = i < w.snapshots.size() ? w.snapshots[i] : now;
		Seen		want = w.Look(chain, s), got = LookStored(w, stored, s);

		CHECK(want == got, "generation %lu, storage %lu row (%u,%d): snapshot of %lu sees %d %lu/%u/%d "
			  "instead of %d %lu/%u/%d", w.generation, row.storage, row.page, row.slot, s.xmax - FirstXid,
			  got.found, got.xid, got.cid, got.tag, want.found, want.xid, want.cid, want.tag);
	}
	if (w.Look(chain, now).found)
		CHECK(w.Lockers(chain) == LockersStored(w, stored), "row (%u,%d): lockers", row.page, row.slot);
	if (stored.empty())
		CHECK(w.IsDead(chain, &ended) && ended < w.cleaned[row.storage],
			  "generation %lu, storage %lu row (%u,%d) is forgotten before its indexes were cleaned",
			  w.generation, row.storage, row.page, row.slot);
}

static void
CompareWorld(KvDb *db, const World &w)
{
	std::unique_ptr<StoredPage> page;
	uint64_t	storage = 0;
	uint32_t	number = 0;

	for (const auto &row : w.rows)
	{
		if (!page || row.first.storage != storage || row.first.page != number)
		{
			storage = row.first.storage;
			number = row.first.page;
			page.reset(new StoredPage(db, storage, number));
		}
		CompareRow(w, row.first, row.second, page->Row(row.first.slot));
	}
}

/* ---- flush, horizon, compactions ------------------------------------------------------------- */

static KvOptions
Tiny()
{
	KvOptions	o = Small();

	o.target_file_bytes = 8 << 10;
	return o;
}

/* Pages that some flush has written. */
static std::set<std::pair<uint64_t, uint32_t>>
KnownPages(const World &w)
{
	std::set<std::pair<uint64_t, uint32_t>> known;

	for (auto &row : w.rows)
		known.insert({row.first.storage, row.first.page});
	return known;
}

static void
WriteDelta(KvDb *db, const World &w, const std::set<std::pair<uint64_t, uint32_t>> &known)
{
	KvBatch    *b = Begin(db);

	for (auto &page : w.delta)
	{
		string		key = PageKey(page.first.first, page.first.second);
		string		value = EncodePage(page.second);

		if (known.count(page.first))
			Merge(b, key, value);
		else
			Put(b, ORBIT_PG_DATA, key, value);
	}
	shm->inside = 1;

	uint64_t	g = Commit(b);

	shm->inside = 0;
	CHECK(g == w.generation, "generation %lu, the model is at %lu", g, w.generation);
	shm->generation = g;
}

static void
FlushWorld(KvDb *db, World *w)
{
	auto		known = KnownPages(*w);

	w->Step();
	WriteDelta(db, *w, known);
}

/* Fates in chunks, as a KvHorizon wants them; what is complete is given once only. */
struct Publisher
{
	Full		given_base = 0, given_limit = 0;
	std::map<uint64_t, vector<uint8_t>> chunks;
	vector<OrbitStorageId> dead;

	void		operator() (KvDb *db, const World &w, Full base = FirstXid)
	{
		KvHorizon	h = {};
		vector<const uint8_t *> fates;
		vector<KvCleaned> cleaned;
		KvStatus	st;

		for (auto &tx : w.fates)
		{
			auto	   &bits = chunks[tx.first / CODEC_FATES_CHUNK];
			uint32_t	bit = tx.first % CODEC_FATES_CHUNK;

			bits.resize(CODEC_FATES_CHUNK / 8);
			if (tx.second == Fate::Committed)
				bits[bit / 8] |= 1 << bit % 8;
		}
		for (uint64_t c = base / CODEC_FATES_CHUNK; c * CODEC_FATES_CHUNK < w.limit; c++)
		{
			if (base >= w.limit)
				break;

			Full		from = c * CODEC_FATES_CHUNK, to = from + CODEC_FATES_CHUNK;

			chunks[c].resize(CODEC_FATES_CHUNK / 8);
			fates.push_back(given_base <= from && to <= given_limit ? nullptr : chunks[c].data());
		}
		for (uint64_t s = 1; s <= Storages; s++)
			if (w.cleaned[s])
				cleaned.push_back({s, w.cleaned[s]});
		h.h = {w.limit, w.settled, base, fates.data()};
		h.cleaned = cleaned.data();
		h.ncleaned = cleaned.size();
		h.dead = dead.data();
		h.ndead = dead.size();
		KvSetHorizon(db, &h, &st);
		MUST(st);
		given_base = base;
		given_limit = w.limit;
	}
};

static vector<KvFile>
Files(KvDb *db, uint64_t from = 1, uint64_t to = UINT64_MAX)
{
	KvStatus	st;
	KvFile	   *files;
	int			n;

	KvListFiles(db, from, to, &files, &n, &st);
	MUST(st);

	vector<KvFile> out(files, files + n);

	free(files);
	return out;
}

/* True when it is done; the result may be "try again". */
static bool
Poll(KvDb *db, KvStatus *st)
{
	uint64_t	read, written;

	return !KvCompactPoll(db, &read, &written, st);
}

/* Waits for the job and returns its result. */
static KvStatus
Finish(KvDb *db)
{
	KvStatus	st;

	while (!Poll(db, &st))
		usleep(500);
	return st;
}

static KvStatus
CompactJob(KvDb *db, const vector<uint64_t> &numbers, int level = KV_BOTTOM)
{
	KvStatus	st;

	CHECK(KvCompactStart(db, numbers.data(), numbers.size(), level, &st), "not started: %s", st.message);
	return Finish(db);
}

static void
CompactAll(KvDb *db)
{
	vector<uint64_t> numbers;

	for (;;)
	{
		numbers.clear();
		for (auto &f : Files(db))
			numbers.push_back(f.number);
		if (numbers.empty())
			return;

		KvStatus	st = CompactJob(db, numbers);

		if (st.code == KV_OK)
			return;
		EXPECT(st, KV_AGAIN);
		usleep(1000);
	}
}

/* Starts one of a random kind now and then; polls what runs. */
static void
RandomCompaction(KvDb *db, uint64_t g, uint64_t *done, uint64_t *refused)
{
	Dice		dice(g + 1000000);
	KvStatus	st;
	vector<KvFile> files = Files(db);

	if (!Poll(db, &st))
		return;
	*refused += st.code == KV_AGAIN;
	if (st.code != KV_AGAIN)
		MUST(st);
	if (files.empty() || dice.Chance(40))
		return;

	size_t		at = dice(files.size());
	const KvFile &f = files[at];
	vector<uint64_t> numbers = {f.number};
	uint64_t	base = KV_BOTTOM;
	int			level = KV_BOTTOM;

	KvIntProperty(db, ORBIT_PG_DATA, "rocksdb.base-level", &base);
	if (dice.Chance(30))
		level = std::max<int>(base, f.level);
	if (f.level == 0 && dice.Chance(50))
	{
		/* within level 0: with all older ones */
		level = 0;
		for (size_t i = at + 1; i < files.size() && files[i].level == 0; i++)
			numbers.push_back(files[i].number);
	}
	*done += KvCompactStart(db, numbers.data(), numbers.size(), level, &st);
}

/* ---- tests: the model ---------------------------------------------------------------------------- */

static size_t
EntriesStored(KvDb *db, size_t *pages)
{
	KvIter	   *it = Iterate(db, ORBIT_PG_DATA);
	size_t		n = 0;

	*pages = 0;
	for (KvIterSeek(it, "", 0); KvIterValid(it); KvIterNext(it))
	{
		CodecSummary s = {};
		string		value = Value(it);

		CodecSummarize(value.data(), value.size(), &s);
		n += s.entries;
		*pages += s.rows > 0;
	}
	MUST(Status(it));
	KvIterDestroy(it);
	return n;
}

/* When all is over nothing may be left but one frozen version a live row, and what was not cleaned. */
static void
CheckRest(KvDb *db, World *w, Publisher *publish)
{
	Snapshot	now;
	size_t		want = 0, pages;

	w->delta.clear();
	w->generation++;
	while (!w->running.empty())
		w->End(*w->running.begin(), w->running.size() % 2);
	WriteDelta(db, *w, KnownPages(*w));
	w->snapshots.clear();
	w->SetHorizon();
	w->SetHorizon();
	now = {w->next, w->next, {}};
	(*publish)(db, *w);
	CHECK(w->limit == w->next && w->settled == w->next, "the horizon of the end");
	CompactAll(db);
	CompactAll(db);
	for (auto &row : w->rows)
	{
		Full		ended;

		want += !w->IsDead(row.second, &ended) || ended >= w->cleaned[row.first.storage];
	}
	CHECK(EntriesStored(db, &pages) == want, "%zu entries are left instead of %zu",
		  EntriesStored(db, &pages), want);
	for (uint64_t s = 1; s <= Storages; s++)
		w->cleaned[s] = w->limit;
	(*publish)(db, *w);
	CompactAll(db);
	CompactAll(db);
	want = 0;
	for (auto &row : w->rows)
		want += w->Look(row.second, now).found;
	CHECK(EntriesStored(db, &pages) == want, "%zu entries are left instead of %zu rows",
		  EntriesStored(db, &pages), want);
	for (auto &f : Files(db))
		CHECK(f.has_summary && f.summary.unfrozen == 0 && f.summary.doomed == 0 && f.empty == 0 &&
			  f.operands == 0, "left to do in a file of level %d: %lu unfrozen, %lu doomed, %lu empty, "
			  "%lu operands", f.level, f.summary.unfrozen, f.summary.doomed, f.empty, f.operands);
	for (auto &row : w->rows)
	{
		StoredPage	page(db, row.first.storage, row.first.page);

		CHECK(w->Look(row.second, now) == LookStored(*w, page.Row(row.first.slot), now), "row");
	}
}

static void
TestModel()
{
	string		dir = Fresh("model");
	KvDb	   *db = Primary(dir, Tiny()), *reader = nullptr;
	World		w;
	Publisher	publish;
	uint64_t	jobs = 0, refused = 0, reached;
	bool		reopened;
	int			untagged, waiting;
	KvStatus	st;
	KvPruned	pruned;
	size_t		pages;

	for (int i = 0; i < 500 * factor; i++)
	{
		FlushWorld(db, &w);
		if (i % 7 != 0)
			publish(db, w, w.generation % 3 == 0 ? w.limit - (w.limit - FirstXid) / 2 : FirstXid);
		RandomCompaction(db, w.generation, &jobs, &refused);
		if (i % 4 == 0)
			CompareWorld(db, w);
		if (i % 50 == 49)
			Compact(db, ORBIT_PG_DATA);
		KvUnlinkRetired(db, w.generation > 20 ? w.generation - 20 : 0, &untagged, &waiting);
	}
	(void) Finish(db);
	CompareWorld(db, w);
	KvGetPruned(db, &pruned);

	size_t		made = 0, kept = EntriesStored(db, &pages);

	for (auto &row : w.rows)
		made += row.second.size();
	KvClose(db);
	/* a secondary does not prune: it reads what is on disk */
	reader = Secondary(dir, Tiny());
	KvCatchUp(reader, w.generation, &reached, &reopened, &st);
	MUST(st);
	CompareWorld(reader, w);
	KvClose(reader);
	db = Primary(dir, Tiny());
	publish = Publisher();
	CheckRest(db, &w, &publish);
	KvClose(db);
	snprintf(shm->why, sizeof shm->why, "%zu rows, %zu entries made, %zu kept; %lu compactions, %lu jobs, "
			 "%lu refused; %lu pages pruned, %lu removed", w.rows.size(), made, kept, pruned.compactions,
			 jobs, refused, pruned.pages, pruned.removed);
	if (jobs < 50 || pruned.pages < 500 || pruned.removed < 100 || kept > made * 3 / 4)
		_exit(1);				/* too little was done */
}

/* Kills the primary at any moment, mostly while something is compacted. */
static int
TestKills()
{
	string		dir = Fresh("prune_kills");
	int			kills = 40 * factor;

	shm->generation = 0;
	for (int i = 0; i <= kills; i++)
	{
		shm->ready = 0;

		pid_t		pid = Child([&] {
			KvDb	   *db = Primary(dir, Tiny());
			World		w;
			Publisher	publish;
			uint64_t	jobs = 0, refused = 0;
			int			untagged, waiting;

			CHECK(Generation(db, ORBIT_PG_DATA) >= shm->generation, "an acknowledged flush is gone");
			w.To(Generation(db, ORBIT_PG_DATA));
			CompareWorld(db, w);
			publish(db, w);
			if (i == kills)
			{
				CheckRest(db, &w, &publish);
				KvClose(db);
				return;
			}
			shm->ready = 1;
			for (;;)
			{
				FlushWorld(db, &w);
				publish(db, w);
				RandomCompaction(db, w.generation, &jobs, &refused);
				KvUnlinkRetired(db, UINT64_MAX, &untagged, &waiting);
			}
		});

		if (i == kills)
			return Wait(pid);
		while (!shm->ready)
		{
			if (waitpid(pid, nullptr, WNOHANG) != 0)
				return 1;
			usleep(200);
		}
		usleep(Hash(i, 11) % 80000);
		kill(pid, SIGKILL);
		waitpid(pid, nullptr, 0);
	}
	return 0;
}

/* ---- tests: single things ---------------------------------------------------------------------------- */

/* One committed version for each slot 1..rows of pages first..last. */
static void
PutPages(KvBatch *b, uint64_t storage, uint32_t first, uint32_t last, int rows, Full xid)
{
	for (uint32_t p = first; p <= last; p++)
	{
		std::map<int, Chain> page;

		for (int slot = 1; slot <= rows; slot++)
			page[slot] = {{CODEC_INSERT, xid, p * 1000 + slot, 0, 0}};
		Put(b, ORBIT_PG_DATA, PageKey(storage, p), EncodePage(page));
	}
}

static void
MergeEntry(KvBatch *b, uint64_t storage, uint32_t p, int slot, Entry e)
{
	std::map<int, Chain> page;

	page[slot] = {e};
	Merge(b, PageKey(storage, p), EncodePage(page));
}

/* Everybody before `limit` has ended, and committed unless in aborted. */
static void
PublishSimple(KvDb *db, Full limit, Full settled, Full base, std::set<Full> aborted = {},
			  vector<OrbitStorageId> dead = {}, vector<KvCleaned> cleaned = {})
{
	vector<vector<uint8_t>> chunks;
	vector<const uint8_t *> fates;
	KvHorizon	h = {};
	KvStatus	st;

	for (uint64_t c = base / CODEC_FATES_CHUNK; c * CODEC_FATES_CHUNK < limit; c++)
	{
		chunks.emplace_back(CODEC_FATES_CHUNK / 8, 0xff);
		for (Full xid : aborted)
			if (xid / CODEC_FATES_CHUNK == c)
				chunks.back()[xid % CODEC_FATES_CHUNK / 8] &= ~(1 << xid % 8);
	}
	for (auto &c : chunks)
		fates.push_back(c.data());
	h.h = {limit, settled, base, fates.data()};
	h.dead = dead.data();
	h.ndead = dead.size();
	h.cleaned = cleaned.data();
	h.ncleaned = cleaned.size();
	KvSetHorizon(db, &h, &st);
	MUST(st);
}

static KvFile
Only(const vector<KvFile> &files)
{
	CHECK(files.size() == 1, "%zu files instead of one", files.size());
	return files[0];
}

static void
TestFiles()
{
	string		dir = Fresh("files");
	KvDb	   *db = Primary(dir);
	KvBatch    *b = Begin(db);
	KvFile		f;
	KvStatus	st;
	uint64_t	reached;
	bool		reopened;

	CHECK(Files(db).empty(), "files of an empty database");
	PutPages(b, 7, 3, 5, 4, 100);
	KvBatchSplit(b, ORBIT_PG_DATA, &st);
	PutPages(b, 9, 1, 1, 2, 100);
	PutPages(b, 12, 0, 8, 1, 100);
	Commit(b);
	b = Begin(db);
	MergeEntry(b, 7, 4, 2, {CODEC_DELETE, 120, 1, 0, CODEC_KEYS_UPDATED});
	MergeEntry(b, 7, 5, 1, {CODEC_LOCK, 110, 2, 0, 0});
	Commit(b);

	KvDb	   *reader = Secondary(dir);

	for (KvDb *d : {db, reader})
	{
		KvCatchUp(d, 2, &reached, &reopened, &st);
		MUST(st);
		CHECK(Files(d).size() == 3, "%zu files", Files(d).size());
		CHECK(Files(d, 1, 6).empty() && Files(d, 8, 8).empty() && Files(d, 13).empty(),
			  "files outside the range");
		CHECK(Files(d, 10, 11).size() == 1, "a file may hold a storage between its ends");
		f = Only(Files(d, 8, 12));
		CHECK(f.level == KV_BOTTOM && f.first_storage == 9 && f.last_storage == 12 && f.first_page == 1 &&
			  f.last_page == 8 && f.has_summary && f.bytes > 0, "ends of a file");
		CHECK(f.summary.pages == 10 && f.summary.rows == 11 && f.summary.entries == 11 &&
			  f.summary.unfrozen == 11 && f.summary.doomed == 0 && f.operands == 0, "a file of new pages");
		f = Files(d, 7, 7)[0];
		CHECK(f.level == 0 && f.operands == 2 && f.operand_bytes == f.summary.bytes && f.summary.pages == 2 &&
			  f.summary.deletes == 1 && f.summary.entries == 2 && f.summary.doomed == 2 &&
			  f.summary.oldest_unfrozen == 110 && f.summary.newest_unfrozen == 120, "a file of deltas");
	}
	KvClose(reader);

	/* the row is dead, then forgotten; the page of the lock becomes one frozen page */
	PublishSimple(db, 200, 200, 3);
	MUST(CompactJob(db, {Files(db, 7, 7)[0].number}));
	f = Only(Files(db, 7, 7));
	CHECK(f.level == KV_BOTTOM && f.summary.rows == 12 && f.summary.entries == 12 &&
		  f.summary.unfrozen == 0 && f.summary.deadslots == 1 && f.operands == 0, "after the compaction: %lu rows, %lu entries, "
		  "%lu unfrozen, %lu dead slots", f.summary.rows, f.summary.entries, f.summary.unfrozen,
		  f.summary.deadslots);
	CHECK(f.cleaned_slots == 0, "a dead slot that may go");
	PublishSimple(db, 200, 200, 3, {}, {}, {{7, 120}, {9, 200}});
	CHECK(Only(Files(db, 7, 7)).cleaned_slots == 0, "cleaned too early");
	PublishSimple(db, 200, 200, 3, {}, {}, {{7, 121}});
	CHECK(Only(Files(db, 7, 7)).cleaned_slots == 1, "a dead slot that may go");
	MUST(CompactJob(db, {f.number}));
	f = Only(Files(db, 7, 7));
	CHECK(f.summary.rows == 11 && f.summary.deadslots == 0, "the dead slot is left");
	EXPECT(CompactJob(db, {99999}), KV_AGAIN);
	KvClose(db);
}

/* A page that cannot be read makes its file's summary unknown, and stays as it is. */
static void
TestDamagedPage()
{
	string		dir = Fresh("damaged_page"), value;
	KvDb	   *db = Primary(dir);
	KvBatch    *b = Begin(db);
	KvPruned	pruned;

	PutPages(b, 1, 1, 5, 5, 100);
	Put(b, ORBIT_PG_DATA, PageKey(1, 6), "garbage");
	Commit(b);
	CHECK(!Only(Files(db)).has_summary, "a summary of what could not be read");
	PublishSimple(db, 200, 200, 3);
	MUST(CompactJob(db, {Only(Files(db)).number}));
	MUST(Get(db, ORBIT_PG_DATA, PageKey(1, 6), &value));
	CHECK(value == "garbage", "a damaged page was changed");
	KvGetPruned(db, &pruned);
	CHECK(pruned.damaged == 1 && pruned.pages == 5, "%lu damaged, %lu pruned", pruned.damaged, pruned.pages);
	CHECK(!Only(Files(db)).has_summary, "a summary of what could not be read");
	KvClose(db);
}

/* Very many small storages in one file, dead ones among them. */
static void
TestManyStorages()
{
	string		dir = Fresh("many");
	KvOptions	o = Small();
	KvDb	   *db;
	KvBatch    *b;
	KvFile		f;
	string		value;
	uint64_t	all = 0;

	o.target_file_bytes = 64 << 20;
	db = Primary(dir, o);
	b = Begin(db);
	for (uint64_t s = 10; s < 5010; s++)
		PutPages(b, s, 1, 1, 1, 100);
	Commit(b);
	f = Only(Files(db));
	all = f.summary.bytes;
	CHECK(f.summary.pages == 5000 && f.dropped_bytes == 0, "one file");
	PublishSimple(db, 200, 200, 3, {}, {10, 2500, 2501, 5009, 6000});
	f = Only(Files(db));
	CHECK(f.dropped_bytes > all / 5000 && f.dropped_bytes < all / 500, "%lu of %lu bytes are dead",
		  f.dropped_bytes, all);
	b = Begin(db);
	MergeEntry(b, 10, 1, 1, {CODEC_LOCK, 110, 2, 0, 0});
	MergeEntry(b, 11, 1, 1, {CODEC_LOCK, 110, 2, 0, 0});
	Commit(b);
	CompactAll(db);
	for (uint64_t s : {10, 2500, 2501, 5009})
		EXPECT(Get(db, ORBIT_PG_DATA, PageKey(s, 1), &value), KV_NOT_FOUND);
	for (uint64_t s : {11, 2499, 2502, 5008})
		MUST(Get(db, ORBIT_PG_DATA, PageKey(s, 1), &value));
	CHECK(Scan(db, ORBIT_PG_DATA).size() == 4996 * 13, "pages of others are gone");
	KvClose(db);
}

/* Whole files go at once; other storages keep theirs. */
static void
TestDrop()
{
	const OrbitStorageId dropped = 2;
	string		dir = Fresh("drop"), value;
	KvDb	   *db = Primary(dir);
	KvBatch    *b = Begin(db);
	KvStatus	st;

	for (uint64_t s : {1, 2, 3})
	{
		PutPages(b, s, 1, 200, 20, 100);
		KvBatchSplit(b, ORBIT_PG_DATA, &st);
	}
	Commit(b);
	b = Begin(db);
	MergeEntry(b, 1, 5, 1, {CODEC_LOCK, 110, 2, 0, 0});
	MergeEntry(b, 2, 5, 1, {CODEC_LOCK, 110, 2, 0, 0});
	Commit(b);
	CHECK(Files(db, 2, 2).size() > 3, "%zu files", Files(db, 2, 2).size());
	KvDropStorages(db, &dropped, 1, &st);
	MUST(st);
	CHECK(Only(Files(db, 2, 2)).operands == 2, "files of the dropped storage");
	for (uint64_t s : {1, 3})
		MUST(Get(db, ORBIT_PG_DATA, PageKey(s, 7), &value));
	EXPECT(Get(db, ORBIT_PG_DATA, PageKey(2, 7), &value), KV_NOT_FOUND);
	PublishSimple(db, 105, 105, 3, {}, {2});
	CompactAll(db);
	CHECK(Files(db, 2, 2).empty(), "the delta of a dead storage");
	MUST(Get(db, ORBIT_PG_DATA, PageKey(1, 5), &value));
	KvClose(db);
}

static void
TestHorizonRefusals()
{
	string		dir = Fresh("horizons");
	KvDb	   *db = Primary(dir), *reader;
	KvHorizon	h = {};
	KvStatus	st;
	vector<uint8_t> bits(CODEC_FATES_CHUNK / 8);
	const uint8_t *three[] = {bits.data(), bits.data(), bits.data()};
	const uint8_t *none[] = {nullptr, nullptr, nullptr};
	const uint8_t *last[] = {nullptr, nullptr, bits.data()};

	/* a chunk that was not complete must come again */
	h.h = {2 * CODEC_FATES_CHUNK + 5, 100, 50, three};
	KvSetHorizon(db, &h, &st);
	MUST(st);
	h.h.fates = none;
	KvSetHorizon(db, &h, &st);
	EXPECT(st, KV_INVALID);
	h.h.fates = last;
	KvSetHorizon(db, &h, &st);
	EXPECT(st, KV_INVALID);		/* nor was the first one */
	h.h.base = CODEC_FATES_CHUNK;
	h.h.fates = last + 1;
	KvSetHorizon(db, &h, &st);
	MUST(st);
	h.h.limit -= 1;
	KvSetHorizon(db, &h, &st);
	EXPECT(st, KV_INVALID);
	h.h.limit += 1;
	h.h.settled = 99;
	KvSetHorizon(db, &h, &st);
	EXPECT(st, KV_INVALID);
	h.h.settled = h.h.limit + 1;
	KvSetHorizon(db, &h, &st);
	EXPECT(st, KV_INVALID);
	KvClose(db);
	reader = Secondary(dir);
	h.h.settled = 100;
	KvSetHorizon(reader, &h, &st);
	EXPECT(st, KV_INVALID);
	CHECK(!KvCompactStart(reader, &h.h.limit, 1, KV_BOTTOM, &st), "a job in a secondary");
	EXPECT(st, KV_INVALID);
	KvClose(reader);
}

/*
 * Outputs are cut by size and at storages, and compressed as their level wants it.  One job at a
 * time; closing cancels it, and nothing is lost.
 */
static void
TestJobs()
{
	string		dir = Fresh("jobs"), value;
	KvDb	   *db = Primary(dir);
	KvBatch    *b = Begin(db);
	KvStatus	st;
	vector<uint64_t> numbers;
	uint64_t	read, written;

	for (uint64_t s = 1; s <= 4; s++)
		PutPages(b, s, 1, 500, 20, 100);
	Commit(b);
	b = Begin(db);
	for (uint64_t s = 1; s <= 4; s++)
		for (uint32_t p = 1; p <= 500; p += 2)
			MergeEntry(b, s, p, 1, {CODEC_UPDATE, 110, 2, 1, CODEC_NO_LOCKERS});
	Commit(b);
	PublishSimple(db, 200, 200, 3);
	for (auto &f : Files(db))
		numbers.push_back(f.number);
	CHECK(KvCompactStart(db, numbers.data(), numbers.size(), KV_BOTTOM, &st), "start");
	CHECK(!KvCompactStart(db, numbers.data(), numbers.size(), KV_BOTTOM, &st) && st.code == KV_OK,
		  "a second one");
	while (KvCompactPoll(db, &read, &written, &st))
		usleep(500);
	MUST(st);
	CHECK(!KvCompactPoll(db, &read, &written, &st) && read == 0, "a result twice");
	for (auto &f : Files(db))
	{
		CHECK(f.level == KV_BOTTOM && f.first_storage == f.last_storage, "a file is of storages %lu to %lu",
			  f.first_storage, f.last_storage);
		CHECK(f.bytes < 2 * (64 << 10), "a file of %lu bytes", f.bytes);
		CHECK(f.summary.unfrozen == 0 && f.summary.doomed == 0, "something was left");
	}
	CHECK(Files(db).size() > 12, "%zu files", Files(db).size());

	/* cancelled in the middle, again and again */
	for (int i = 0; i < 10; i++)
	{
		numbers.clear();
		for (auto &f : Files(db))
			numbers.push_back(f.number);
		CHECK(KvCompactStart(db, numbers.data(), numbers.size(), KV_BOTTOM, &st), "start: %s", st.message);
		usleep(Hash(i, 77) % 20000);
		KvClose(db);
		db = Primary(dir);
		for (uint32_t p = 1; p <= 500; p += 50)
			for (uint64_t s = 1; s <= 4; s++)
				MUST(Get(db, ORBIT_PG_DATA, PageKey(s, p), &value));
	}
	KvClose(db);
}

/* With no room a job fails and the old files stay; with room it succeeds. */
static void
TestFullDisk()
{
	string		dir = Fresh("full_job");
	KvStatus	st = {};

	if (!MountSmall(dir, "size=12m"))
	{
		snprintf(shm->why, sizeof shm->why, "cannot mount a file system here");
		_exit(Skip);
	}

	KvDb	   *db = Primary(dir);
	int			fd = open((dir + "/filler").c_str(), O_CREAT | O_WRONLY, 0600);
	KvBatch    *b = Begin(db);
	string		noise(8192, 'x'), value;
	int			refused = 0;

	PutPages(b, 1, 1, 400, 20, 100);
	Commit(b);
	PublishSimple(db, 200, 200, 3);
	for (int room = 0; room <= 400; room += 40)
	{
		vector<uint64_t> numbers;

		for (auto &f : Files(db))
			numbers.push_back(f.number);
		lseek(fd, 0, SEEK_END);
		while (write(fd, noise.data(), noise.size()) == static_cast<ssize_t>(noise.size()))
			;
		off_t		size = lseek(fd, 0, SEEK_END);

		CHECK(ftruncate(fd, size - room * 1024) == 0, "truncate");
		st = CompactJob(db, numbers);
		CHECK(st.code == KV_OK || st.code == KV_NO_SPACE, "code %d: %s", st.code, st.message);
		refused += st.code == KV_NO_SPACE;
		CHECK(ftruncate(fd, 0) == 0, "truncate");
		KvResume(db, &st);
		MUST(st);
		for (uint32_t p = 1; p <= 400; p += 7)
			MUST(Get(db, ORBIT_PG_DATA, PageKey(1, p), &value));
	}
	CHECK(refused > 2, "only %d jobs met a full disk", refused);
	CompactAll(db);
	Commit(Begin(db));
	KvClose(db);
	umount2(dir.c_str(), MNT_DETACH);
}

/* Bytes of files that this process holds open though they have been deleted. */
static uint64_t
HeldBytes()
{
	uint64_t	bytes = 0;

	for (auto &fd : List("/proc/self/fd", ""))
	{
		string		path = "/proc/self/fd/" + fd;
		char		target[4096];
		ssize_t		n = readlink(path.c_str(), target, sizeof target);
		struct stat s;

		if (n > 10 && string(target, n).find(".sst (deleted)") != string::npos &&
			stat(path.c_str(), &s) == 0)
			bytes += s.st_blocks * 512;
	}
	return bytes;
}

/* A reader that sleeps keeps no space; a file that a snapshot links to keeps its bytes. */
static int
TestIdleReader()
{
	string		dir = Fresh("idle"), copy = Fresh("idle_copy"), live = copy + "/pgsql_tmp_live";
	pid_t		reader;
	int			result;

	shm->ready = shm->stop = 0;
	result = Wait(Child([&] {
		KvDb	   *db = Primary(dir);
		KvBatch    *b = Begin(db);

		PutPages(b, 1, 1, 600, 20, 100);
		Commit(b);
		CHECK(mkdir(live.c_str(), 0700) == 0, "mkdir");
		MUST(MakeSnapshot(db, live, live));
		PublishSimple(db, 200, 200, 3);
		CompactAll(db);
		Commit(Begin(db));
		KvClose(db);
	}));
	if (result != 0)
		return result;
	reader = Child([&] {
		KvDb	   *db = Secondary(dir);
		string		value;

		for (uint32_t p = 1; p <= 600; p++)
			MUST(Get(db, ORBIT_PG_DATA, PageKey(1, p), &value));
		shm->ready = 1;
		while (!shm->stop)
			usleep(1000);
		CHECK(HeldBytes() == 0, "%lu bytes of deleted files are held", HeldBytes());

		uint64_t	reached;
		bool		reopened;
		KvStatus	st;

		KvCatchUp(db, shm->generation, &reached, &reopened, &st);
		MUST(st);
		for (uint32_t p = 1; p <= 600; p++)
			MUST(Get(db, ORBIT_PG_DATA, PageKey(1, p), &value));
		KvClose(db);
	});
	while (!shm->ready && waitpid(reader, nullptr, WNOHANG) == 0)
		usleep(1000);
	result = Wait(Child([&] {
		KvDb	   *db = Primary(dir);
		int			untagged, waiting;

		PublishSimple(db, 200, 200, 3);
		CompactAll(db);
		shm->generation = Commit(Begin(db));
		shm->generation = Commit(Begin(db));
		KvUnlinkRetired(db, UINT64_MAX, &untagged, &waiting);
		CHECK(waiting == 0, "%d files wait", waiting);
		KvClose(db);
	}));
	shm->stop = 1;
	result |= Wait(reader);
	return result || Wait(Child([&] {
		KvDb	   *db = Primary(copy);
		string		value;

		for (uint32_t p = 1; p <= 600; p++)
			MUST(Get(db, ORBIT_PG_DATA, PageKey(1, p), &value));
		KvClose(db);
	}));
}

int
main(int argc, char **argv)
{
	Setup(argc, argv);
	seed = argc > 3 ? atoi(argv[3]) : 1;
	printf("1..10\n");
	Report("files: list, summaries, dead slots", Wait(Child(TestFiles)));
	Report("a damaged page", Wait(Child(TestDamagedPage)));
	Report("very many storages, dead ones among them", Wait(Child(TestManyStorages)));
	Report("a dropped storage", Wait(Child(TestDrop)));
	Report("horizons that are refused", Wait(Child(TestHorizonRefusals)));
	Report("jobs: sizes, one at a time, cancelled by closing", Wait(Child(TestJobs)));
	Report("a job on a full disk", Wait(Child(TestFullDisk)));
	Report("an idle reader holds no space", TestIdleReader());
	Report("the model", Wait(Child(TestModel)));
	printf("# %s\n", shm->why);
	Report("kill -9 at any moment", TestKills());
	return Finish(argc);
}
