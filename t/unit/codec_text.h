/*
 * codec_text.h: chains of entries as text, for codec_prune_test.c and codec_summary_test.c.
 *
 * The newest entry comes first; parts are divided by a bar, the newest first:
 *
 *   "U30n L120 | D20 I10"
 *
 * I INSERT, U UPDATE, D DELETE, L LOCK, C CONFIRM, K KILL, X dead slot, and the number of the
 * transaction; then flags: n no lockers, s speculative, m a delete mark that names a new row,
 * * frozen.
 */
#ifndef CODEC_TEXT_H
#define CODEC_TEXT_H

#include <string.h>

#include "codec/codec.h"
#include "codec_tap.h"

#define SLOT		5			/* of the chain on a page that has only one */
#define TEXT		512

/* ---- chains as text ---------------------------------------------------- */

static uint64_t origin;			/* full xid of transaction 0 */

/* Places in the circle of xids where cases are run. */
static const uint64_t origins[] = {
	1000,
	UINT64_C(3) * CODEC_FATES_CHUNK - 50,
	(UINT64_C(1) << 31) - 50,
	(UINT64_C(1) << 32) - 1000,
	(UINT64_C(7) << 32) - 63,	/* 66 is xid 3 */
	(UINT64_C(5) << 32) + (UINT64_C(1) << 31) - 30,
};

#define NORIGINS	(sizeof(origins) / sizeof(origins[0]))

typedef union TestEntry
{
	CodecEntry	e;
	char		room[CODEC_ENTRY_HEADER + 64];
} TestEntry;

static inline uint32_t
ImageLength(uint32_t n)
{
	return 5 + n % 17;
}

/* All but the header follows from the transaction's number. */
static inline void
FillPayload(TestEntry *t, uint32_t n)
{
	switch (CodecEntryKind(&t->e))
	{
		case CODEC_INSERT:
		case CODEC_UPDATE:
			t->e.len = ImageLength(n) + ((t->e.kind_flags & CODEC_SPECULATIVE) ? 4 : 0);
			break;
		case CODEC_DELETE:
			t->e.len = sizeof(CodecDelete);
			break;
		default:
			t->e.len = 0;
			break;
	}
	for (uint32_t i = 0; i < t->e.len; i++)
		t->room[CODEC_ENTRY_HEADER + i] = (char) (n * 7 + i + 1);
}

static const char kinds[] = "?IUDLCKX";
static const struct
{
	char		letter;
	uint8_t		flag;
}			flags[] = {
	{'n', CODEC_NO_LOCKERS}, {'s', CODEC_SPECULATIVE}, {'m', CODEC_KEYS_UPDATED}, {'*', CODEC_FROZEN}
};

static inline const char *
ParseEntry(const char *s, TestEntry *t)
{
	uint32_t	n;
	uint64_t	full;
	char	   *end;

	memset(t, 0, sizeof(*t));
	t->e.kind_flags = (uint8_t) (strchr(kinds, *s) - kinds);
	n = (uint32_t) strtoul(s + 1, &end, 10);
	full = origin + n;
	t->e.xid = (uint32_t) full;
	t->e.cid = CodecEntryKind(&t->e) == CODEC_DEADSLOT ? (uint32_t) (full >> 32) : n % 3;
	if (CodecEntryKind(&t->e) == CODEC_UPDATE)
		t->e.tag = (uint8_t) (1 + n % 200);
	for (s = end; *s != '\0' && *s != ' '; s++)
	{
		for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
			t->e.kind_flags |= *s == flags[i].letter ? flags[i].flag : 0;
	}
	FillPayload(t, n);
	return s;
}

/* One page with the chain on one slot; without entries an empty page. */
static inline bool
ParsePart(const char **s, CodecBuf *out)
{
	CodecBuilder b;
	bool		ok;

	CodecBuildBegin(&b, out);
	ok = CodecBuildChain(&b, SLOT);
	for (; **s != '\0' && **s != '|'; (*s)++)
	{
		TestEntry	t;

		if (**s == ' ')
			continue;
		*s = ParseEntry(*s, &t) - 1;
		ok = ok && CodecBuildEntry(&b, &t.e);
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	return ok;
}

static inline int
ParseParts(const char *s, CodecBuf *pages)
{
	int			n = 0;

	for (;;)
	{
		pages[n].len = 0;
		if (!ParsePart(&s, &pages[n]))
			abort();
		n++;
		if (*s == '\0')
			return n;
		s++;
	}
}

/* The number, or "?" when the payload is not what it should be. */
static inline void
PrintEntry(char *text, const CodecEntry *e)
{
	TestEntry	want = {{0}};
	bool		dead = CodecEntryKind(e) == CODEC_DEADSLOT;
	uint32_t	n = dead ? (uint32_t) (CodecDeadSlotXid(e) - origin) : e->xid - (uint32_t) origin;

	want.e.kind_flags = e->kind_flags;
	FillPayload(&want, n);
	text += strlen(text);
	text += sprintf(text, "%c%u", kinds[CodecEntryKind(e)], n);
	for (size_t i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
	{
		if (e->kind_flags & flags[i].flag)
			*text++ = flags[i].letter;
	}
	if (want.e.len != e->len || memcmp(want.e.payload, e->payload, e->len) != 0 ||
		(!dead && e->cid != n % 3))
		*text++ = '?';
	strcpy(text, " ");
}

static inline const char *
PrintPage(char *text, const CodecBuf *page)
{
	CodecPage	p;
	int			slot;

	text[0] = '\0';
	if (!CodecPageOpen(&p, page->data, page->len) || p.nchains > 1)
		return strcpy(text, "not a page");
	if (p.nchains == 0)
		return text;
	for (const CodecEntry *e = CodecPageChain(&p, 0, &slot); e != NULL; e = CodecPageOlder(&p, 0, e))
		PrintEntry(text, e);
	if (slot != SLOT)
		return strcpy(text, "another slot");
	text[strlen(text) - 1] = '\0';
	return text;
}

/* Slots 1 to n; the chain of slot s is texts[s % ntexts]. */
static inline void
BuildPage(int n, const char *const *texts, int ntexts, CodecBuf *out)
{
	CodecBuilder b;
	bool		ok = true;

	CodecBuildBegin(&b, out);
	for (int slot = 1; slot <= n; slot++)
	{
		const char *s = texts[slot % ntexts];

		ok = ok && CodecBuildChain(&b, slot);
		while (*s != '\0')
		{
			TestEntry	t;

			s = ParseEntry(s, &t);
			s += *s == ' ';
			ok = ok && CodecBuildEntry(&b, &t.e);
		}
	}
	ok = ok && CodecBuildFinish(&b);
	CodecBuildFree(&b);
	if (!ok)
		abort();
}

#endif							/* CODEC_TEXT_H */
