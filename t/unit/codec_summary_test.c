/*
 * codec_summary_test.c: what CodecSummarize counts.  Prints TAP.
 */
#include "codec_text.h"

/* ---- summaries --------------------------------------------------------- */

typedef struct SumCase
{
	const char *chain;
	uint64_t	entries;
	uint64_t	doomed;
	uint64_t	deletes;
	uint64_t	deadslots;
	uint64_t	unfrozen;
	uint32_t	oldest;
	uint32_t	newest;
} SumCase;

static const SumCase sums[] = {
	{"I10", 1, 0, 0, 0, 1, 10, 10},
	{"I10*", 1, 0, 0, 0, 0, 0, 0},
	{"U30 U20 I10", 3, 2, 0, 0, 3, 10, 30},
	{"U30 U20*", 2, 1, 0, 0, 1, 30, 30},
	{"L40 U20*", 2, 1, 0, 0, 1, 40, 40},
	{"L40 L12 U20 L62", 4, 3, 0, 0, 4, 12, 62},
	{"D30 I10", 2, 2, 1, 0, 2, 10, 30},
	{"D30*", 1, 1, 1, 0, 0, 0, 0},
	{"D30* I10", 2, 2, 1, 0, 1, 10, 10},
	{"X30", 1, 1, 0, 1, 0, 0, 0},
	{"L40 X30", 2, 2, 0, 1, 1, 40, 40},
	{"C10 I10s", 2, 1, 0, 0, 2, 10, 10},
	{"K10 I10s", 2, 2, 0, 0, 2, 10, 10},
};

#define NSUMS	(sizeof(sums) / sizeof(sums[0]))

static bool
SameSum(const SumCase *c, uint64_t bytes, const CodecSummary *s)
{
	return s->pages == 1 && s->rows == 1 && s->entries == c->entries && s->doomed == c->doomed &&
		s->bytes == bytes && s->deletes == c->deletes && s->deadslots == c->deadslots &&
		s->unfrozen == c->unfrozen &&
		(c->unfrozen == 0 || (s->oldest_unfrozen == (uint32_t) (origin + c->oldest) &&
							  s->newest_unfrozen == (uint32_t) (origin + c->newest)));
}

static void
TestSummaries(void)
{
	bool		each = true;
	bool		whole = true;

	for (size_t k = 0; k < NORIGINS; k++)
	{
		CodecSummary all = {0};
		CodecSummary sum = {0};
		CodecBuf	page = {0};
		const char *texts[NSUMS];

		origin = origins[k];
		for (size_t i = 0; i < NSUMS; i++)
		{
			CodecSummary one = {0};
			const char *s = sums[i].chain;

			texts[i] = s;
			page.len = 0;
			if (!ParsePart(&s, &page))
				abort();
			CodecSummarize(page.data, page.len, &one);
			CodecSummarize(page.data, page.len, &sum);
			if (!SameSum(&sums[i], page.len, &one))
				printf("# %s, origin %llx\n", sums[i].chain, (unsigned long long) origin);
			each = each && SameSum(&sums[i], page.len, &one);
		}
		page.len = 0;
		BuildPage(NSUMS, texts, NSUMS, &page);
		CodecSummarize(page.data, page.len, &all);
		whole = whole && all.pages == 1 && sum.pages == NSUMS && all.rows == NSUMS &&
			all.entries == sum.entries && all.doomed == sum.doomed &&
			all.doomed_bytes == sum.doomed_bytes && all.deletes == sum.deletes &&
			all.deadslots == sum.deadslots && all.unfrozen == sum.unfrozen &&
			all.oldest_unfrozen == (uint32_t) (origin + 10) &&
			all.newest_unfrozen == (uint32_t) (origin + 62) &&
			sum.oldest_unfrozen == all.oldest_unfrozen && sum.newest_unfrozen == all.newest_unfrozen;
		CodecBufFree(&page);
	}
	Ok(each, "summary: of single chains, in every place of the circle");
	Ok(whole, "summary: of many, on one page and added up");
}

static void
TestSummaryMore(void)
{
	CodecSummary sum = {0};
	CodecSummary empty = {0};
	CodecBuf	page = {0};
	const char *s = "D30 I10 L20";
	TestEntry	t;
	CodecBuilder b;

	origin = 1000;
	if (!ParsePart(&s, &page))
		abort();
	CodecSummarize(page.data, page.len - 8, &sum);
	CodecSummarize(NULL, 0, &sum);
	page.data[0] ^= 1;
	CodecSummarize(page.data, page.len, &sum);
	Ok(memcmp(&sum, &empty, sizeof(sum)) == 0, "summary: damage counts nothing");
	page.data[0] ^= 1;
	CodecSummarize(page.data, page.len, &sum);
	Ok(sum.doomed_bytes == page.len - 16, "summary: doomed bytes are those of the nodes");

	memset(&sum, 0, sizeof(sum));
	page.len = 0;
	ParseEntry("I10", &t);
	t.e.xid = 2;
	CodecBuildBegin(&b, &page);
	if (!CodecBuildChain(&b, 1) || !CodecBuildEntry(&b, &t.e) || !CodecBuildFinish(&b))
		abort();
	CodecBuildFree(&b);
	CodecSummarize(page.data, page.len, &sum);
	Ok(sum.entries == 1 && sum.unfrozen == 0, "summary: xids that mean no transaction hold nothing up");
	CodecBufFree(&page);
}

int
main(void)
{
	TestSummaries();
	TestSummaryMore();
	printf("1..%d\n", tests);
	return failures > 0;
}
